//! YAML text → a tree of nodes with places, resolved as PyYAML (YAML 1.1) does.
//!
//! Invariant: no input panics or recurses without bound; every node knows its place. Work and memory are linear in the
//! text, whatever its keys, anchors and duplicates, up to a bound.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use neoxc_base::codes::{duplicate_key, syntax};
use neoxc_base::diag::{Diagnostic, Span};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

/// Nesting beyond this is refused.
const MAX_DEPTH: usize = 40;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~`, nothing.
    Null,
    /// Truth value.
    Bool(bool),
    /// Whole number.
    Int(i64),
    /// Number.
    Float(f64),
    /// Text.
    Str(String),
    /// List.
    List(Vec<Node>),
    /// Mapping, in file order.
    Map(Vec<(Key, Node)>),
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// A key: underscored name and place.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// With `-` replaced by `_`.
    pub name: String,
    /// Where it is.
    pub span: Span,
}

impl Value {
    /// What a person calls it.
    pub fn describe(&self) -> String {
        match self {
            Value::Null => "null".into(),
            Value::Bool(b) => format!("the truth value {b}"),
            Value::Int(i) => format!("the whole number {i}"),
            Value::Float(x) => format!("the number {x}"),
            Value::Str(s) => format!("the text {s:?}"),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a dictionary".into(),
        }
    }

    /// As JSON.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => (*i).into(),
            Value::Float(x) => {
                serde_json::Number::from_f64(*x).map_or(serde_json::Value::Null, Into::into)
            }
            Value::Str(s) => s.clone().into(),
            Value::List(l) => l.iter().map(|n| n.value.json()).collect::<Vec<_>>().into(),
            Value::Map(m) => {
                let pairs = m.iter().map(|(k, v)| (k.name.clone(), v.value.json()));
                serde_json::Value::Object(pairs.collect())
            }
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    file: Arc<str>,
    anchors: HashMap<usize, Node>,
    diagnostics: Vec<Diagnostic>,
    /// Keys that are given twice, beyond those that are told one by one.
    untold: Option<(Span, usize)>,
    nodes: usize,
}

/// Nodes beyond which a file is refused: what an anchor keeps and what an alias copies counts each time.
const MAX_NODES: usize = 200_000;

/// Problems of one kind that are told one by one; of more only their number is.
pub(crate) const TOLD: usize = 50;

/// Parses a text of one document; as PyYAML, refuses one of several.
pub fn parse(file: &Arc<str>, text: &str) -> Result<(Node, Vec<Diagnostic>), Diagnostic> {
    let parser = Parser::new_from_str(text);
    let mut r = Reader {
        parser,
        file: file.clone(),
        anchors: HashMap::new(),
        diagnostics: vec![],
        untold: None,
        nodes: 0,
    };
    let node = loop {
        let (event, span) = r.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd => break Node { span, value: Value::Null },
            Event::DocumentEnd => {
                r.ends()?;
                break Node { span, value: Value::Null };
            }
            other => {
                let node = r.node(other, span, 0)?;
                r.ends()?;
                break node;
            }
        }
    };
    if let Some((span, n)) = r.untold.take() {
        let message = format!("{n} more keys are given twice");
        r.diagnostics.push(duplicate_key::more(&message, &span));
    }
    Ok((node, r.diagnostics))
}

impl<'t> Reader<'t> {
    fn span(&self, start: Marker, end: Option<Marker>) -> Span {
        let length = match end {
            Some(e) if e.line() == start.line() && e.col() > start.col() => e.col() - start.col(),
            _ => 1,
        };
        Span {
            file: self.file.clone(),
            line: start.line().max(1) as u32,
            column: start.col() as u32 + 1,
            length: length as u32,
        }
    }

    fn fail(&self, span: &Span, message: &str) -> Diagnostic {
        syntax::syntax(&format!("{}: {message}", self.file), span, "here")
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Diagnostic> {
        match self.parser.next() {
            Some(Ok((event, at))) => Ok((event, self.span(at.start, Some(at.end)))),
            Some(Err(e)) => {
                let span = self.span(*e.marker(), None);
                Err(self.fail(&span, e.info()))
            }
            None => {
                let span = Span { file: self.file.clone(), line: 1, column: 1, length: 1 };
                Err(self.fail(&span, "the text ends too early"))
            }
        }
    }

    /// Nothing may follow the document.
    fn ends(&mut self) -> Result<(), Diagnostic> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentStart(_), span) => {
                    let d = self.fail(&span, "a second document in one file");
                    return Err(d.hint("give each a file of its own, or remove the `---`"));
                }
                _ => {}
            }
        }
    }

    /// The value of a scalar: what its tag says, or what YAML 1.1 makes of a plain one.
    fn scalar(
        &self,
        text: &str,
        plain: bool,
        tag: Option<&Tag>,
        span: &Span,
    ) -> Result<Value, Diagnostic> {
        let Some(tag) = tag else {
            return Ok(if plain { resolve(text) } else { Value::Str(text.to_string()) });
        };
        let digits = || text.replace('_', "").to_lowercase();
        let value = match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
            (true, "str") => Some(Value::Str(text.to_string())),
            (true, "null") => Some(Value::Null),
            (true, "bool") => Some(resolve(text)).filter(|v| matches!(v, Value::Bool(_))),
            (true, "int") => int(text).map(Value::Int),
            (true, "float") => float(text).or_else(|| digits().parse().ok()).map(Value::Float),
            _ => return Err(self.foreign(tag, span)),
        };
        let what = format!("{text:?} is no !!{}", tag.suffix);
        value.ok_or_else(|| self.fail(span, &what))
    }

    /// A list or dictionary may say that it is one.
    fn collection(&self, tag: Option<&Tag>, name: &str, span: &Span) -> Result<(), Diagnostic> {
        match tag {
            Some(t) if !(t.is_yaml_core_schema() && t.suffix == name) => Err(self.foreign(t, span)),
            _ => Ok(()),
        }
    }

    fn foreign(&self, tag: &Tag, span: &Span) -> Diagnostic {
        let name = match tag.is_yaml_core_schema() {
            true => format!("!!{}", tag.suffix),
            false => format!("{}{}", tag.handle, tag.suffix),
        };
        self.fail(span, &format!("the tag {name} is not supported"))
            .hint("!!str, !!int, !!float, !!bool, !!null, !!seq and !!map are; or leave it out")
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Diagnostic> {
        if depth > MAX_DEPTH {
            return Err(self.fail(&span, "is nested too deeply or too large"));
        }
        self.take(1, &span)?;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                (anchor, self.scalar(&text, plain, tag.as_deref(), &span)?)
            }
            Event::SequenceStart(anchor, tag) => {
                self.collection(tag.as_deref(), "seq", &span)?;
                let mut items = vec![];
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    items.push(self.node(event, span, depth + 1)?);
                }
                (anchor, Value::List(items))
            }
            Event::MappingStart(anchor, tag) => {
                self.collection(tag.as_deref(), "map", &span)?;
                (anchor, self.mapping(depth)?)
            }
            Event::Alias(id) => {
                let Some(known) = self.anchors.get(&id) else {
                    return Err(self.fail(&span, "an alias without an anchor"));
                };
                let n = count(known);
                self.take(n, &span)?;
                (0, self.anchors[&id].value.clone())
            }
            _ => return Err(self.fail(&span, "expected a value")),
        };
        let node = Node { span, value };
        if anchor > 0 {
            self.take(count(&node), &node.span)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Counts `nodes` more, before they are made.
    fn take(&mut self, nodes: usize, span: &Span) -> Result<(), Diagnostic> {
        self.nodes += nodes;
        match self.nodes > MAX_NODES {
            true => Err(self.fail(span, "is nested too deeply or too large")),
            false => Ok(()),
        }
    }

    /// Tells of a key that is given again.
    fn twice(&mut self, name: &str, first: &Span, again: &Span) {
        if self.diagnostics.len() < TOLD {
            let hint = "keep one of the two; `-` and `_` are the same in key names";
            self.diagnostics.push(duplicate_key::duplicate_key(name, "twice", first, again, hint));
        } else {
            self.untold.get_or_insert((again.clone(), 0)).1 += 1;
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Diagnostic> {
        let mut pairs: Vec<(Key, Node)> = vec![];
        let mut merged: Vec<(Key, Node)> = vec![];
        let mut places: HashMap<String, Span> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let (name, merges) = match event {
                Event::MappingEnd => {
                    // A key of the dictionary itself goes before one that is merged into it, and of two that are
                    // merged the last one.
                    let mut known: HashSet<String> = places.into_keys().collect();
                    merged.reverse();
                    merged.retain(|(k, _)| known.insert(k.name.clone()));
                    pairs.extend(merged.into_iter().rev());
                    return Ok(Value::Map(pairs));
                }
                Event::Scalar(text, style, ..) => {
                    (text.replace('-', "_"), style == ScalarStyle::Plain && text == "<<")
                }
                _ => return Err(self.fail(&span, "a key must be text")),
            };
            let (event, at) = self.next()?;
            let node = self.node(event, at, depth + 1)?;
            if merges {
                self.merge(node, &mut merged)?;
                continue;
            }
            match places.get(&name).cloned() {
                Some(first) => self.twice(&name, &first, &span),
                None => {
                    places.insert(name.clone(), span.clone());
                    pairs.push((Key { name, span }, node));
                }
            }
        }
    }
}

impl Reader<'_> {
    /// What a merge key `<<` gives: a dictionary's pairs, or those of several, of which the first goes before and so
    /// comes last.
    fn merge(&self, node: Node, into: &mut Vec<(Key, Node)>) -> Result<(), Diagnostic> {
        let maps = match node.value {
            Value::List(list) => list,
            value => vec![Node { span: node.span, value }],
        };
        for map in maps.into_iter().rev() {
            let Value::Map(pairs) = map.value else {
                return Err(self.fail(&map.span, "`<<` merges dictionaries only"));
            };
            into.extend(pairs);
        }
        Ok(())
    }
}

fn count(node: &Node) -> usize {
    match &node.value {
        Value::List(l) => 1 + l.iter().map(count).sum::<usize>(),
        Value::Map(m) => 1 + m.iter().map(|(_, n)| count(n)).sum::<usize>(),
        _ => 1,
    }
}

/// Plain scalars as YAML 1.1 has them in PyYAML.
pub fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    if let Some(i) = int(text) {
        return Value::Int(i);
    }
    if let Some(x) = float(text) {
        return Value::Float(x);
    }
    Value::Str(text.to_string())
}

fn int(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.replace('_', "");
    if digits.contains(':') {
        let leads = digits.starts_with(|c: char| ('1'..='9').contains(&c));
        return sixties(&digits).filter(|_| leads).map(|n| sign * n);
    }
    let parsed = if let Some(hex) = digits.strip_prefix("0x") {
        i64::from_str_radix(hex, 16)
    } else if let Some(bits) = digits.strip_prefix("0b") {
        i64::from_str_radix(bits, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(&digits, 8)
    } else if digits.starts_with(|c: char| c.is_ascii_digit()) {
        digits.parse()
    } else {
        return None;
    };
    parsed.ok().map(|i| sign * i)
}

/// Whole numbers to base 60, as 1:30 for 90.
fn sixties(digits: &str) -> Option<i64> {
    let mut parts = digits.split(':');
    let lead = parts.next()?;
    let first: i64 = lead.chars().all(|c| c.is_ascii_digit()).then(|| lead.parse().ok())??;
    parts.try_fold(first, |sum, p| {
        let fits = (1..=2).contains(&p.len()) && p.chars().all(|c| c.is_ascii_digit());
        let digit: i64 = p.parse().ok().filter(|d| fits && *d < 60)?;
        sum.checked_mul(60)?.checked_add(digit)
    })
}

/// A dot is required, and an exponent needs a sign: `1e-4` and `1.0e4` are text.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    match unsigned {
        ".inf" | ".Inf" | ".INF" => {
            return Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
        }
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e)),
        None => (unsigned, None),
    };
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit() || c == '_');
    let (whole, part) = mantissa.split_once('.')?;
    if whole.contains(':') && exponent.is_none() {
        let whole = sixties(&whole.replace('_', ""))? as f64;
        let part: f64 = format!("0.{}", part.replace('_', "")).parse().ok()?;
        return Some(if text.starts_with('-') { -(whole + part) } else { whole + part });
    }
    let signed = exponent.is_none_or(|e| {
        e.strip_prefix(['-', '+'])
            .is_some_and(|d| !d.is_empty() && d.chars().all(|c| c.is_ascii_digit()))
    });
    let some =
        !whole.is_empty() && whole.starts_with(|c: char| c.is_ascii_digit()) || !part.is_empty();
    if !digits(whole) || !digits(part) || !signed || !some {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_pyyaml_s() {
        // Left: text; right: what yaml.safe_load gives.
        for (text, want) in [
            ("1e-4", Value::Str("1e-4".into())),
            ("1.0e-4", Value::Float(1e-4)),
            ("1.0e_8", Value::Str("1.0e_8".into())),
            ("1.0e4", Value::Str("1.0e4".into())),
            (".5", Value::Float(0.5)),
            ("5.", Value::Float(5.0)),
            ("1_000", Value::Int(1000)),
            ("010", Value::Int(8)),
            ("0x1F", Value::Int(31)),
            ("on", Value::Bool(true)),
            ("False", Value::Bool(false)),
            ("~", Value::Null),
            ("-3", Value::Int(-3)),
            ("y", Value::Str("y".into())),
            ("1:30", Value::Int(90)),
            ("-1:30:05", Value::Int(-5405)),
            ("1:60", Value::Str("1:60".into())),
            ("1:30.5", Value::Float(90.5)),
            ("a:1", Value::Str("a:1".into())),
        ] {
            assert_eq!(resolve(text), want, "{text}");
        }
    }

    fn read(text: &str) -> Result<serde_json::Value, String> {
        let parsed = parse(&"f".into(), text);
        parsed.map(|(node, _)| node.value.json()).map_err(|d| d.message)
    }

    /// Right: what yaml.safe_load gives.
    #[test]
    fn merge_keys_and_tags_are_pyyaml_s() {
        for (text, want) in [
            ("{<<: {a: 1, b: 2}, b: 3}", r#"{"a": 1, "b": 3}"#),
            ("{b: 3, <<: {a: 1, b: 2}}", r#"{"a": 1, "b": 3}"#),
            ("{<<: [{a: 1}, {a: 2, b: 2}]}", r#"{"a": 1, "b": 2}"#),
            ("{x: &x {a: 1}, y: {<<: *x, b: 2}}", r#"{"x": {"a": 1}, "y": {"a": 1, "b": 2}}"#),
            ("{<<: {a: 1}, <<: {a: 2}}", r#"{"a": 2}"#),
            ("{\"<<\": 1}", r#"{"<<": 1}"#),
            ("[!!float 1e-3, !!float 2, !!int \"3\", !!str 4]", r#"[0.001, 2.0, 3, "4"]"#),
            ("[!!bool yes, !!null x, !!seq [], !!map {}]", "[true, null, [], {}]"),
            ("--- {a: 1}\n...\n", r#"{"a": 1}"#),
        ] {
            let want: serde_json::Value = serde_json::from_str(want).unwrap();
            assert_eq!(read(text), Ok(want), "{text}");
        }
        for (text, why) in [
            ("{<<: 3}", "merges dictionaries only"),
            ("{<<: [{a: 1}, 3]}", "merges dictionaries only"),
            ("!!python/tuple [1]", "the tag !!python/tuple is not supported"),
            ("!own 3", "the tag !own is not supported"),
            ("!!int x", "\"x\" is no !!int"),
            ("!!bool 3", "\"3\" is no !!bool"),
            ("a: 1\n---\nb: 2\n", "a second document"),
            ("---\n---\nb: 2\n", "a second document"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn no_text_panics() {
        let file: Arc<str> = "f".into();
        let whole = "{ \"a-b\": [1, {c: 'd', }, ], &x e: *x, # no\n f: |\n  g\n}";
        for i in 0..whole.len() {
            for j in i..whole.len() {
                let _ = parse(&file, &format!("{}{}", &whole[..i], &whole[j..]));
            }
        }
        let _ = parse(&file, &"[".repeat(10_000));
    }
}
