//! Falcon (Almazrouei et al. 2023, arXiv:2311.16867): names as in Hugging Face's checkpoints.
//!
//! Attention and MLP both read the layer's input (`gpt_j_residual`), through one norm (7B: `gpt_j_tied`) or one each (40B);
//! queries share one key (7B) or a few (40B); layer norms have biases, and matrices have none. Rows of the fused projection
//! are, for each key-value head, those of its queries, its key and its value, as here.

use neoxc_ir::op::OpError;
use neoxc_ir::{Builder, ValueId};
use serde_json::{Map, Value, json};

use super::Family;
use super::hugging_face::{Format, OWN_SCALE, Reader, Says, TWO_BASES, absent, decimal, rope};
use crate::arch::{Arch, LayerKind, Norm, NormPlace, Positions, QkNorm};
use crate::blocks::activations::Activation;
use crate::blocks::transformer::{self, Layer};
use crate::param::{Param, normal};

/// The family.
#[derive(Debug)]
pub struct Falcon;

/// How Hugging Face writes Falcon models.
const FORMAT: Format = Format {
    architecture: "FalconForCausalLM",
    keys: &[&[
        ("activation", Says::Model),
        ("alibi", Says::Only(&["false"])),
        ("attention_dropout", Says::Model),
        ("bias", Says::Model),
        ("ffn_hidden_size", Says::Model),
        ("hidden_dropout", Says::Only(&["0.0", "0"])), // Its places are not GPT-NeoX's.
        ("hidden_size", Says::Model),
        ("layer_norm_epsilon", Says::Model),
        ("max_position_embeddings", Says::Model),
        ("multi_query", Says::Model),
        ("new_decoder_architecture", Says::Model),
        ("num_attention_heads", Says::Model),
        ("num_hidden_layers", Says::Model),
        ("num_kv_heads", Says::Model),
        ("num_ln_in_parallel_attn", Says::Model),
        ("parallel_attn", Says::Model),
        ("partial_rotary_factor", Says::Only(&["1.0", "1"])),
        ("rope_parameters", Says::Model),
        ("rope_scaling", Says::Model),
        ("rope_theta", Says::Model),
        ("tie_word_embeddings", Says::Model),
        ("vocab_size", Says::Model),
    ]],
    read,
    write,
    lacks,
    buffers: &[".rotary_emb.inv_freq"],
};

/// Defaults are those of Hugging Face's `FalconConfig`.
fn read(r: &mut Reader<'_>) {
    for (key, ours, default) in
        [("num_hidden_layers", "num_layers", 32), ("vocab_size", "padded_vocab_size", 65024)]
    {
        let n = r.whole(key, default);
        r.set(ours, n);
    }
    let (hidden, heads) = (r.whole("hidden_size", 4544), r.whole("num_attention_heads", 71));
    r.set("hidden_size", hidden);
    r.set("num_attention_heads", heads);
    // The second of the published forms reads `num_kv_heads`, the first one `multi_query`.
    let (kv, second) = (r.whole("num_kv_heads", heads), r.flag("new_decoder_architecture", false));
    let (multi_query, parallel) = (r.flag("multi_query", true), r.flag("parallel_attn", true));
    if second && !parallel {
        r.refuse("parallel_attn", "the new decoder architecture has a parallel residual");
    }
    r.set(
        "num_kv_heads",
        if second {
            kv
        } else if multi_query {
            1
        } else {
            heads
        },
    );
    let norms = r.whole("num_ln_in_parallel_attn", if second { 2 } else { 1 });
    if norms > 2 || norms == 2 && !second {
        r.refuse("num_ln_in_parallel_attn", "1 is expected, or 2 with `new_decoder_architecture`");
    }
    r.set("gpt_j_residual", parallel);
    r.set("gpt_j_tied", parallel && norms == 1);
    let ffn = r.whole("ffn_hidden_size", hidden.saturating_mul(4));
    r.set("intermediate_size", ffn);
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
    let eps = r.number("layer_norm_epsilon", 1e-5);
    r.set("layernorm_epsilon", decimal(eps));
    let biases = r.flag("bias", false);
    r.set("use_bias_in_attn_linear", biases);
    r.set("use_bias_in_mlp", biases);
    let tied = r.flag("tie_word_embeddings", true);
    r.set("no_weight_tying", !tied);
    let rate = r.number("attention_dropout", 0.0);
    r.set("attention_dropout", decimal(rate));
    match r.text("activation", "gelu").as_str() {
        "gelu" => r.set("bias_gelu_fusion", false),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => r.set("bias_gelu_fusion", true),
        _ => r.refuse("activation", "gelu, gelu_new, gelu_fast or gelu_pytorch_tanh is expected"),
    }
}

/// Whether Hugging Face's second form has the model: two norms before a parallel residual, or a number of key-value heads
/// that is neither one nor that of heads.
fn second(a: &Arch) -> bool {
    a.parallel_residual && !a.shared_norm || a.key_heads() != 1 && a.queries() > 1
}

fn write(a: &Arch) -> Map<String, Value> {
    let base = match a.positions {
        Positions::Rotary { base, .. } => base,
        _ => 0.0,
    };
    let tanh = a.activation == Activation::GeluTanh;
    let mut out = Map::new();
    for (key, value) in [
        ("vocab_size", json!(a.vocab)),
        ("hidden_size", json!(a.embed)),
        ("num_hidden_layers", json!(a.layers)),
        ("num_attention_heads", json!(a.heads)),
        ("num_kv_heads", json!(a.key_heads())),
        ("new_decoder_architecture", json!(second(a))),
        ("num_ln_in_parallel_attn", json!(if a.shared_norm { 1 } else { 2 })),
        ("multi_query", json!(a.key_heads() == 1)),
        ("parallel_attn", json!(a.parallel_residual)),
        ("ffn_hidden_size", json!(a.ffn)),
        ("activation", json!(if tanh { "gelu_pytorch_tanh" } else { "gelu" })),
        ("alibi", json!(false)),
        ("bias", json!(a.attention_bias)),
        ("rope_theta", json!(base)),
        ("max_position_embeddings", json!(a.max_positions)),
        ("layer_norm_epsilon", json!(a.eps)),
        ("tie_word_embeddings", json!(a.tied)),
        ("attention_dropout", json!(a.attention_dropout)),
        ("hidden_dropout", json!(0.0)),
    ] {
        out.insert(key.into(), value);
    }
    rope::write(a, &mut out);
    if !second(a) && !a.parallel_residual {
        out.remove("num_ln_in_parallel_attn");
    }
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let whole = matches!(a.positions, Positions::Rotary { dims, .. } if dims == a.head_dim);
    let gelu = [Activation::Gelu, Activation::GeluTanh].contains(&a.activation) && !a.gated;
    let biases = [a.attention_bias, a.out_bias, a.mlp_bias];
    absent(&[
        (!whole, "positions but rotary ones of whole heads"),
        (!rope::has(a), "rotary positions of the type ntk"),
        (a.norm != Norm::LayerNorm || !a.norm_bias, "norms but layer norms with biases"),
        (a.zero_centred, "norms with 1 + weight"),
        (a.embedding_scale != 1.0, "scale of the embedding"),
        (!gelu, "activations but gelu"),
        (biases.iter().any(|b| *b != biases[0]), "biases in some places only"),
        (a.heads * a.head_dim != a.embed, "heads of another width together than the model's"),
        (a.qk_norm != QkNorm::None, "norms of queries and keys"),
        (a.norm_place != NormPlace::Before, "norms after branches"),
        (
            second(a) && !a.parallel_residual,
            "heads that share a few keys without a parallel residual",
        ),
        (a.hidden_dropout > 0.0, "dropout of hidden states"),
        (a.query_scalar.is_some(), OWN_SCALE),
        (a.sliding_base.is_some(), TWO_BASES),
        (a.has_windows(), "sliding windows"),
        (a.moe.is_some(), "experts"),
    ])
}

/// A norm's weight and bias.
fn norm(a: &Arch, roles: [&'static str; 2], names: [&'static str; 2]) -> Vec<Param> {
    let e = [("embed", a.embed)];
    vec![Param::scale(roles[0], names[0], &e), Param::bias(roles[1], names[1], &e)]
}

/// The norms of a layer, whose names depend on how many there are.
fn norms(a: &Arch) -> Vec<Param> {
    let [first, second] = [["norm.weight", "norm.bias"], ["mlp_norm.weight", "mlp_norm.bias"]];
    let input = ["input_layernorm.weight", "input_layernorm.bias"];
    match (a.parallel_residual, a.shared_norm) {
        (true, true) => norm(a, first, input),
        (true, false) => [
            norm(a, first, ["ln_attn.weight", "ln_attn.bias"]),
            norm(a, second, ["ln_mlp.weight", "ln_mlp.bias"]),
        ]
        .concat(),
        (false, _) => {
            let names = ["post_attention_layernorm.weight", "post_attention_layernorm.bias"];
            [norm(a, first, input), norm(a, second, names)].concat()
        }
    }
}

/// The matrices of attention and of the MLP, with their biases.
fn matrices(a: &Arch) -> Vec<Param> {
    let (e, d, f) = (("embed", a.embed), ("head_dim", a.head_dim), ("ffn", a.ffn));
    let (h, qkv) = (("heads", a.key_heads()), ("qkv", a.queries() + 2));
    let (up, down) = (|| normal(a.init_std), || normal(a.output_init_std));
    let grouped = [e, h, ("queries", a.queries()), d];
    let out = if a.queries() > 1 { &grouped[..] } else { &[e, h, d] };
    let name = "self_attention.query_key_value.weight";
    let mut p = vec![
        Param::weight("attention.qkv.weight", name, &[h, qkv, d, e], 3, up()).divided("heads"),
        Param::weight("attention.out.weight", "self_attention.dense.weight", out, 1, down())
            .divided("heads"),
        Param::weight("mlp.up.weight", "mlp.dense_h_to_4h.weight", &[f, e], 1, up()).divided("ffn"),
        Param::weight("mlp.down.weight", "mlp.dense_4h_to_h.weight", &[e, f], 1, down())
            .divided("ffn"),
    ];
    if a.attention_bias {
        let name = "self_attention.query_key_value.bias";
        p.push(Param::bias("attention.qkv.bias", name, &[h, qkv, d]).divided("heads"));
        p.push(Param::bias("attention.out.bias", "self_attention.dense.bias", &[e]));
        p.push(Param::bias("mlp.up.bias", "mlp.dense_h_to_4h.bias", &[f]).divided("ffn"));
        p.push(Param::bias("mlp.down.bias", "mlp.dense_4h_to_h.bias", &[e]));
    }
    p
}

impl Family for Falcon {
    fn name(&self) -> &'static str {
        "falcon"
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn layers(&self) -> &'static str {
        "h"
    }

    fn outer(&self, a: &Arch) -> Vec<Param> {
        let (e, v) = (("embed", a.embed), ("vocab", a.vocab));
        let std = || normal(a.init_std);
        let name = "transformer.word_embeddings.weight";
        let embed = Param::weight("embed.weight", name, &[v, e], 1, std());
        let mut p = vec![embed.divided_if_even("vocab").before_layers()];
        let names = ["transformer.ln_f.weight", "transformer.ln_f.bias"];
        p.extend(norm(a, ["final_norm.weight", "final_norm.bias"], names));
        if !a.tied {
            let head = Param::weight("head.weight", "lm_head.weight", &[v, e], 1, std());
            p.push(head.divided_if_even("vocab"));
        }
        p
    }

    fn of_layer(&self, a: &Arch, _kind: LayerKind) -> Vec<Param> {
        [norms(a), matrices(a)].concat()
    }

    fn layer(
        &self,
        a: &Arch,
        b: &mut Builder<'_>,
        l: &Layer<'_>,
        x: ValueId,
    ) -> Result<(ValueId, [ValueId; 2]), OpError> {
        transformer::layer(a, b, l, x)
    }

    fn lacks(&self, a: &Arch) -> Vec<&'static str> {
        lacks(a)
    }

    fn hugging_face(&self) -> Option<&'static Format> {
        Some(&FORMAT)
    }
}
