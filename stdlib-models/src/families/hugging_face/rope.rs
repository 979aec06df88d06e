//! Scaled rotary positions in `config.json`, both ways: `rope_scaling`, or `rope_parameters` in newer files.

use serde_json::{Map, Value, json};

use super::{Reader, decimal};
use crate::arch::{Arch, Positions, RopeScaling};

/// The fields of each kind that Hugging Face has, beside its type.
const KINDS: [(&str, &[&str]); 3] = [
    ("linear", &["factor"]),
    (
        "yarn",
        &[
            "factor",
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ],
    ),
    (
        "llama3",
        &["factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"],
    ),
];

/// What one of the two dictionaries says of scaling.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// The dictionary's key.
    pub key: &'static str,
    /// The type.
    pub kind: Option<String>,
    /// Its other fields.
    pub fields: Vec<(String, Value)>,
}

impl Given {
    /// Whether both say the same.
    pub fn same(&self, other: &Given) -> bool {
        let sorted = |g: &Given| {
            let mut fields: Vec<String> = g.fields.iter().map(|f| format!("{f:?}")).collect();
            fields.sort();
            fields
        };
        self.kind == other.kind && sorted(self) == sorted(other)
    }

    /// Takes a field that says nothing of base or part.
    pub fn take(&mut self, name: &str, value: &Value) {
        match (name, value) {
            (_, Value::Null) => {}
            // The older name never wins over the newer one.
            ("type", Value::String(s)) => self.kind = self.kind.take().or(Some(s.clone())),
            ("rope_type", Value::String(s)) => self.kind = Some(s.clone()),
            _ => self.fields.push((name.to_string(), value.clone())),
        }
    }
}

impl Reader<'_> {
    /// Sets `rope_scaling` to what is given; tells of what Hugging Face does not have, or this does not do.
    pub(super) fn scaling(&mut self, given: &Given) {
        let key = given.key;
        let kind = given.kind.as_deref().unwrap_or("default");
        let known = KINDS.iter().find(|(name, _)| *name == kind);
        if known.is_none() && kind != "default" {
            let all: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
            let all = all.join(", ");
            self.problems.push(format!(
                "`{key}.rope_type` is {kind:?}: of scaled rotary positions there are {all}"
            ));
            return;
        }
        let fields = known.map_or(&[][..], |(_, fields)| fields);
        let mut said = vec![];
        for (name, value) in &given.fields {
            let number = value.as_f64().filter(|_| name != "truncate");
            let text = match (number, value) {
                (Some(_), Value::Number(n)) if n.is_u64() => n.to_string(),
                (Some(x), _) => decimal(x),
                (None, Value::Bool(b)) if name == "truncate" => b.to_string(),
                _ => String::new(),
            };
            if !fields.contains(&name.as_str()) || text.is_empty() {
                self.problems.push(format!(
                    "`{key}.{name}` is {value}: rotary positions of the type `{kind}` have no such field"
                ));
            }
            said.push((name.clone(), text));
        }
        const ORIGINAL: &str = "original_max_position_embeddings";
        if fields.contains(&ORIGINAL) && !said.iter().any(|(name, _)| name == ORIGINAL) {
            // What Hugging Face takes where it is left out: the positions, which every class has read by now.
            let positions = self.sets.iter().find(|(key, _)| key == "max_position_embeddings");
            said.push((ORIGINAL.into(), positions.map_or(String::new(), |(_, n)| n.clone())));
        }
        if known.is_some() {
            let said: String =
                said.iter().map(|(name, text)| format!(", {name}: {text}")).collect();
            self.set("rope_scaling", format!("{{rope_type: {kind}{said}}}"));
        }
    }
}

/// Whether Hugging Face has the model's scaling of rotary positions, if they are scaled.
pub fn has(a: &Arch) -> bool {
    !matches!(a.positions, Positions::Rotary { scaling: Some(RopeScaling::Ntk { .. }), .. })
}

/// `rope_scaling`, where positions are scaled.
pub fn write(a: &Arch, out: &mut Map<String, Value>) {
    let Positions::Rotary { scaling: Some(scaling), .. } = a.positions else { return };
    let mut value = json!({ "rope_type": scaling.name() });
    let mut put = |name: &str, x: Value| value[name] = x;
    match scaling {
        RopeScaling::Linear { factor } | RopeScaling::Ntk { factor } => {
            put("factor", json!(factor))
        }
        RopeScaling::Yarn {
            factor,
            original,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor,
        } => {
            put("factor", json!(factor));
            put("original_max_position_embeddings", json!(original));
            put("beta_fast", json!(beta_fast));
            put("beta_slow", json!(beta_slow));
            put("truncate", json!(truncate));
            put("attention_factor", json!(attention_factor));
        }
        RopeScaling::Llama3 { factor, original, low_freq_factor, high_freq_factor } => {
            put("factor", json!(factor));
            put("original_max_position_embeddings", json!(original));
            put("low_freq_factor", json!(low_freq_factor));
            put("high_freq_factor", json!(high_freq_factor));
        }
    }
    out.insert("rope_scaling".into(), value);
}
