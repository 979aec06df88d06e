//! Attributes: the compile-time arguments of ops and functions.
//!
//! Invariant: an attribute prints to MLIR text and parses back to the same value, floats included
//! (shortest decimal that round-trips).

use std::collections::BTreeMap;
use std::fmt;

/// One attribute value.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// `true`, `false`.
    Bool(bool),
    /// 64-bit integer.
    Int(i64),
    /// 64-bit float.
    Float(f64),
    /// Quoted text.
    Str(String),
    /// `@name`: a function.
    Symbol(String),
    /// `[…]`.
    Array(Vec<Attr>),
    /// Present or absent.
    Unit,
}

impl Attr {
    /// An array of strings.
    pub fn strs<S: AsRef<str>>(items: &[S]) -> Self {
        Attr::Array(items.iter().map(|s| Attr::Str(s.as_ref().to_string())).collect())
    }

    /// An array of integers.
    pub fn ints(items: &[i64]) -> Self {
        Attr::Array(items.iter().map(|i| Attr::Int(*i)).collect())
    }
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Bool(b) => write!(f, "{b}"),
            Attr::Int(i) => write!(f, "{i}"),
            // A NaN or infinity has no decimal form in MLIR; its bit pattern does.
            Attr::Float(x) if !x.is_finite() => write!(f, "0x{:016X} : f64", x.to_bits()),
            Attr::Float(x) => {
                // MLIR wants a decimal point before the exponent; Rust leaves it out.
                let text = format!("{x:?}");
                match text.split_once('e') {
                    Some((m, e)) if !m.contains('.') => write!(f, "{m}.0e{e} : f64"),
                    _ => write!(f, "{text} : f64"),
                }
            }
            Attr::Str(s) => write_quoted(f, s),
            Attr::Symbol(s) => write!(f, "@{s}"),
            Attr::Array(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_str("]")
            }
            Attr::Unit => f.write_str("unit"),
        }
    }
}

/// Writes `s` as an MLIR string literal.
pub fn write_quoted(f: &mut impl fmt::Write, s: &str) -> fmt::Result {
    f.write_char('"')?;
    for byte in s.bytes() {
        match byte {
            b'"' | b'\\' => write!(f, "\\{:02X}", byte)?,
            0x20..=0x7e => f.write_char(byte as char)?,
            _ => write!(f, "\\{byte:02X}")?,
        }
    }
    f.write_char('"')
}

/// A dictionary of attributes, printed in name order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Attrs(pub BTreeMap<String, Attr>);

impl Attrs {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one, for chaining.
    #[must_use]
    pub fn with(mut self, name: &str, value: Attr) -> Self {
        self.0.insert(name.to_string(), value);
        self
    }

    /// Sets one.
    pub fn set(&mut self, name: &str, value: Attr) {
        self.0.insert(name.to_string(), value);
    }

    /// The attribute called `name`.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.get(name)
    }

    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Attr::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.get(name)? {
            Attr::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// A boolean attribute; absent means false.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Attr::Bool(true) | Attr::Unit))
    }

    /// A string attribute.
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Attr::Str(s) => Some(s),
            _ => None,
        }
    }

    /// A function name.
    pub fn symbol(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Attr::Symbol(s) => Some(s),
            _ => None,
        }
    }

    /// An array of strings.
    pub fn strs(&self, name: &str) -> Option<Vec<&str>> {
        match self.get(name)? {
            Attr::Array(items) => items
                .iter()
                .map(|i| match i {
                    Attr::Str(s) => Some(s.as_str()),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }

    /// An array of integers.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        match self.get(name)? {
            Attr::Array(items) => items
                .iter()
                .map(|i| match i {
                    Attr::Int(i) => Some(*i),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            match value {
                Attr::Unit => write!(f, "{name}")?,
                _ => write!(f, "{name} = {value}")?,
            }
        }
        f.write_str("}")
    }
}
