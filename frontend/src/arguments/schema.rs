//! A JSON schema of configuration files, for editors: `docs/neoxc.schema.json`.

use serde_json::{Map, Value, json};

use super::{Argument, GROUPS, Kind, NESTED, Preset, Range, Status};

/// A default as JSON.
fn preset(p: Preset) -> Value {
    match p {
        Preset::Null => Value::Null,
        Preset::Bool(b) => b.into(),
        Preset::Number(x) if x.fract() == 0.0 => (x as i64).into(),
        Preset::Number(x) => x.into(),
        Preset::Text(t) => t.into(),
    }
}

/// The schema of one argument's value.
fn value(a: &Argument) -> Value {
    let mut out = Map::new();
    let fate = a.fate().map(|f| format!(" {f}")).unwrap_or_default();
    out.insert("description".into(), format!("{}{fate}", a.doc).into());
    if a.default != Preset::Null {
        out.insert("default".into(), preset(a.default));
    }
    let kind = match a.kind {
        Kind::Int => Some("integer"),
        Kind::Float => Some("number"),
        Kind::Bool => Some("boolean"),
        Kind::Str => Some("string"),
        Kind::List => Some("array"),
        Kind::Dict => Some("object"),
        Kind::Any => None,
    };
    if let Some(kind) = kind {
        out.insert("type".into(), json!([kind, "null"]));
    }
    let alone = matches!(a.kind, Kind::Int | Kind::Float | Kind::Bool | Kind::Str);
    match (a.status, a.range) {
        // Only what asks for nothing is accepted. (What is empty is, too, in lists and dictionaries.)
        (Status::NotYet { .. }, _) if alone => {
            let nothing = match (a.default, a.kind) {
                (Preset::Null, Kind::Bool) => json!([false, null]),
                (Preset::Null, _) => json!([null]),
                (p, _) => json!([preset(p), null]),
            };
            out.insert("enum".into(), nothing);
        }
        (Status::Supported, Range::Words { supported, .. }) => {
            let mut words: Vec<Value> = supported.iter().map(|w| (*w).into()).collect();
            words.push(Value::Null);
            out.insert("enum".into(), words.into());
        }
        (Status::Supported, range) => limits(&mut out, a.kind, range),
        _ => {}
    }
    let below = nested(&format!("{}.", a.name));
    match a.kind {
        _ if below.is_empty() => {}
        // A list whose entries are dictionaries.
        Kind::List => {
            out.insert("items".into(), json!({ "type": "object", "properties": below }));
        }
        _ => {
            out.insert("properties".into(), below.into());
        }
    }
    out.into()
}

/// The ends of a range, of a number or of the numbers of a list.
fn limits(out: &mut Map<String, Value>, kind: Kind, range: Range) {
    let ends = match range {
        Range::Any | Range::Words { .. } => return,
        Range::Between(low, high) if high.is_infinite() => json!({ "minimum": low }),
        Range::Between(low, high) => json!({ "minimum": low, "maximum": high }),
        Range::Below(low, high) if high.is_infinite() => json!({ "minimum": low }),
        Range::Below(low, high) => json!({ "minimum": low, "exclusiveMaximum": high }),
    };
    match (kind, ends) {
        (Kind::List, ends) => {
            out.insert("items".into(), ends);
        }
        (_, Value::Object(ends)) => out.extend(ends),
        _ => {}
    }
}

/// Keys of the dictionary whose name `prefix` is, with a dot.
fn nested(prefix: &str) -> Map<String, Value> {
    NESTED
        .iter()
        .filter_map(|a| Some((a.name.strip_prefix(prefix)?, a)))
        .filter(|(rest, _)| !rest.contains('.'))
        .map(|(rest, a)| (rest.to_string(), value(a)))
        .collect()
}

/// `docs/neoxc.schema.json`.
pub fn schema() -> Value {
    let mut properties = Map::new();
    for a in GROUPS.iter().flat_map(|g| g.arguments) {
        properties.insert(a.name.into(), value(a));
        if a.name.contains('_') {
            let same = json!({ "$ref": format!("#/properties/{}", a.name) });
            properties.insert(a.name.replace('_', "-"), same);
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A GPT-NeoX configuration, as neoxc reads it",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}
