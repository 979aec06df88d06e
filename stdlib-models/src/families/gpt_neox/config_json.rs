//! `config.json` of `GPTNeoXForCausalLM`, both ways.

use serde_json::{Map, Value, json};

use crate::arch::{Arch, Norm, Positions};
use crate::blocks::activations::Activation;
use crate::families::hugging_face::{
    Format, OWN_SCALE, Reader, Says, TWO_BASES, absent, decimal, rope, rotary_part,
};

/// How Hugging Face writes GPT-NeoX models.
pub const FORMAT: Format = Format {
    architecture: "GPTNeoXForCausalLM",
    keys: &[&[
        ("attention_bias", Says::Model),
        ("attention_dropout", Says::Model),
        ("attention_probs_dropout_prob", Says::Nothing), // Read by nothing.
        ("hidden_act", Says::Model),
        ("hidden_dropout", Says::Model),
        ("hidden_dropout_prob", Says::Nothing), // Read by nothing.
        ("hidden_size", Says::Model),
        ("intermediate_size", Says::Model),
        ("layer_norm_eps", Says::Model),
        ("max_position_embeddings", Says::Model),
        ("num_attention_heads", Says::Model),
        ("num_hidden_layers", Says::Model),
        ("rope_parameters", Says::Model),
        ("rope_scaling", Says::Model),
        ("rope_theta", Says::Model),
        ("rotary_emb_base", Says::Model),
        ("rotary_pct", Says::Model),
        ("tie_word_embeddings", Says::Model),
        ("use_parallel_residual", Says::Model),
        ("vocab_size", Says::Model),
    ]],
    read,
    write,
    lacks,
    buffers: &[".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"],
};

/// Defaults are those of Hugging Face's `GPTNeoXConfig`, whose files leave out what is default.
fn read(r: &mut Reader<'_>) {
    for (key, ours, default) in [
        ("num_hidden_layers", "num_layers", 44),
        ("hidden_size", "hidden_size", 6144),
        ("num_attention_heads", "num_attention_heads", 64),
        ("intermediate_size", "intermediate_size", 24576),
        ("vocab_size", "padded_vocab_size", 50432),
    ] {
        let n = r.whole(key, default);
        r.set(ours, n);
    }
    let context = r.whole("max_position_embeddings", 2048);
    r.set("seq_length", context);
    r.set("max_position_embeddings", context);
    let (base, part) =
        r.rotary(&["rotary_emb_base", "rope_theta"], Some("rotary_pct"), (10_000.0, 0.25));
    r.set("pos_emb", "rotary");
    r.set("rotary_pct", format!("{part:?}"));
    r.set("rotary_emb_base", base as u64);
    let eps = r.number("layer_norm_eps", 1e-5);
    r.set("layernorm_epsilon", decimal(eps));
    for (key, ours, default) in [
        ("use_parallel_residual", "gpt_j_residual", true),
        ("attention_bias", "use_bias_in_attn_linear", true),
    ] {
        let flag = r.flag(key, default);
        r.set(ours, flag);
    }
    let tied = r.flag("tie_word_embeddings", false);
    r.set("no_weight_tying", !tied);
    for key in ["attention_dropout", "hidden_dropout"] {
        let rate = r.number(key, 0.0);
        r.set(key, decimal(rate));
    }
    match r.text("hidden_act", "gelu").as_str() {
        "gelu" => r.set("bias_gelu_fusion", false),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => r.set("bias_gelu_fusion", true),
        _ => r.refuse("hidden_act", "gelu, gelu_new, gelu_fast or gelu_pytorch_tanh is expected"),
    }
}

fn write(a: &Arch) -> Map<String, Value> {
    let (dims, base) = match a.positions {
        Positions::Rotary { dims, base, .. } => (dims, base),
        _ => (0, 0.0),
    };
    let mut out = Map::new();
    for (key, value) in [
        ("vocab_size", json!(a.vocab)),
        ("hidden_size", json!(a.embed)),
        ("num_hidden_layers", json!(a.layers)),
        ("num_attention_heads", json!(a.heads)),
        ("intermediate_size", json!(a.ffn)),
        (
            "hidden_act",
            json!(if a.activation == Activation::GeluTanh { "gelu_new" } else { "gelu" }),
        ),
        ("rotary_pct", json!(rotary_part(dims, a.head_dim))),
        ("rotary_emb_base", json!(base as u64)),
        ("max_position_embeddings", json!(a.max_positions)),
        ("layer_norm_eps", json!(a.eps)),
        ("use_parallel_residual", json!(a.parallel_residual)),
        ("tie_word_embeddings", json!(a.tied)),
        ("attention_bias", json!(a.attention_bias)),
        ("attention_dropout", json!(a.attention_dropout)),
        ("hidden_dropout", json!(a.hidden_dropout)),
    ] {
        out.insert(key.into(), value);
    }
    rope::write(a, &mut out);
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let gelu = [Activation::Gelu, Activation::GeluTanh].contains(&a.activation);
    absent(&[
        (!matches!(a.positions, Positions::Rotary { .. }), "positions but rotary ones"),
        (!rope::has(a), "rotary positions of the type ntk"),
        (!gelu, "activations but gelu"),
        (a.norm != Norm::LayerNorm, "norms but layer norms"),
        (a.zero_centred, "norms with 1 + weight"),
        (a.embedding_scale != 1.0, "scale of the embedding"),
        (!a.norm_bias, "norms without biases"),
        (a.attention_bias != a.out_bias, "attention with biases in some places only"),
        (!a.mlp_bias, "MLP without biases"),
        (a.shared_norm, "norm that both branches share"),
        (a.moe.is_some(), "experts"),
        (a.query_scalar.is_some(), OWN_SCALE),
        (a.sliding_base.is_some(), TWO_BASES),
        (a.has_windows(), "sliding windows"),
    ])
}
