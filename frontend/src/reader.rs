//! Reads typed values of merged keys, by the tables of [`crate::arguments`], and collects what is wrong.
//!
//! Types, ranges and words are checked once, in [`Reader::every_key`]; afterwards a value that was refused
//! reads as if it were not given.

use neoxc_base::codes::{
    adjusted_value, conflict, impossible_value, missing_key, not_supported, unknown_key,
    without_effect, wrong_type,
};
use neoxc_base::diag::{Diagnostic, Span};

use crate::arguments::former::former;
use crate::arguments::{Argument, Kind, Preset, Range, Status, alternatives, find, nearest};
use crate::merge::Merged;
use crate::yaml::{Key, Node, TOLD, Value};

/// Keys, and the problems found so far.
pub(crate) struct Reader<'a> {
    pub(crate) keys: &'a Merged,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
    /// Names of keys whose values were refused.
    refused: Vec<String>,
    /// Keys of parts that are missing as a whole, which was told.
    pub(crate) absent: Vec<&'static str>,
}

/// The number that a value is.
pub(crate) fn number(v: &Value) -> Option<f64> {
    match v {
        Value::Int(i) => Some(*i as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

/// Whether `value` is of the type that an argument has.
fn fits(value: &Value, kind: Kind) -> bool {
    match (value, kind) {
        (Value::Null, _) | (_, Kind::Any) => true,
        (Value::Int(_), Kind::Int | Kind::Float) | (Value::Float(_), Kind::Float) => true,
        // Whole floats are taken as NeoX's own files use them (`lr-decay-iters: 143000.0`).
        (Value::Float(x), Kind::Int) => x.fract() == 0.0 && x.abs() < 1e15,
        (Value::Bool(_), Kind::Bool)
        | (Value::Str(_), Kind::Str)
        | (Value::List(_), Kind::List)
        | (Value::Map(_), Kind::Dict) => true,
        _ => false,
    }
}

/// Whether `value` asks for nothing: the default, null, or something empty or switched off.
fn asks_for_nothing(value: &Value, preset: Preset) -> bool {
    match (value, preset) {
        (Value::Null, _) => true,
        (Value::Bool(a), Preset::Bool(b)) => *a == b,
        (Value::Bool(a), Preset::Null) => !*a,
        (v, Preset::Number(b)) => number(v) == Some(b),
        (Value::Str(a), Preset::Text(b)) => a == b,
        (Value::List(l), _) => l.is_empty(),
        (Value::Map(m), _) => m.is_empty() || disabled(m),
        _ => false,
    }
}

/// A dictionary such as `fp16` that switches itself off.
pub(crate) fn disabled(map: &[(Key, Node)]) -> bool {
    let given = |name: &str| map.iter().find(|(k, _)| k.name == name).map(|(_, n)| &n.value);
    match (given("enabled"), given("fp16")) {
        (Some(Value::Bool(b)), _) => !*b,
        (None, Some(Value::Bool(b))) => !*b,
        _ => map.is_empty(),
    }
}

/// Whether a number may be meant, but not which: an exponent whose sign is an underscore.
fn is_doubtful(value: &Value) -> bool {
    matches!(value, Value::Str(s) if s.to_lowercase().contains("e_"))
}

/// What YAML 1.1 takes for text but is meant as a number, written as a number.
fn as_number(value: &Value) -> Option<String> {
    let Value::Str(s) = value else { return None };
    let minus = s.to_lowercase().replace("e_", "e-");
    let x: f64 = minus.replace('_', "").parse().ok()?;
    let text = format!("{x:e}");
    Some(match text.split_once('e') {
        Some((m, e)) if !m.contains('.') => {
            format!("{m}.0e{}{e}", if e.starts_with('-') { "" } else { "+" })
        }
        Some((m, e)) if !e.starts_with('-') => format!("{m}e+{e}"),
        _ => text,
    })
}

impl<'a> Reader<'a> {
    /// A reader of `keys` that has refused nothing yet.
    pub(crate) fn new(keys: &'a Merged, diagnostics: &'a mut Vec<Diagnostic>) -> Self {
        Reader { keys, diagnostics, refused: vec![], absent: vec![] }
    }

    /// Adds an error.
    pub(crate) fn tell(&mut self, d: Diagnostic) {
        self.diagnostics.push(d);
    }

    /// Checks that every key is known, and every value of its type, in its range and supported.
    pub(crate) fn every_key(&mut self) {
        let mut idle: Vec<(&Key, &str)> = vec![];
        let mut unknown: Vec<&Key> = vec![];
        for (key, node) in self.keys {
            let Some(a) = find(&key.name).filter(|a| !a.name.contains('.')) else {
                unknown.push(key);
                continue;
            };
            match a.status {
                _ if !self.is_typed(a, node) => {}
                Status::Supported => self.is_allowed(a, node),
                Status::WithoutEffect(why) => idle.push((key, why)),
                Status::Unread => idle.push((key, "nothing reads it in GPT-NeoX either")),
                Status::NotYet { kind, why, .. } => {
                    if !asks_for_nothing(&node.value, a.default) {
                        let what = format!("`{}`", a.name);
                        let instead = a.instead();
                        let d = not_supported::waits(kind, &what, why, &key.span, &instead);
                        self.tell(d);
                    }
                }
            }
        }
        for key in unknown.iter().take(TOLD) {
            let (near, what) = (nearest(&key.name), "an argument of GPT-NeoX");
            self.tell(match former(&key.name) {
                Some(f) if f.renamed => unknown_key::renamed_key(&key.name, f.now, &key.span),
                Some(f) => unknown_key::former_key(&key.name, f.now, &key.span),
                None => unknown_key::unknown_key(&key.name, what, &key.span, near),
            });
        }
        if let Some(key) = unknown.get(TOLD) {
            self.tell(unknown_key::more(unknown.len() - TOLD, &key.span));
        }
        if let Some((first, why)) = idle.first() {
            let names: Vec<&str> = idle.iter().map(|(k, _)| k.name.as_str()).collect();
            let message = format!("known, but without effect here: {}", names.join(", "));
            self.tell(without_effect::without_effect(&message, &first.span, why));
        }
    }

    /// Whether the value at `node` is of the argument's type; tells of it where not.
    fn is_typed(&mut self, a: &Argument, node: &Node) -> bool {
        if fits(&node.value, a.kind) {
            return true;
        }
        let hint = match as_number(&node.value) {
            Some(text) => format!("YAML 1.1 reads this as text; write {text}"),
            None => String::new(),
        };
        let (found, want) = (node.value.describe(), a.kind.says());
        let d = wrong_type::wrong_type(a.name, &found, want, &node.span, &hint);
        // `1.0e_8` may be meant with a plus or a minus: that is a hint, and no answer.
        let sure = |text: &String| !text.is_empty() && !is_doubtful(&node.value);
        self.tell(match as_number(&node.value).filter(sure) {
            Some(text) => d.edit(&node.span, text),
            None => d,
        });
        self.refused.push(a.name.to_string());
        false
    }

    /// Checks that the value at `node` is in the argument's range.
    fn is_allowed(&mut self, a: &Argument, node: &Node) {
        let d = match (&node.value, a.range) {
            (Value::Str(s), Range::Words { supported, others }) => {
                if supported.contains(&s.as_str()) {
                    return;
                }
                let known = |w: &&str| w.strip_suffix('*').map_or(s == w, |p| s.starts_with(p));
                if others.iter().any(known) {
                    let what = format!("`{}: {s}`", a.name);
                    let instead = format!("use {}", alternatives(supported));
                    not_supported::not_supported(&what, "", &node.span, &instead)
                } else {
                    let range = a.range.to_string();
                    impossible_value::out_of_range(a.name, &format!("{s:?}"), &range, &node.span)
                }
            }
            (value, range) => {
                let bad = match value {
                    Value::List(l) => l.iter().find(|n| !in_range(&n.value, range)),
                    v if !in_range(v, range) => Some(node),
                    _ => None,
                };
                let Some(bad) = bad else { return };
                let found = number(&bad.value).map_or(bad.value.describe(), |x| x.to_string());
                impossible_value::out_of_range(a.name, &found, &range.to_string(), &bad.span)
            }
        };
        self.tell(d);
        self.refused.push(a.name.to_string());
    }

    /// The number at `node`, which is the value of the key of a dictionary called `name` (such as
    /// `optimizer.params.eps`): none where it is of another type or out of range, which is told.
    pub(crate) fn nested(&mut self, name: &str, node: &Node) -> Option<f64> {
        let a = find(name).expect("keys of dictionaries are declared in arguments/nested.rs");
        if !self.is_typed(a, node) {
            return None;
        }
        self.is_allowed(a, node);
        number(&node.value).filter(|_| !self.was_refused(name))
    }

    /// Whether the value of `name` was refused, which was told.
    pub(crate) fn was_refused(&self, name: &str) -> bool {
        self.refused.iter().any(|r| r == name)
    }

    /// Whether the dictionary called `name` has the key that `path` leads to.
    pub(crate) fn has(&self, name: &str, path: &[&str]) -> bool {
        let mut node = self.find(name).map(|(_, n)| n);
        for part in path {
            node = match node.map(|n| &n.value) {
                Some(Value::Map(m)) => m.iter().find(|(k, _)| k.name == *part).map(|(_, n)| n),
                _ => None,
            };
        }
        node.is_some()
    }

    /// The key called `name` with its value, where it is given and not refused.
    pub(crate) fn find(&self, name: &str) -> Option<&'a (Key, Node)> {
        self.place(name).filter(|_| !self.was_refused(name))
    }

    /// Whether `name` is given, right or wrong.
    pub(crate) fn is_there(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    /// The key called `name` with its value, where it is given, right or wrong.
    pub(crate) fn place(&self, name: &str) -> Option<&'a (Key, Node)> {
        self.keys.iter().find(|(k, n)| k.name == name && n.value != Value::Null)
    }

    /// The whole number given for `name`.
    pub(crate) fn int(&self, name: &str) -> Option<usize> {
        match self.find(name)?.1.value {
            Value::Int(i) => usize::try_from(i).ok(),
            Value::Float(x) => Some(x as usize),
            _ => None,
        }
    }

    /// The whole number given for `name`, or its default.
    pub(crate) fn whole(&self, name: &str) -> usize {
        self.int(name).unwrap_or(match preset(name) {
            Preset::Number(x) => x as usize,
            other => unreachable!("`{name}` has the default {other}"),
        })
    }

    /// The number given for `name`.
    pub(crate) fn given(&self, name: &str) -> Option<f64> {
        self.find(name).and_then(|(_, n)| number(&n.value))
    }

    /// The number given for `name`, or its default.
    pub(crate) fn float(&self, name: &str) -> f64 {
        self.given(name).unwrap_or(match preset(name) {
            Preset::Number(x) => x,
            other => unreachable!("`{name}` has the default {other}"),
        })
    }

    /// The truth value given for `name`, or its default.
    pub(crate) fn bool(&self, name: &str) -> bool {
        match (self.find(name).map(|(_, n)| &n.value), preset(name)) {
            (Some(Value::Bool(b)), _) => *b,
            (_, Preset::Bool(b)) => b,
            (_, other) => unreachable!("`{name}` has the default {other}"),
        }
    }

    /// The truth value given for `name`, which has no default.
    pub(crate) fn maybe(&self, name: &str) -> Option<bool> {
        match self.find(name)?.1.value {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// The text given for `name`.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        match &self.find(name)?.1.value {
            Value::Str(s) => Some(s.clone()),
            _ => None,
        }
    }

    /// The text given for `name`, or its default: one of the words that are supported.
    pub(crate) fn word(&self, name: &str) -> String {
        self.text(name).unwrap_or_else(|| match preset(name) {
            Preset::Text(t) => t.to_string(),
            other => unreachable!("`{name}` has the default {other}"),
        })
    }

    /// The whole number for a key that must be given.
    pub(crate) fn required(&mut self, name: &str) -> Option<usize> {
        if self.place(name).is_none() && !self.is_absent(name) {
            let hint = format!("add it to a file, or `--set {name}=…`");
            self.tell(missing_key::missing_key(&format!("`{name}`"), &hint));
        }
        self.int(name)
    }

    /// The places of keys, where they are given, each with what is said of it.
    pub(crate) fn places(&self, labels: &[(&str, &str)]) -> Vec<(Span, String)> {
        let place = |(name, text): &(&str, &str)| {
            self.place(name).map(|(_, n)| (n.span.clone(), text.to_string()))
        };
        labels.iter().filter_map(place).collect()
    }

    /// A warning that something else is done than what was asked for.
    pub(crate) fn adjusted(&mut self, message: String, labels: &[(&str, &str)], hint: &str) {
        let places = self.places(labels);
        self.tell(adjusted_value::adjusted_value(&message, &places, hint));
    }

    /// A conflict between two keys, both shown where they are given.
    pub(crate) fn both(&mut self, message: String, a: &str, b: &str, hint: &str) {
        let (of_a, of_b) = (format!("`{a}`"), format!("`{b}`"));
        let places = self.places(&[(a, &of_a), (b, &of_b)]);
        self.tell(conflict::conflict(&message, &places, hint));
    }
}

/// Whether a number lies in `range`; values of other types do where they are none of a range's business.
fn in_range(value: &Value, range: Range) -> bool {
    match number(value) {
        Some(x) => range.contains(x),
        None => true,
    }
}

/// The default of an argument that there is.
fn preset(name: &str) -> Preset {
    find(name).expect("arguments that are read are declared in arguments/").default
}
