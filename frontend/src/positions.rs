//! `rope_scaling`: how rotary positions are stretched to longer sequences, by Hugging Face's names.

use neoxc_base::codes::{missing_key, not_supported, unknown_key, wrong_type};
use neoxc_config::{Attention, RopeScaling};

use crate::reader::Reader;
use crate::yaml::{Key, Node, Value};

/// Numbers that each kind of scaling takes, those first that it cannot do without.
const KINDS: [(&str, &[&str], &[&str]); 5] = [
    ("default", &[], &[]),
    ("linear", &["factor"], &[]),
    ("ntk", &["factor"], &[]),
    (
        "yarn",
        &["factor", "original_max_position_embeddings"],
        &["beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"],
    ),
    (
        "llama3",
        &["factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"],
        &[],
    ),
];

/// The numbers of a scaling, by their names.
struct Numbers(Vec<(String, f64)>);

impl Numbers {
    fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, x)| *x)
    }

    fn or(&self, name: &str, default: f64) -> f64 {
        self.get(name).unwrap_or(default)
    }
}

impl Reader<'_> {
    /// What is added to positions before a learned table is read. A learned table has a row for every position, and
    /// sines and cosines are as many.
    pub(crate) fn added_positions(&mut self, pos_emb: &str) -> usize {
        let offset = self.whole("opt_pos_emb_offset");
        if offset > 0 && pos_emb != "learned" {
            let message =
                "`opt_pos_emb_offset` is about a learned table, and there is none".to_string();
            let hint = "`--set pos_emb=learned`, or remove it";
            self.both(message, "opt_pos_emb_offset", "pos_emb", hint);
        }
        let [rows, seq] = ["max_position_embeddings", "seq_length"].map(|name| self.int(name));
        if let (Some(rows), Some(seq)) = (rows, seq)
            && (seq <= rows && seq + offset > rows)
        {
            let last = seq + offset;
            let message = format!("positions reach to {last}, and the table has {rows} rows");
            let hint = format!("`--set max_position_embeddings={last}`");
            self.both(message, "opt_pos_emb_offset", "max_position_embeddings", &hint);
        }
        if let Some(hidden) = self.int("hidden_size").filter(|h| h % 2 != 0)
            && pos_emb == "sinusoidal"
        {
            let message = format!("{hidden} dims cannot be as many sines as cosines");
            self.both(message, "hidden_size", "pos_emb", "an even `hidden_size`");
        }
        offset
    }

    /// The base of the frequencies in layers with a sliding window, if it is another than that of layers without.
    pub(crate) fn base_of_windows(&mut self, pos_emb: &str, kinds: &[Attention]) -> Option<f64> {
        let base = self.int("sliding_rotary_emb_base")? as f64;
        if pos_emb != "rotary" {
            let message = "`sliding_rotary_emb_base` is about rotary positions, and there are none";
            let hint = "`--set pos_emb=rotary`, or remove it";
            self.both(message.into(), "sliding_rotary_emb_base", "pos_emb", hint);
        }
        let has = |kind| kinds.contains(&kind);
        let lacks = match (has(Attention::Sliding), has(Attention::Global)) {
            (true, true) => return Some(base),
            (false, _) => "no layer has a sliding window",
            (true, false) => "all layers have a sliding window",
        };
        let message = format!("{lacks}: `rotary_emb_base` is the base of all");
        let hint = format!("`--set sliding_rotary_emb_base=null --set rotary_emb_base={base}`");
        self.both(message, "sliding_rotary_emb_base", "attention_config", &hint);
        None
    }

    /// How frequencies of rotary positions are scaled, if they are.
    pub(crate) fn rope_scaling(&mut self, pos_emb: &str, base: f64) -> Option<RopeScaling> {
        let Value::Map(pairs) = self.find("rope_scaling")?.1.value.clone() else { return None };
        let pairs: Vec<_> = pairs.into_iter().filter(|(_, n)| n.value != Value::Null).collect();
        if pairs.is_empty() {
            return None;
        }
        if pos_emb != "rotary" {
            let message =
                "`rope_scaling` is about rotary positions, and there are none".to_string();
            self.both(message, "rope_scaling", "pos_emb", "`--set pos_emb=rotary`, or remove it");
        }
        let (kind, needed, further) = self.kind_of_scaling(&pairs)?;
        let mut numbers = Numbers(vec![]);
        let (mut truncate, mut whole) = (true, true);
        for (key, node) in &pairs {
            let name = format!("rope_scaling.{}", key.name);
            match key.name.as_str() {
                "type" | "rope_type" => {}
                "truncate" if kind == "yarn" => {
                    self.nested(&name, node);
                    truncate = node.value != Value::Bool(false);
                }
                field if needed.contains(&field) || further.contains(&field) => {
                    match self.nested(&name, node) {
                        Some(x) => numbers.0.push((field.to_string(), x)),
                        None => whole = false,
                    }
                }
                field => self.other_of_scaling(kind, field, key),
            }
        }
        for field in needed {
            if numbers.get(field).is_none() && !self.was_refused(&format!("rope_scaling.{field}")) {
                let what = format!("`{field}` of the rope_scaling `{kind}`");
                let hint =
                    format!("add `{field}` to `rope_scaling`, as the model's config.json has it");
                self.tell(missing_key::missing_key(&what, &hint));
                whole = false;
            }
        }
        if !whole {
            return None;
        }
        self.in_order(kind, &numbers, base);
        let factor = numbers.or("factor", 1.0);
        let original = numbers.or("original_max_position_embeddings", 1.0) as usize;
        match kind {
            "linear" => Some(RopeScaling::Linear { factor }),
            "ntk" => Some(RopeScaling::Ntk { factor }),
            "yarn" => {
                let (mscale, all) = (numbers.get("mscale"), numbers.get("mscale_all_dim"));
                let computed = RopeScaling::attention_factor(factor, mscale, all);
                Some(RopeScaling::Yarn {
                    factor,
                    original,
                    beta_fast: numbers.or("beta_fast", 32.0),
                    beta_slow: numbers.or("beta_slow", 1.0),
                    truncate,
                    attention_factor: numbers.or("attention_factor", computed),
                })
            }
            "llama3" => Some(RopeScaling::Llama3 {
                factor,
                original,
                low_freq_factor: numbers.get("low_freq_factor")?,
                high_freq_factor: numbers.get("high_freq_factor")?,
            }),
            _ => None,
        }
    }

    /// The kind of scaling with the names of its numbers; none where it is not known, which is told.
    fn kind_of_scaling(
        &mut self,
        pairs: &[(Key, Node)],
    ) -> Option<(&'static str, &'static [&'static str], &'static [&'static str])> {
        // `type` is the name of older files.
        let given = |name: &str| pairs.iter().find(|(k, _)| k.name == name).map(|(_, n)| n);
        let Some(node) = given("rope_type").or(given("type")) else {
            let hint = "`rope_type: linear`, `ntk`, `yarn` or `llama3`";
            self.tell(missing_key::missing_key("`rope_type` of `rope_scaling`", hint));
            return None;
        };
        let Value::Str(kind) = &node.value else {
            let found = node.value.describe();
            let name = "rope_scaling.rope_type";
            self.tell(wrong_type::wrong_type(name, &found, "text", &node.span, "`linear`"));
            return None;
        };
        if kind == "dynamic" {
            self.tell(not_supported::not_supported(
                "`rope_scaling` of the type `dynamic`",
                "its frequencies change with the length of the sequence that is read",
                &node.span,
                "`ntk`, whose factor for sequences m times as long is m·factor − factor + 1",
            ));
            return None;
        }
        self.nested("rope_scaling.rope_type", node);
        KINDS.into_iter().find(|(name, ..)| name == kind)
    }

    /// Tells of a key that a kind of scaling does not have.
    fn other_of_scaling(&mut self, kind: &str, field: &str, key: &Key) {
        let all = KINDS.iter().find(|(name, ..)| *name == kind);
        let names =
            all.map(|(_, needed, further)| [*needed, *further].concat()).unwrap_or_default();
        let what = match names[..] {
            [] => format!("a key of the rope_scaling `{kind}`, which has none"),
            _ => format!("a key of the rope_scaling `{kind}`: {}", names.join(", ")),
        };
        let elsewhere = match field {
            "rope_theta" => Some("rotary_emb_base"),
            "partial_rotary_factor" => Some("rotary_pct"),
            _ => None,
        };
        self.tell(unknown_key::unknown_key(field, &what, &key.span, elsewhere));
    }

    /// The ends of a ramp are in order, and the frequencies differ.
    fn in_order(&mut self, kind: &str, numbers: &Numbers, base: f64) {
        let ends = match kind {
            "llama3" => ("low_freq_factor", 1.0, "high_freq_factor", 4.0),
            "yarn" => ("beta_slow", 1.0, "beta_fast", 32.0),
            _ => return,
        };
        let (low, high) = (numbers.or(ends.0, ends.1), numbers.or(ends.2, ends.3));
        if low >= high {
            let message =
                format!("`{}` is {low}, and `{}` is {high}: it must be above", ends.0, ends.2);
            self.both(message, "rope_scaling", "rope_scaling", "swap them");
        }
        if base <= 1.0 {
            let message =
                format!("the rope_scaling `{kind}` tells frequencies apart, and all are 1");
            self.both(message, "rope_scaling", "rotary_emb_base", "`--set rotary_emb_base=10000`");
        }
    }
}
