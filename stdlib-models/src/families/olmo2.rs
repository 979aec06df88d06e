//! OLMo 2 (Walsh et al. 2024, arXiv:2501.00656): Llama with norms after attention and MLP and none before
//! (`norm_place: after`), and RMS norms of all queries and of all keys of a token (`qk_norm: width`).

use serde_json::{Map, Value};

use super::experts;
use super::hugging_face::{Format, Reader, Says, absent};
use super::llama::NamedAsLlama;
use super::llama::config_json::{
    BODY, Defaults, lacks_body, read_body, read_gate, set_all, write_body,
};
use crate::arch::{Arch, NormPlace, QkNorm};

/// The family.
pub const OLMO2: NamedAsLlama =
    NamedAsLlama { name: "olmo2", format: Some(&FORMAT), lacks, experts: &experts::GPT_NEOX };

/// How Hugging Face writes OLMo 2 models.
const FORMAT: Format = Format {
    architecture: "Olmo2ForCausalLM",
    keys: &[BODY, &[("attention_bias", Says::Model), ("hidden_act", Says::Model)]],
    read,
    write,
    lacks,
    buffers: &[".rotary_emb.inv_freq"],
};

/// Defaults of Hugging Face's `Olmo2Config`.
const DEFAULTS: Defaults = Defaults {
    layers: 32,
    vocab: 50304,
    hidden: 4096,
    heads: 32,
    kv_heads: None,
    head_dim: None,
    ffn: 11008,
    positions: 2048,
    eps: 1e-5,
};

fn read(r: &mut Reader<'_>) {
    read_body(r, &DEFAULTS);
    read_gate(r);
    r.set("qk_norm", "width");
    r.set("norm_place", "after");
    let biases = r.flag("attention_bias", false);
    r.set("use_bias_in_attn_linear", biases);
    set_all(r, &["use_bias_in_mlp"], false);
}

fn write(a: &Arch) -> Map<String, Value> {
    let mut out = write_body(a);
    out.insert("attention_bias".into(), a.attention_bias.into());
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let own = [
        (a.attention_bias != a.out_bias, "attention with biases in some places only"),
        (a.mlp_bias, "biases of the MLP"),
    ];
    [lacks_body(a, QkNorm::Width, NormPlace::After), absent(&own)].concat()
}
