//! `config.json` of `LlamaForCausalLM`, both ways.

use serde_json::{Map, Value, json};

use crate::arch::{Arch, Norm, Positions};
use crate::blocks::activations::Activation;
use crate::families::hugging_face::{Format, Reader, Says, decimal};

/// How Hugging Face writes Llama models.
pub const FORMAT: Format = Format {
    architecture: "LlamaForCausalLM",
    keys: &[
        ("attention_bias", Says::Model),
        ("attention_dropout", Says::Model),
        ("head_dim", Says::Model),
        ("hidden_act", Says::Model),
        ("hidden_size", Says::Model),
        ("intermediate_size", Says::Model),
        ("max_position_embeddings", Says::Model),
        ("max_sequence_length", Says::Nothing), // In the first published files; read by nothing.
        ("mlp_bias", Says::Model),
        ("num_attention_heads", Says::Model),
        ("num_hidden_layers", Says::Model),
        ("num_key_value_heads", Says::Model),
        ("partial_rotary_factor", Says::Only(&["1.0", "1"])),
        ("pretraining_tp", Says::Nothing), // In how many parts a matmul is computed: the same sum.
        ("rms_norm_eps", Says::Model),
        ("rope_parameters", Says::Model),
        ("rope_scaling", Says::Model),
        ("rope_theta", Says::Model),
        ("tie_word_embeddings", Says::Model),
        ("vocab_size", Says::Model),
    ],
    read,
    write,
    lacks,
    buffers: &[".rotary_emb.inv_freq"],
};

/// What Hugging Face calls the activation of each gate that GPT-NeoX has.
const GATES: [(Activation, &str, &str); 3] = [
    (Activation::Silu, "silu", "swiglu"),
    (Activation::Gelu, "gelu", "geglu"),
    (Activation::Relu, "relu", "reglu"),
];

/// Defaults are those of Hugging Face's `LlamaConfig`, whose files leave out what is default.
fn read(r: &mut Reader<'_>) {
    for (key, ours, default) in
        [("num_hidden_layers", "num_layers", 32), ("vocab_size", "padded_vocab_size", 32000)]
    {
        let n = r.whole(key, default);
        r.set(ours, n);
    }
    let (hidden, heads) = (r.whole("hidden_size", 4096), r.whole("num_attention_heads", 32));
    let kv = r.whole("num_key_value_heads", heads);
    r.set("hidden_size", hidden);
    r.set("num_attention_heads", heads);
    r.set("num_kv_heads", kv);
    if r.whole("head_dim", hidden / heads.max(1)) != hidden / heads.max(1) {
        r.refuse("head_dim", format!("GPT-NeoX has heads of {hidden} / {heads}"));
    }
    // GPT-NeoX takes a third of the width where an activation is gated.
    let ffn = r.whole("intermediate_size", 11008);
    r.set("intermediate_size", ffn.saturating_mul(3));
    let context = r.whole("max_position_embeddings", 2048);
    r.set("seq_length", context);
    r.set("max_position_embeddings", context);
    let (base, part) = r.rotary(&["rope_theta"], None, (10_000.0, 1.0));
    if part != 1.0 {
        r.refuse("rope_parameters", "all dims of a head rotate");
    }
    r.set("pos_emb", "rotary");
    r.set("rotary_pct", "1.0");
    r.set("rotary_emb_base", base as u64);
    r.set("norm", "rmsnorm");
    let eps = r.number("rms_norm_eps", 1e-6);
    r.set("rms_norm_epsilon", decimal(eps));
    for (key, ours) in
        [("attention_bias", "use_bias_in_attn_linear"), ("mlp_bias", "use_bias_in_mlp")]
    {
        let flag = r.flag(key, false);
        r.set(ours, flag);
    }
    r.set("use_bias_in_norms", false);
    let tied = r.flag("tie_word_embeddings", false);
    r.set("no_weight_tying", !tied);
    let rate = r.number("attention_dropout", 0.0);
    r.set("attention_dropout", decimal(rate));
    let act = r.text("hidden_act", "silu");
    match GATES.iter().find(|(_, theirs, _)| *theirs == act) {
        Some((.., ours)) => r.set("activation", ours),
        None => r.refuse("hidden_act", "silu, gelu or relu is expected"),
    }
}

fn write(a: &Arch) -> Map<String, Value> {
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
        ("attention_bias", json!(a.attention_bias)),
        ("mlp_bias", json!(a.mlp_bias)),
        ("attention_dropout", json!(a.attention_dropout)),
    ] {
        out.insert(key.into(), value);
    }
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let mut out = vec![];
    let mut without = |absent: bool, what| out.extend(absent.then_some(what));
    let whole = matches!(a.positions, Positions::Rotary { dims, .. } if dims == a.head_dim);
    without(!whole, "positions but rotary ones of whole heads");
    without(a.norm != Norm::RmsNorm, "norms but RMS norms");
    let gate = a.gated && GATES.iter().any(|(ours, ..)| *ours == a.activation);
    without(!gate, "activations but swiglu, geglu and reglu");
    without(a.parallel_residual, "parallel residual");
    without(a.hidden_dropout > 0.0, "dropout of hidden states");
    without(a.moe.is_some(), "experts");
    out
}
