//! `config.json` of `LlamaForCausalLM`, both ways, and what other classes have in common with it.

use serde_json::{Map, Value, json};

use crate::arch::{Arch, Norm, NormPlace, Positions, QkNorm};
use crate::blocks::activations::Activation;
use crate::families::hugging_face::{
    Format, Key, OWN_SCALE, Reader, Says, TWO_BASES, absent, decimal, rope,
};

/// How Hugging Face writes Llama models.
pub const FORMAT: Format = Format {
    architecture: "LlamaForCausalLM",
    keys: &[
        BODY,
        &[
            ("attention_bias", Says::Model),
            ("hidden_act", Says::Model),
            ("max_sequence_length", Says::Nothing), // In the first published files; read by nothing.
            ("mlp_bias", Says::Model),
            ("pretraining_tp", Says::Nothing), // In how many parts a matmul is computed: the same sum.
        ],
    ],
    read,
    write,
    lacks,
    buffers: &[".rotary_emb.inv_freq"],
};

/// Keys that all classes with Llama's names have.
pub const BODY: &[Key] = &[
    ("attention_dropout", Says::Model),
    ("head_dim", Says::Model),
    ("hidden_size", Says::Model),
    ("intermediate_size", Says::Model),
    ("max_position_embeddings", Says::Model),
    ("num_attention_heads", Says::Model),
    ("num_hidden_layers", Says::Model),
    ("num_key_value_heads", Says::Model),
    ("partial_rotary_factor", Says::Only(&["1.0", "1"])),
    ("rms_norm_eps", Says::Model),
    ("rope_parameters", Says::Model),
    ("rope_scaling", Says::Model),
    ("rope_theta", Says::Model),
    ("tie_word_embeddings", Says::Model),
    ("vocab_size", Says::Model),
];

/// What a class takes where its file says nothing.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Layers.
    pub layers: u64,
    /// Rows of the embedding.
    pub vocab: u64,
    /// Width of the model.
    pub hidden: u64,
    /// Attention heads.
    pub heads: u64,
    /// Key-value heads, if not as many as heads.
    pub kv_heads: Option<u64>,
    /// Dims of a head, if not its share of the width.
    pub head_dim: Option<u64>,
    /// Width of the MLP.
    pub ffn: u64,
    /// Positions.
    pub positions: u64,
    /// Epsilon of norms.
    pub eps: f64,
}

/// Defaults of Hugging Face's `LlamaConfig`, whose files leave out what is default.
const DEFAULTS: Defaults = Defaults {
    layers: 32,
    vocab: 32000,
    hidden: 4096,
    heads: 32,
    kv_heads: None,
    head_dim: None,
    ffn: 11008,
    positions: 2048,
    eps: 1e-6,
};

/// What Hugging Face calls the activation of each gate that GPT-NeoX has.
const GATES: [(Activation, &str, &str); 4] = [
    (Activation::Silu, "silu", "swiglu"),
    (Activation::Gelu, "gelu", "geglu"),
    (Activation::GeluTanh, "gelu_pytorch_tanh", "geglu_tanh"),
    (Activation::Relu, "relu", "reglu"),
];

/// Reads [`BODY`]; biases and the activation are the class's own.
pub fn read_body(r: &mut Reader<'_>, d: &Defaults) {
    read_sizes(r, d);
    let (base, part) = r.rotary(&["rope_theta"], None, (10_000.0, 1.0));
    set_rotary(r, base, part);
    read_tied(r, false);
}

/// Sets rotary positions of whole heads.
pub fn set_rotary(r: &mut Reader<'_>, base: f64, part: f64) {
    if part != 1.0 {
        r.refuse("rope_parameters", "all dims of a head rotate");
    }
    r.set("pos_emb", "rotary");
    r.set("rotary_pct", "1.0");
    r.set("rotary_emb_base", base as u64);
}

/// Reads whether the head is the embedding.
pub fn read_tied(r: &mut Reader<'_>, default: bool) {
    let tied = r.flag("tie_word_embeddings", default);
    r.set("no_weight_tying", !tied);
}

/// Reads [`BODY`] without positions and head.
pub fn read_sizes(r: &mut Reader<'_>, d: &Defaults) {
    for (key, ours, default) in [
        ("num_hidden_layers", "num_layers", d.layers),
        ("vocab_size", "padded_vocab_size", d.vocab),
    ] {
        let n = r.whole(key, default);
        r.set(ours, n);
    }
    let (hidden, heads) =
        (r.whole("hidden_size", d.hidden), r.whole("num_attention_heads", d.heads));
    let kv = match r.gives("num_key_value_heads") {
        true => r.whole("num_key_value_heads", heads),
        false => d.kv_heads.unwrap_or(heads),
    };
    r.set("hidden_size", hidden);
    r.set("num_attention_heads", heads);
    r.set("num_kv_heads", kv);
    let share = hidden / heads.max(1);
    let head =
        r.whole("head_dim", if r.gives("head_dim") { share } else { d.head_dim.unwrap_or(share) });
    r.set("head_dim", head);
    // GPT-NeoX takes a third of the width where an activation is gated.
    let ffn = r.whole("intermediate_size", d.ffn);
    r.set("intermediate_size", ffn.saturating_mul(3));
    let context = r.whole("max_position_embeddings", d.positions);
    r.set("seq_length", context);
    r.set("max_position_embeddings", context);
    r.set("norm", "rmsnorm");
    let eps = r.number("rms_norm_eps", d.eps);
    r.set("rms_norm_epsilon", decimal(eps));
    r.set("use_bias_in_norms", false);
    let rate = r.number("attention_dropout", 0.0);
    r.set("attention_dropout", decimal(rate));
}

/// Reads the gate's activation.
pub fn read_gate(r: &mut Reader<'_>) {
    read_gate_of(r, "hidden_act", "silu");
}

/// Reads the gate's activation, which has the key `key`.
pub fn read_gate_of(r: &mut Reader<'_>, key: &str, default: &str) {
    let act = r.text(key, default);
    match GATES.iter().find(|(_, theirs, _)| *theirs == act) {
        Some((.., ours)) => r.set("activation", ours),
        None => r.refuse(key, "silu, gelu, gelu_pytorch_tanh or relu is expected"),
    }
}

/// Sets the same for several keys of GPT-NeoX.
pub fn set_all(r: &mut Reader<'_>, keys: &[&str], value: bool) {
    keys.iter().for_each(|key| r.set(key, value));
}

fn read(r: &mut Reader<'_>) {
    read_body(r, &DEFAULTS);
    read_gate(r);
    for (key, ours) in
        [("attention_bias", "use_bias_in_attn_linear"), ("mlp_bias", "use_bias_in_mlp")]
    {
        let flag = r.flag(key, false);
        r.set(ours, flag);
    }
}

/// The keys of [`BODY`] and the gate's activation, for an architecture.
pub fn write_body(a: &Arch) -> Map<String, Value> {
    let base = match a.positions {
        Positions::Rotary { base, .. } => base,
        _ => 0.0,
    };
    let act = GATES.iter().find(|(ours, ..)| *ours == a.activation).map(|(_, theirs, _)| *theirs);
    let mut out = Map::new();
    for (key, value) in [
        ("vocab_size", json!(a.vocab)),
        ("hidden_size", json!(a.embed)),
        ("num_hidden_layers", json!(a.layers)),
        ("num_attention_heads", json!(a.heads)),
        ("num_key_value_heads", json!(a.key_heads())),
        ("head_dim", json!(a.head_dim)),
        ("intermediate_size", json!(a.ffn)),
        ("hidden_act", json!(act)),
        ("rope_theta", json!(base)),
        ("max_position_embeddings", json!(a.max_positions)),
        ("rms_norm_eps", json!(a.eps)),
        ("tie_word_embeddings", json!(a.tied)),
        ("attention_dropout", json!(a.attention_dropout)),
    ] {
        out.insert(key.into(), value);
    }
    rope::write(a, &mut out);
    out
}

fn write(a: &Arch) -> Map<String, Value> {
    let mut out = write_body(a);
    out.insert("attention_bias".into(), json!(a.attention_bias));
    out.insert("mlp_bias".into(), json!(a.mlp_bias));
    out
}

/// What of an architecture no class without experts has that [`BODY`] is of, besides norms of queries and keys and the
/// places of norms, which a class has in one way.
pub fn lacks_body(a: &Arch, qk: QkNorm, place: NormPlace) -> Vec<&'static str> {
    [lacks_dense(a, qk, place), absent(&[(a.moe.is_some(), "experts")])].concat()
}

/// The same of any class, of everything but experts.
pub fn lacks_dense(a: &Arch, qk: QkNorm, place: NormPlace) -> Vec<&'static str> {
    let whole = matches!(a.positions, Positions::Rotary { dims, .. } if dims == a.head_dim);
    let gate = a.gated && GATES.iter().any(|(ours, ..)| *ours == a.activation);
    absent(&[
        (!whole, "positions but rotary ones of whole heads"),
        (!rope::has(a), "rotary positions of the type ntk"),
        (a.norm != Norm::RmsNorm, "norms but RMS norms"),
        (a.zero_centred, "norms with 1 + weight"),
        (a.embedding_scale != 1.0, "scale of the embedding"),
        (a.query_scalar.is_some(), OWN_SCALE),
        (a.sliding_base.is_some(), TWO_BASES),
        (!gate, "activations but swiglu, geglu, geglu_tanh and reglu"),
        (qk == QkNorm::None && a.qk_norm != qk, "norms of queries and keys"),
        (qk != QkNorm::None && a.qk_norm != qk, "other norms of queries and keys than its own"),
        (a.norm_place != place, "norms in these places"),
        (a.parallel_residual, "parallel residual"),
        (a.hidden_dropout > 0.0, "dropout of hidden states"),
        (a.has_windows(), WINDOWS),
    ])
}

/// What [`lacks_body`] calls windows, which some classes have.
pub const WINDOWS: &str = "sliding windows";

fn lacks(a: &Arch) -> Vec<&'static str> {
    let own = [(a.attention_bias != a.out_bias, "attention with biases in some places only")];
    [lacks_body(a, QkNorm::None, NormPlace::Before), absent(&own)].concat()
}
