//! Gemma 3 (Gemma Team 2025, arXiv:2503.19786), the models of text: Llama with a gate of GELU's tanh form, RMS norms of
//! 1 + weight around each branch (`norm_place: around`) and of each head's queries and keys, and an embedding that is
//! multiplied by the root of the width. Most layers see a window of tokens and rotate by a base of their own
//! (`sliding_rotary_emb_base`); every sixth sees all tokens, and only its positions are scaled.

use serde_json::{Map, Value, json};

use super::experts;
use super::hugging_face::{Format, Key, OWN_SCALE, Reader, Says, TWO_BASES, absent, decimal};
use super::llama::NamedAsLlama;
use super::llama::config_json::{
    BODY, Defaults, WINDOWS, lacks_body, read_gate_of, read_sizes, read_tied, set_all, set_rotary,
    write_body,
};
use crate::arch::{Arch, Attention, NormPlace, Positions, QkNorm};
use crate::blocks::activations::Activation;

/// The family.
pub const GEMMA3: NamedAsLlama =
    NamedAsLlama { name: "gemma3_text", format: Some(&FORMAT), lacks, experts: &experts::GPT_NEOX };

/// Keys beside those of [`BODY`].
const OWN: &[Key] = &[
    // How often layers are global, where `layer_types` was made; that is what counts.
    ("_sliding_window_pattern", Says::Nothing),
    ("attention_bias", Says::Model),
    ("attn_logit_softcapping", Says::Only(&[])),
    ("cache_implementation", Says::Nothing),
    ("final_logit_softcapping", Says::Only(&[])),
    ("hidden_activation", Says::Model),
    ("layer_types", Says::Model),
    ("query_pre_attn_scalar", Says::Model),
    ("rope_local_base_freq", Says::Model),
    ("sliding_window", Says::Model),
    ("sliding_window_pattern", Says::Model),
    ("use_bidirectional_attention", Says::Only(&["false"])),
];

/// How Hugging Face writes Gemma 3's models of text.
const FORMAT: Format = Format {
    architecture: "Gemma3ForCausalLM",
    keys: &[BODY, OWN],
    read,
    write,
    lacks,
    buffers: &[".rotary_emb.inv_freq"],
};

/// Defaults of Hugging Face's `Gemma3TextConfig`.
const DEFAULTS: Defaults = Defaults {
    layers: 26,
    vocab: 262_208,
    hidden: 2304,
    heads: 8,
    kv_heads: Some(4),
    head_dim: Some(256),
    ffn: 9216,
    positions: 131_072,
    eps: 1e-6,
};

/// Keys that a token sees in a layer with a window, where a file says nothing.
const WINDOW: u64 = 4096;
/// Every how manieth layer has no window, where a file says nothing.
const PATTERN: u64 = 6;
/// What Hugging Face calls what a layer attends to.
const KINDS: [(Attention, &str); 2] =
    [(Attention::Sliding, "sliding_attention"), (Attention::Global, "full_attention")];

fn read(r: &mut Reader<'_>) {
    read_sizes(r, &DEFAULTS);
    for key in ["head_dim", "num_key_value_heads"] {
        if r.gives(key) && r.get(key).is_none() {
            r.refuse(key, "a whole number is expected");
        }
    }
    read_gate_of(r, "hidden_activation", "gelu_pytorch_tanh");
    read_tied(r, true);
    r.set("qk_norm", "head");
    r.set("norm_place", "around");
    r.set("zero_centred_norms", true);
    let hidden = r.whole("hidden_size", DEFAULTS.hidden);
    r.set("embedding_scale", decimal((hidden as f64).sqrt()));
    let scalar = r.whole("query_pre_attn_scalar", 256);
    r.set("query_pre_attn_scalar", scalar);
    let biases = r.flag("attention_bias", false);
    r.set("use_bias_in_attn_linear", biases);
    set_all(r, &["use_bias_in_mlp"], false);
    let kinds = read_kinds(r);
    let names: Vec<String> = kinds.iter().map(|kind| format!("\"{kind}\"")).collect();
    r.set("attention_config", format!("[{}]", names.join(", ")));
    let sliding = kinds.contains(&Attention::Sliding);
    let keys = r.whole("sliding_window", WINDOW);
    if sliding && r.gives("sliding_window") && r.get("sliding_window").is_none() {
        r.refuse("sliding_window", "layers have windows, and no width of them is given");
    }
    if sliding {
        // Hugging Face counts the token itself.
        r.set("sliding_window_width", keys - 1);
    }
    read_positions(r, sliding, kinds.contains(&Attention::Global));
}

/// What each layer attends to.
fn read_kinds(r: &mut Reader<'_>) -> Vec<Attention> {
    let layers = r.whole("num_hidden_layers", DEFAULTS.layers);
    let pattern = r.whole("sliding_window_pattern", PATTERN);
    let kind = |name: &Value| KINDS.iter().find(|(_, theirs)| name == theirs).map(|k| k.0);
    let given =
        r.get("layer_types").map(|v| v.as_array().and_then(|l| l.iter().map(kind).collect()));
    match given {
        Some(Some::<Vec<Attention>>(kinds)) if kinds.len() as u64 == layers => kinds,
        Some(_) => {
            let why = format!(
                "a list of {layers} \"sliding_attention\" and \"full_attention\" is expected"
            );
            r.refuse("layer_types", why);
            vec![]
        }
        // A file may say any number of layers, whose memory is not worth spending.
        None if layers > 100_000 => vec![],
        None => (1..=layers)
            .map(|n| if n % pattern == 0 { Attention::Global } else { Attention::Sliding })
            .collect(),
    }
}

/// Rotary positions of layers with windows and of the others: beside the other keys as in older files, or a dictionary
/// for each in `rope_parameters`.
fn read_positions(r: &mut Reader<'_>, sliding: bool, global: bool) {
    let (mut of_global, mut of_windows) = (vec![], vec![]);
    match r.get("rope_scaling").map(Value::as_object) {
        None => {}
        Some(Some(inner)) => of_global.push(("rope_scaling", inner.clone())),
        Some(None) => r.refuse("rope_scaling", "a dictionary is expected"),
    }
    match r.get("rope_parameters").cloned() {
        None => {}
        Some(Value::Object(both)) => {
            for (kind, value) in both {
                match (kind.as_str(), value) {
                    ("full_attention", Value::Object(inner)) => {
                        of_global.push(("rope_parameters.full_attention", inner));
                    }
                    ("sliding_attention", Value::Object(inner)) => {
                        of_windows.push(("rope_parameters.sliding_attention", inner));
                    }
                    (_, Value::Null) => {}
                    _ => r.refuse(
                        "rope_parameters",
                        "a dictionary for \"full_attention\" and one for \"sliding_attention\" is expected",
                    ),
                }
            }
        }
        Some(_) => r.refuse("rope_parameters", "a dictionary is expected"),
    }
    let scaled = of_windows.iter().any(|(_, inner)| {
        inner.get("rope_type").or(inner.get("type")).is_some_and(|kind| kind != "default")
    });
    if scaled {
        r.refuse("rope_parameters", "positions in layers with windows are not scaled");
        of_windows.clear();
    }
    let (base, part) = r.rotary_of(&of_global, &["rope_theta"], None, (1_000_000.0, 1.0));
    let (local, of_local) =
        r.rotary_of(&of_windows, &["rope_local_base_freq"], None, (10_000.0, 1.0));
    match (global, sliding) {
        (true, true) => r.set("sliding_rotary_emb_base", local as u64),
        (false, true) => {
            // There is nothing that the other base is of.
            set_rotary(r, local, of_local);
            return;
        }
        _ => {}
    }
    set_rotary(r, base, if part == 1.0 { of_local } else { part });
}

fn write(a: &Arch) -> Map<String, Value> {
    let mut out = write_body(a);
    let base = match a.positions {
        Positions::Rotary { base, .. } => base,
        _ => 0.0,
    };
    let act = out.remove("hidden_act").unwrap_or_default();
    let kinds: Vec<Attention> = a.kinds().iter().map(|kind| kind.attention).collect();
    let name = |kind: &Attention| KINDS.iter().find(|(ours, _)| ours == kind).map(|(_, n)| *n);
    let names: Vec<_> = kinds.iter().map(name).collect();
    for (key, value) in [
        ("attention_bias", json!(a.attention_bias)),
        ("hidden_activation", act),
        ("layer_types", json!(names)),
        ("query_pre_attn_scalar", json!(a.query_scalar.unwrap_or(a.head_dim))),
        ("rope_local_base_freq", json!(a.sliding_base.unwrap_or(base))),
        ("sliding_window", json!(a.window.map(|w| w + 1))),
    ] {
        out.insert(key.into(), value);
    }
    // Older versions read this in the place of the list.
    let first =
        kinds.iter().position(|kind| *kind == Attention::Global).map_or(a.layers + 1, |n| n + 1);
    let repeats =
        |(n, kind): (usize, &Attention)| (*kind == Attention::Global) == ((n + 1) % first == 0);
    if kinds.iter().enumerate().all(repeats) {
        out.insert("sliding_window_pattern".into(), json!(first));
    }
    out
}

fn lacks(a: &Arch) -> Vec<&'static str> {
    let scaled = matches!(a.positions, Positions::Rotary { scaling: Some(_), .. });
    let scale = (a.embed as f64).sqrt();
    let own = [
        (!a.zero_centred, "norms without the 1 that is added to weights"),
        ((a.embedding_scale / scale - 1.0).abs() > 1e-6, "scale of the embedding but √hidden_size"),
        (a.gated && a.activation != Activation::GeluTanh, "gate but geglu_tanh"),
        (
            scaled && a.has_windows() && a.sliding_base.is_none(),
            "scaled positions in layers with windows",
        ),
        (a.attention_bias != a.out_bias, "attention with biases in some places only"),
        (a.mlp_bias, "biases of the MLP"),
    ];
    let has = [WINDOWS, OWN_SCALE, TWO_BASES, "norms with 1 + weight", "scale of the embedding"];
    let mut all = lacks_body(a, QkNorm::Head, NormPlace::Around);
    all.retain(|what| !has.contains(what));
    [all, absent(&own)].concat()
}
