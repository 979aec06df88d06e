//! How Hugging Face writes models: `config.json` as declared keys, both ways, and what tensors a checkpoint has.
//!
//! Every key of a `config.json` is honoured or refused by name. A family's [`Format`] says of each key what it is
//! (see [`Says`]); its `read` turns those of the model into GPT-NeoX's keys, and its `write` makes them of an
//! architecture. A key that no list has is refused: it may say something of the model.

pub mod rope;

use std::fmt::Display;

use serde_json::{Map, Value};

use super::Family;
use crate::arch::Arch;

/// What a key of `config.json` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// Something of the model: [`Format::read`] reads it.
    Model,
    /// Something of the model that is built in one way only: one of these values (as JSON), or null.
    Only(&'static [&'static str]),
    /// A special id of the tokenizer, or several: an export carries it.
    SpecialId,
    /// Nothing of what the model computes.
    Nothing,
}

/// A declared key.
pub type Key = (&'static str, Says);

/// How Hugging Face writes the models of a family.
#[derive(Debug)]
pub struct Format {
    /// The class whose models these are: `GPTNeoXForCausalLM`.
    pub architecture: &'static str,
    /// Keys besides [`COMMON`], in lists that classes share.
    pub keys: &'static [&'static [Key]],
    /// Reads the keys of the model.
    pub read: fn(&mut Reader<'_>),
    /// The keys of the model, for an architecture.
    pub write: fn(&Arch) -> Map<String, Value>,
    /// What of an architecture the class does not have; nothing if it can be written.
    pub lacks: fn(&Arch) -> Vec<&'static str>,
    /// Ends of the names of tensors that hold no parameters: tables that models make again.
    pub buffers: &'static [&'static str],
}

/// A scale of attention scores that is not that of a head's width, as something that a class has not.
pub const OWN_SCALE: &str = "other scale of attention scores than that of its heads' width";
/// Rotary positions with a base of their own in layers with windows, likewise.
pub const TWO_BASES: &str = "second base of rotary positions";

/// The names of what is absent.
pub fn absent(of: &[(bool, &'static str)]) -> Vec<&'static str> {
    of.iter().filter(|(absent, _)| *absent).map(|(_, what)| *what).collect()
}

/// Keys that configurations of all families may have.
pub const COMMON: &[Key] = &[
    ("model_type", Says::Nothing), // It has chosen the family.
    ("architectures", Says::Model),
    ("bos_token_id", Says::SpecialId),
    ("eos_token_id", Says::SpecialId),
    ("pad_token_id", Says::SpecialId),
    ("unk_token_id", Says::SpecialId),
    ("sep_token_id", Says::SpecialId),
    ("add_cross_attention", Says::Only(&["false"])),
    ("chunk_size_feed_forward", Says::Only(&["0"])),
    ("cross_attention_hidden_size", Says::Only(&[])),
    ("is_decoder", Says::Nothing),
    ("is_encoder_decoder", Says::Only(&["false"])),
    ("pruned_heads", Says::Only(&["{}"])),
    ("quantization_config", Says::Only(&[])),
    ("tie_encoder_decoder", Says::Only(&["false"])),
    ("torchscript", Says::Nothing),
    // Where it came from, and how it is loaded and called.
    ("_attn_implementation", Says::Nothing),
    ("_attn_implementation_autoset", Says::Nothing),
    ("_name_or_path", Says::Nothing),
    ("attn_implementation", Says::Nothing),
    ("classifier_dropout", Says::Nothing),
    ("dtype", Says::Nothing),
    ("finetuning_task", Says::Nothing),
    ("gradient_checkpointing", Says::Nothing),
    ("id2label", Says::Nothing),
    ("initializer_range", Says::Nothing),
    ("label2id", Says::Nothing),
    ("output_attentions", Says::Nothing),
    ("output_hidden_states", Says::Nothing),
    ("prefix", Says::Nothing),
    ("problem_type", Says::Nothing),
    ("return_dict", Says::Nothing),
    ("task_specific_params", Says::Nothing),
    ("tokenizer_class", Says::Nothing),
    ("torch_dtype", Says::Nothing),
    ("transformers_version", Says::Nothing),
    ("use_bfloat16", Says::Nothing),
    ("use_cache", Says::Nothing),
    // How text is sampled, which older versions keep here.
    ("bad_words_ids", Says::Nothing),
    ("begin_suppress_tokens", Says::Nothing),
    ("decoder_start_token_id", Says::Nothing),
    ("diversity_penalty", Says::Nothing),
    ("do_sample", Says::Nothing),
    ("early_stopping", Says::Nothing),
    ("encoder_no_repeat_ngram_size", Says::Nothing),
    ("exponential_decay_length_penalty", Says::Nothing),
    ("forced_bos_token_id", Says::Nothing),
    ("forced_eos_token_id", Says::Nothing),
    ("length_penalty", Says::Nothing),
    ("max_length", Says::Nothing),
    ("min_length", Says::Nothing),
    ("no_repeat_ngram_size", Says::Nothing),
    ("num_beam_groups", Says::Nothing),
    ("num_beams", Says::Nothing),
    ("num_return_sequences", Says::Nothing),
    ("output_scores", Says::Nothing),
    ("remove_invalid_values", Says::Nothing),
    ("repetition_penalty", Says::Nothing),
    ("return_dict_in_generate", Says::Nothing),
    ("suppress_tokens", Says::Nothing),
    ("temperature", Says::Nothing),
    ("tf_legacy_loss", Says::Nothing),
    ("top_k", Says::Nothing),
    ("top_p", Says::Nothing),
    ("typical_p", Says::Nothing),
];

impl Format {
    /// Every key that a configuration may have.
    pub fn all_keys(&self) -> impl Iterator<Item = &Key> {
        COMMON.iter().chain(self.keys.iter().copied().flatten())
    }
}

/// Reads the keys of a model, and collects what they are in GPT-NeoX's keys and what cannot be honoured.
#[derive(Debug)]
pub struct Reader<'a> {
    json: &'a Map<String, Value>,
    sets: Vec<(String, String)>,
    problems: Vec<String>,
}

/// A float as YAML 1.1 reads floats.
pub fn decimal(x: f64) -> String {
    let text = format!("{x:.20}");
    // Twenty decimals are not enough of what is very small.
    if text.parse() == Ok(x) { text } else { format!("{x:.60}") }
}

impl Reader<'_> {
    /// The value of a key, if it is given and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there, null or not: a class may have a default that null takes away.
    pub fn gives(&self, key: &str) -> bool {
        self.json.contains_key(key)
    }

    /// The key cannot be honoured.
    pub fn refuse(&mut self, key: &str, why: impl Display) {
        let value = self.get(key).map_or("not given".into(), Value::to_string);
        self.problems.push(format!("`{key}` is {value}: {why}"));
    }

    /// A whole number above 0, or what it is if the key is missing.
    pub fn whole(&mut self, key: &str, default: u64) -> u64 {
        match self.get(key).map(|v| (v.as_u64(), v)) {
            None => default,
            Some((Some(n), _)) if n > 0 => n,
            Some(_) => {
                self.refuse(key, "a whole number above 0 is expected");
                default.max(1)
            }
        }
    }

    /// A number.
    pub fn number(&mut self, key: &str, default: f64) -> f64 {
        match self.get(key).map(Value::as_f64) {
            None => default,
            Some(Some(x)) => x,
            Some(None) => {
                self.refuse(key, "a number is expected");
                default
            }
        }
    }

    /// A truth value.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.get(key).map(Value::as_bool) {
            None => default,
            Some(Some(x)) => x,
            Some(None) => {
                self.refuse(key, "true or false is expected");
                default
            }
        }
    }

    /// A text.
    pub fn text(&mut self, key: &str, default: &str) -> String {
        match self.get(key).map(|v| v.as_str().map(str::to_string)) {
            None => default.to_string(),
            Some(Some(s)) => s,
            Some(None) => {
                self.refuse(key, "a text is expected");
                default.to_string()
            }
        }
    }

    /// Sets a key of GPT-NeoX; `value` is YAML 1.1.
    pub fn set(&mut self, key: &str, value: impl Display) {
        self.sets.push((key.into(), value.to_string()));
    }

    /// `layer_types`: what each layer attends to must be all tokens before.
    pub fn full_attention(&mut self) {
        let full = |v: &Value| v.as_str() == Some("full_attention");
        let all = self
            .get("layer_types")
            .is_none_or(|v| v.as_array().is_some_and(|layers| layers.iter().all(full)));
        if !all {
            self.refuse("layer_types", "a list of \"full_attention\" is expected");
        }
    }

    /// Rotary positions, in all the places where versions of Hugging Face have them: `old_base` and `old_part` are
    /// the keys beside the others, `rope_scaling` and `rope_parameters` the newer dictionaries. Gives the base, and
    /// the part of a head's dims that rotate; sets `rope_scaling` where positions are scaled.
    pub fn rotary(
        &mut self,
        old_base: &[&str],
        old_part: Option<&str>,
        defaults: (f64, f64),
    ) -> (f64, f64) {
        let mut given = vec![];
        for key in ["rope_scaling", "rope_parameters"] {
            match self.get(key).map(Value::as_object) {
                None => {}
                Some(Some(inner)) => given.push((key, inner.clone())),
                Some(None) => self.refuse(key, "a dictionary is expected"),
            }
        }
        self.rotary_of(&given, old_base, old_part, defaults)
    }

    /// The same, of the dictionaries `given` with the paths of their keys.
    pub fn rotary_of(
        &mut self,
        given: &[(&'static str, Map<String, Value>)],
        old_base: &[&str],
        old_part: Option<&str>,
        defaults: (f64, f64),
    ) -> (f64, f64) {
        // What was given, with the key that gives it.
        let (mut bases, mut parts) = (vec![], vec![]);
        for key in old_base {
            if self.get(key).is_some() {
                bases.push((key.to_string(), self.number(key, defaults.0)));
            }
        }
        if let Some(key) = old_part.filter(|k| self.get(k).is_some()) {
            parts.push((key.to_string(), self.number(key, defaults.1)));
        }
        let mut scalings = vec![];
        for (key, inner) in given {
            let mut scaling = rope::Given { key, ..rope::Given::default() };
            for (name, value) in inner {
                let path = format!("{key}.{name}");
                match (name.as_str(), value.as_f64()) {
                    ("rope_theta", Some(x)) => bases.push((path, x)),
                    ("partial_rotary_factor", Some(x)) => parts.push((path, x)),
                    _ => scaling.take(name, value),
                }
            }
            scalings.push(scaling);
        }
        match &scalings[..] {
            [] => {}
            [one] => self.scaling(one),
            [one, other] if one.same(other) => self.scaling(one),
            _ => {
                self.problems.push("`rope_scaling` and `rope_parameters` scale differently".into())
            }
        }
        for values in [&bases, &parts] as [&Vec<(String, f64)>; 2] {
            if let Some((other, y)) = values.iter().find(|(_, y)| *y != values[0].1) {
                let (first, x) = &values[0];
                self.problems.push(format!("`{first}` is {x}, but `{other}` is {y}"));
            }
        }
        for (key, base) in &bases {
            if base.fract() != 0.0 || !(1.0..1e15).contains(base) {
                self.problems.push(format!(
                    "`{key}` is {base}: GPT-NeoX's `rotary_emb_base` is a whole number"
                ));
            }
        }
        let first = |values: &[(String, f64)], default| values.first().map_or(default, |v| v.1);
        (first(&bases, defaults.0), first(&parts, defaults.1))
    }
}

/// A model that a `config.json` describes.
#[derive(Debug)]
pub struct Described {
    /// Its family.
    pub family: &'static dyn Family,
    /// Keys of GPT-NeoX and their values, as YAML 1.1.
    pub sets: Vec<(String, String)>,
}

/// Reads a `config.json`.
///
/// # Errors
/// Everything that cannot be honoured, each with its key.
pub fn read(json: &Value) -> Result<Described, Vec<String>> {
    let json = json.as_object().ok_or_else(|| vec!["is not an object".to_string()])?;
    let kind = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let known = super::ALL.iter().filter(|f| f.hugging_face().is_some());
    let Some(family) = known.clone().find(|f| f.name() == kind) else {
        let names: Vec<&str> = known.map(|f| f.name()).collect();
        return Err(vec![format!("`model_type` is {kind:?}, not {}", names.join(" or "))]);
    };
    let format = family.hugging_face().expect("only those that have one are searched");
    let mut r = Reader { json, sets: vec![], problems: vec![] };
    for (key, value) in json {
        match format.all_keys().find(|(k, _)| k == key).map(|(_, says)| says) {
            None => r.problems.push(format!(
                "`{key}` is not known: it may say something of the model, so nothing was converted"
            )),
            Some(Says::Only(values)) if !value.is_null() => {
                let fits =
                    |text: &&str| serde_json::from_str::<Value>(text).ok().as_ref() == Some(value);
                if !values.iter().any(fits) {
                    r.refuse(key, "not supported yet");
                }
            }
            _ => {}
        }
    }
    match r.get("architectures").map(Value::as_array) {
        Some(None) => r.refuse("architectures", "a list is expected"),
        Some(Some(list)) => {
            let other = list.iter().find(|a| a.as_str() != Some(format.architecture));
            if let Some(other) = other.cloned() {
                let what = format!("`architectures` has {other}, not {}", format.architecture);
                r.problems.push(what);
            }
        }
        None => {}
    }
    (format.read)(&mut r);
    r.set("model_family", family.name());
    if r.problems.is_empty() {
        Ok(Described { family: *family, sets: r.sets })
    } else {
        Err(r.problems)
    }
}

/// The `config.json` of an architecture, without special ids and dtype.
///
/// # Errors
/// What Hugging Face's class does not have of the architecture.
pub fn write(a: &Arch) -> Result<Map<String, Value>, String> {
    let family = super::of(a);
    let format = family
        .hugging_face()
        .ok_or_else(|| format!("Hugging Face has no models of the family {}", family.name()))?;
    let lacks = (format.lacks)(a);
    if !lacks.is_empty() {
        return Err(format!("{} has no {}", format.architecture, lacks.join(", no ")));
    }
    let mut out = Map::new();
    out.insert("architectures".into(), vec![format.architecture].into());
    out.insert("model_type".into(), family.name().into());
    out.extend((format.write)(a));
    out.insert("use_cache".into(), true.into());
    Ok(out)
}

/// The part of a head's dims that rotate, as a fraction of which Hugging Face's `int(head * part)` makes `dims`.
pub fn rotary_part(dims: usize, head: usize) -> f64 {
    let part = dims as f64 / head as f64;
    if (head as f64 * part) as usize == dims { part } else { part.next_up() }
}
