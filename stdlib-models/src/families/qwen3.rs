//! Qwen 3 (Yang et al. 2025, arXiv:2505.09388): Llama with RMS norms of each head's queries and keys (`qk_norm: head`) and
//! heads whose width is their own (`head_dim`).

use serde_json::{Map, Value};

use super::experts;
use super::hugging_face::{Format, Reader, Says, absent};
use super::llama::NamedAsLlama;
use super::llama::config_json::{
    BODY, Defaults, lacks_body, read_body, read_gate, set_all, write_body,
};
use crate::arch::{Arch, NormPlace, QkNorm};

/// The family.
pub const QWEN3: NamedAsLlama =
    NamedAsLlama { name: "qwen3", format: Some(&FORMAT), lacks, experts: &experts::GPT_NEOX };

/// How Hugging Face writes Qwen 3 models.
const FORMAT: Format = Format {
    architecture: "Qwen3ForCausalLM",
    keys: &[
        BODY,
        &[
            ("attention_bias", Says::Model),
            ("hidden_act", Says::Model),
            ("layer_types", Says::Model),
            // Which layers have a window, where windows are used.
            ("max_window_layers", Says::Nothing),
            ("sliding_window", Says::Nothing),
            ("use_sliding_window", Says::Only(&["false"])),
        ],
    ],
    read,
    write,
    lacks,
    buffers: &[".rotary_emb.inv_freq"],
};

/// Defaults of Hugging Face's `Qwen3Config`.
const DEFAULTS: Defaults = Defaults {
    layers: 32,
    vocab: 151_936,
    hidden: 4096,
    heads: 32,
    kv_heads: Some(32),
    head_dim: Some(128),
    ffn: 22016,
    positions: 32768,
    eps: 1e-6,
};

fn read(r: &mut Reader<'_>) {
    read_body(r, &DEFAULTS);
    read_gate(r);
    r.full_attention();
    r.set("qk_norm", "head");
    let biases = r.flag("attention_bias", false);
    r.set("use_bias_in_attn_linear", biases);
    set_all(r, &["use_bias_in_mlp"], false);
}

fn write(a: &Arch) -> Map<String, Value> {
    let mut out = write_body(a);
    out.insert("attention_bias".into(), a.attention_bias.into());
    out.insert("use_sliding_window".into(), false.into());
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let own = [
        (a.attention_bias != a.out_bias, "attention with biases in some places only"),
        (a.mlp_bias, "biases of the MLP"),
    ];
    [lacks_body(a, QkNorm::Head, NormPlace::Before), absent(&own)].concat()
}
