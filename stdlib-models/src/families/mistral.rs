//! Mistral (Jiang et al. 2023, arXiv:2310.06825): Llama without any biases.

use serde_json::{Map, Value};

use super::hugging_face::{Format, Reader, Says, absent};
use super::llama::NamedAsLlama;
use super::llama::config_json::{
    BODY, Defaults, lacks_body, read_body, read_gate, set_all, write_body,
};
use crate::arch::{Arch, NormPlace, QkNorm};

/// The family.
pub const MISTRAL: NamedAsLlama = NamedAsLlama { name: "mistral", format: &FORMAT, lacks };

/// How Hugging Face writes Mistral models.
const FORMAT: Format = Format {
    architecture: "MistralForCausalLM",
    keys: &[BODY, &[("hidden_act", Says::Model), ("sliding_window", Says::Only(&[]))]],
    read,
    write,
    lacks,
    buffers: &[".rotary_emb.inv_freq"],
};

/// Defaults of Hugging Face's `MistralConfig`.
const DEFAULTS: Defaults = Defaults {
    layers: 32,
    vocab: 32000,
    hidden: 4096,
    heads: 32,
    kv_heads: Some(8),
    head_dim: None,
    ffn: 14336,
    positions: 4096 * 32,
    eps: 1e-6,
};

fn read(r: &mut Reader<'_>) {
    read_body(r, &DEFAULTS);
    read_gate(r);
    set_all(r, &["use_bias_in_attn_linear", "use_bias_in_mlp"], false);
    if !r.gives("sliding_window") {
        r.refuse(
            "sliding_window",
            "the class takes a window of 4096 keys then, which is not supported yet; null is",
        );
    }
}

fn write(a: &Arch) -> Map<String, Value> {
    let mut out = write_body(a);
    out.insert("sliding_window".into(), Value::Null);
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let own = [(a.attention_bias || a.out_bias || a.mlp_bias, "biases")];
    [lacks_body(a, QkNorm::None, NormPlace::Before), absent(&own)].concat()
}
