//! Qwen 2 and 2.5 (Yang et al. 2024, arXiv:2407.10671, arXiv:2412.15115): Llama with biases of queries, keys and values
//! and of nothing else (`use_bias_in_attn_linear`, without `use_bias_in_attn_dense`).

use serde_json::{Map, Value};

use super::experts;
use super::hugging_face::{Format, Reader, Says, absent};
use super::llama::NamedAsLlama;
use super::llama::config_json::{
    BODY, Defaults, lacks_body, read_body, read_gate, set_all, write_body,
};
use crate::arch::{Arch, NormPlace, QkNorm};

/// The family.
pub const QWEN2: NamedAsLlama =
    NamedAsLlama { name: "qwen2", format: Some(&FORMAT), lacks, experts: &experts::GPT_NEOX };

/// How Hugging Face writes Qwen 2 models.
const FORMAT: Format = Format {
    architecture: "Qwen2ForCausalLM",
    keys: &[
        BODY,
        &[
            ("hidden_act", Says::Model),
            ("layer_types", Says::Model),
            // Which layers have a window, where windows are used.
            ("max_window_layers", Says::Nothing),
            ("sliding_window", Says::Nothing),
            ("use_mrope", Says::Only(&["false"])),
            ("use_sliding_window", Says::Only(&["false"])),
        ],
    ],
    read,
    write,
    lacks,
    buffers: &[".rotary_emb.inv_freq"],
};

/// Defaults of Hugging Face's `Qwen2Config`.
const DEFAULTS: Defaults = Defaults {
    layers: 32,
    vocab: 151_936,
    hidden: 4096,
    heads: 32,
    kv_heads: Some(32),
    head_dim: None,
    ffn: 22016,
    positions: 32768,
    eps: 1e-6,
};

fn read(r: &mut Reader<'_>) {
    read_body(r, &DEFAULTS);
    let (hidden, heads) =
        (r.whole("hidden_size", DEFAULTS.hidden), r.whole("num_attention_heads", DEFAULTS.heads));
    if r.whole("head_dim", hidden / heads) != hidden / heads {
        r.refuse(
            "head_dim",
            "the class has no such key: a head has `hidden_size` / `num_attention_heads` dims",
        );
    }
    read_gate(r);
    r.full_attention();
    r.set("use_bias_in_attn_linear", true);
    set_all(r, &["use_bias_in_attn_dense", "use_bias_in_mlp"], false);
}

fn write(a: &Arch) -> Map<String, Value> {
    let mut out = write_body(a);
    out.insert("use_sliding_window".into(), false.into());
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let own = [
        (!a.attention_bias, "queries, keys and values without biases"),
        (a.out_bias, "bias of attention's output"),
        (a.mlp_bias, "biases of the MLP"),
        (a.heads * a.head_dim != a.embed, "heads of another width together than the model's"),
    ];
    [lacks_body(a, QkNorm::None, NormPlace::Before), absent(&own)].concat()
}
