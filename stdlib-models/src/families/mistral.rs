//! Mistral (Jiang et al. 2023, arXiv:2310.06825): Llama without any biases, whose tokens may see a window of those before
//! them.

use serde_json::{Map, Value};

use super::experts;
use super::hugging_face::{Format, Reader, Says, absent};
use super::llama::NamedAsLlama;
use super::llama::config_json::{
    BODY, Defaults, WINDOWS, lacks_body, read_body, read_gate, set_all, write_body,
};
use crate::arch::{Arch, NormPlace, QkNorm};

/// The family.
pub const MISTRAL: NamedAsLlama =
    NamedAsLlama { name: "mistral", format: Some(&FORMAT), lacks, experts: &experts::GPT_NEOX };

/// How Hugging Face writes Mistral models.
const FORMAT: Format = Format {
    architecture: "MistralForCausalLM",
    keys: &[BODY, &[("hidden_act", Says::Model), ("sliding_window", Says::Model)]],
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

/// Keys that a token sees where a file says nothing.
const WINDOW: u64 = 4096;

fn read(r: &mut Reader<'_>) {
    read_body(r, &DEFAULTS);
    read_gate(r);
    set_all(r, &["use_bias_in_attn_linear", "use_bias_in_mlp"], false);
    if !r.gives("sliding_window") || r.get("sliding_window").is_some() {
        // Hugging Face counts the token itself.
        let keys = r.whole("sliding_window", WINDOW);
        r.set("sliding_window_width", keys - 1);
    }
}

fn write(a: &Arch) -> Map<String, Value> {
    let mut out = write_body(a);
    let keys = a.window.map_or(Value::Null, |w| (w + 1).into());
    out.insert("sliding_window".into(), keys);
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let windowed = a.kinds().iter().filter(|kind| a.window_of(**kind).is_some()).count();
    let own = [
        (a.attention_bias || a.out_bias || a.mlp_bias, "biases"),
        (![0, a.layers].contains(&windowed), "sliding windows in some layers only"),
    ];
    let mut all = lacks_body(a, QkNorm::None, NormPlace::Before);
    all.retain(|what| *what != WINDOWS);
    [all, absent(&own)].concat()
}
