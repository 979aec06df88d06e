//! Every GPT-NeoX argument, declared once: what it means, what a value must be, what becomes of it here.
//!
//! A subject is a file with a table. From the tables come the checks of types, ranges and support
//! ([`crate::check`]), `neoxc explain KEY`, `docs/arguments.md` and the JSON schema for editors
//! ([`page`], [`schema`]). To add an argument, add an entry; `Supported` asks for a reader.

use std::fmt;

use neoxc_base::codes::not_supported;
use neoxc_base::diag;

mod data;
mod deepspeed;
mod experts;
pub(crate) mod former;
mod generation;
mod kinds;
mod launcher;
mod logging;
mod model;
mod mup;
mod nested;
mod optimizer;
pub mod page;
mod parallel;
mod post_training;
pub mod schema;
mod training;

pub use nested::NESTED;

/// Arguments of one subject.
#[derive(Debug)]
pub struct Group {
    /// The subject.
    pub title: &'static str,
    /// Its arguments.
    pub arguments: &'static [Argument],
}

/// All arguments, by subject.
pub static GROUPS: &[Group] = &[
    Group { title: "Model", arguments: model::ARGUMENTS },
    Group { title: "Kinds of layers", arguments: kinds::ARGUMENTS },
    Group { title: "Mixture of experts", arguments: experts::ARGUMENTS },
    Group { title: "Optimizer and learning rate", arguments: optimizer::ARGUMENTS },
    Group { title: "Training and checkpoints", arguments: training::ARGUMENTS },
    Group { title: "Data and tokenizer", arguments: data::ARGUMENTS },
    Group { title: "Parallelism", arguments: parallel::ARGUMENTS },
    Group { title: "Post-training", arguments: post_training::ARGUMENTS },
    Group { title: "Maximal-update parametrisation", arguments: mup::ARGUMENTS },
    Group { title: "Generation and evaluation", arguments: generation::ARGUMENTS },
    Group { title: "Logging and profiling", arguments: logging::ARGUMENTS },
    Group { title: "DeepSpeed", arguments: deepspeed::ARGUMENTS },
    Group { title: "Launcher and environment", arguments: launcher::ARGUMENTS },
];

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whole number.
    Int,
    /// Number.
    Float,
    /// Truth value.
    Bool,
    /// Text.
    Str,
    /// List.
    List,
    /// Dictionary.
    Dict,
    /// Several of these.
    Any,
}

impl Kind {
    /// In words, as messages and docs say it.
    pub fn says(self) -> &'static str {
        match self {
            Kind::Int => "a whole number",
            Kind::Float => "a number",
            Kind::Bool => "true or false",
            Kind::Str => "text",
            Kind::List => "a list",
            Kind::Dict => "a dictionary",
            Kind::Any => "a value of several types",
        }
    }
}

/// What becomes of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Read.
    Supported,
    /// Known and harmless, for this reason: it chooses among implementations, launchers or loggers that a
    /// compiled plan does not have. A warning names it, so that nobody wonders.
    WithoutEffect(&'static str),
    /// Known; any value but the default is refused.
    NotYet {
        /// What it is refused as: a subject that waits has a code of its own.
        kind: &'static diag::Kind,
        /// Why, as a clause.
        why: &'static str,
        /// What to use instead; empty where that is only to leave it out.
        instead: &'static str,
    },
    /// Nothing reads it in GPT-NeoX either: a warning.
    Unread,
}

/// The value of an argument that is not given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Preset {
    /// None: the argument must be given, or its absence means something.
    Null,
    /// This truth value.
    Bool(bool),
    /// This number.
    Number(f64),
    /// This text.
    Text(&'static str),
}

/// As YAML writes it.
impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Preset::Null => f.write_str("null"),
            Preset::Bool(b) => write!(f, "{b}"),
            Preset::Number(x) if *x != 0.0 && x.abs() < 1e-4 => {
                let text = format!("{x:e}");
                let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let dot = if mantissa.contains('.') { "" } else { ".0" };
                write!(f, "{mantissa}{dot}e{exponent}")
            }
            Preset::Number(x) => write!(f, "{x}"),
            Preset::Text(t) => write!(f, "{t:?}"),
        }
    }
}

/// Which values of its type an argument may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// Any.
    Any,
    /// Both ends are allowed; without an end where `high` is infinite.
    Between(f64, f64),
    /// The lower end is allowed, the upper one is not.
    Below(f64, f64),
    /// One of these words.
    Words {
        /// Those that this version does.
        supported: &'static [&'static str],
        /// Those of GPT-NeoX that it does not do yet.
        others: &'static [&'static str],
    },
}

impl Range {
    /// Whether a number lies in it; words are none.
    pub fn contains(self, x: f64) -> bool {
        match self {
            Range::Any => true,
            Range::Between(low, high) => (low..=high).contains(&x),
            Range::Below(low, high) => (low..high).contains(&x),
            Range::Words { .. } => false,
        }
    }
}

/// A phrase that goes on from "it must be".
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Range::Any => f.write_str("any"),
            Range::Between(low, high) if high.is_infinite() => write!(f, "at least {low}"),
            Range::Between(low, high) => write!(f, "from {low} to {high}"),
            Range::Below(low, high) if high.is_infinite() => {
                write!(f, "finite and at least {low}")
            }
            Range::Below(low, high) => write!(f, "from {low} to below {high}"),
            Range::Words { supported, .. } => f.write_str(&alternatives(supported)),
        }
    }
}

/// `a`, `a` or `b`, `a`, `b` or `c`.
pub fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} or {last}", before.join(", ")),
        None => String::new(),
    }
}

/// One argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Argument {
    /// Name with underscores; dots reach into dictionaries.
    pub name: &'static str,
    /// What a value must be.
    pub kind: Kind,
    /// The value where it is not given, which is also the one that asks for nothing.
    pub default: Preset,
    /// Values that are allowed.
    pub range: Range,
    /// What becomes of it.
    pub status: Status,
    /// What it means, in sentences.
    pub doc: &'static str,
    /// Whether GPT-NeoX does not have it.
    pub ours: bool,
}

const fn argument(name: &'static str, kind: Kind, default: Preset) -> Argument {
    let (range, status) = (Range::Any, Status::Supported);
    Argument { name, kind, default, range, status, doc: "", ours: false }
}

/// A whole number without a default.
const fn int(name: &'static str) -> Argument {
    argument(name, Kind::Int, Preset::Null)
}

/// A number without a default.
const fn float(name: &'static str) -> Argument {
    argument(name, Kind::Float, Preset::Null)
}

/// A truth value.
const fn flag(name: &'static str, default: bool) -> Argument {
    argument(name, Kind::Bool, Preset::Bool(default))
}

/// Any text.
const fn text(name: &'static str) -> Argument {
    argument(name, Kind::Str, Preset::Null)
}

/// A list.
const fn list(name: &'static str) -> Argument {
    argument(name, Kind::List, Preset::Null)
}

/// A dictionary.
const fn dict(name: &'static str) -> Argument {
    argument(name, Kind::Dict, Preset::Null)
}

/// A value of several types.
const fn any(name: &'static str) -> Argument {
    argument(name, Kind::Any, Preset::Null)
}

/// A word of a list: of those that this version does, or of `others`, which only GPT-NeoX does.
const fn word(
    name: &'static str,
    default: &'static str,
    supported: &'static [&'static str],
    others: &'static [&'static str],
) -> Argument {
    let a = argument(name, Kind::Str, Preset::Text(default));
    Argument { range: Range::Words { supported, others }, ..a }
}

impl Argument {
    const fn number(self, default: f64) -> Self {
        Argument { default: Preset::Number(default), ..self }
    }

    const fn says(self, default: &'static str) -> Self {
        Argument { default: Preset::Text(default), ..self }
    }

    const fn unset(self) -> Self {
        Argument { default: Preset::Null, ..self }
    }

    const fn between(self, low: f64, high: f64) -> Self {
        Argument { range: Range::Between(low, high), ..self }
    }

    const fn below(self, low: f64, high: f64) -> Self {
        Argument { range: Range::Below(low, high), ..self }
    }

    const fn doc(self, doc: &'static str) -> Self {
        Argument { doc, ..self }
    }

    const fn idle(self, why: &'static str) -> Self {
        Argument { status: Status::WithoutEffect(why), ..self }
    }

    const fn not_yet(self, why: &'static str, instead: &'static str) -> Self {
        self.waits(&not_supported::KIND, why, instead)
    }

    /// As `not_yet`, with the code of the subject that it waits for.
    const fn waits(
        self,
        kind: &'static diag::Kind,
        why: &'static str,
        instead: &'static str,
    ) -> Self {
        Argument { status: Status::NotYet { kind, why, instead }, ..self }
    }

    const fn unread(self) -> Self {
        Argument { status: Status::Unread, ..self }
    }

    const fn ours(self) -> Self {
        Argument { ours: true, ..self }
    }

    /// What to do about a value that is not supported.
    pub fn instead(&self) -> String {
        match self.status {
            Status::NotYet { instead, .. } if !instead.is_empty() => instead.to_string(),
            _ if self.default == Preset::Null => {
                format!("remove it, or `--set {}=null`", self.name)
            }
            _ => format!("remove it, or `--set {}={}`", self.name, self.default),
        }
    }
}

/// All arguments.
pub fn all() -> impl Iterator<Item = &'static Argument> {
    GROUPS.iter().flat_map(|g| g.arguments)
}

/// The argument called `name`; a name with dots is a key of a dictionary.
pub fn find(name: &str) -> Option<&'static Argument> {
    all().chain(NESTED.iter()).find(|a| a.name == name)
}

/// The argument that a misspelt `name` was probably meant to be.
pub fn nearest(name: &str) -> Option<&'static str> {
    neoxc_base::nearest::nearest(name, all().map(|a| a.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether upstream's spelling of a default is ours.
    fn same(default: Preset, upstream: &str) -> bool {
        match default {
            Preset::Null => upstream == "None" || upstream.ends_with("()"),
            Preset::Bool(b) => upstream == if b { "True" } else { "False" },
            Preset::Number(x) => upstream.parse() == Ok(x),
            Preset::Text(t) => upstream == format!("'{}'", t.escape_default()),
        }
    }

    #[test]
    fn every_upstream_argument_is_known_with_its_type_and_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/upstream/arguments.tsv");
        let Ok(text) = std::fs::read_to_string(path) else {
            eprintln!("skipped: the upstream list is not here");
            return;
        };
        let mut theirs = vec![];
        for line in text.lines().skip(1) {
            let [_, name, kind, default] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            theirs.push(name);
            let a = find(name).unwrap_or_else(|| panic!("{name}"));
            assert!(!a.ours, "{name}");
            assert!(same(a.default, default), "{name}: {} and {default}", a.default);
            let want = match kind {
                "int" => Kind::Int,
                "float" => Kind::Float,
                "bool" => Kind::Bool,
                "list" | "Optional[list]" => Kind::List,
                "dict" | "Optional[dict]" => Kind::Dict,
                k if k == "str" || k == "Optional[str]" || k.starts_with("Literal[") => Kind::Str,
                _ => Kind::Any,
            };
            assert_eq!(a.kind, want, "{name}: {kind}");
            if let (Range::Words { supported, others }, Some(words)) =
                (a.range, kind.strip_prefix("Literal["))
            {
                for word in words.trim_end_matches(']').split(", ") {
                    let word = word.trim_matches('\'');
                    let known = supported.contains(&word) || others.contains(&word);
                    assert!(known, "{name}: {word}");
                }
            }
        }
        for a in all().filter(|a| !a.ours) {
            assert!(theirs.contains(&a.name), "{} is not upstream's", a.name);
        }
    }

    #[test]
    fn every_argument_is_told_of_once_and_its_default_is_in_its_range() {
        let names: Vec<&str> = all().map(|a| a.name).collect();
        for (i, a) in all().chain(NESTED.iter()).enumerate() {
            assert!(!names[..i.min(names.len())].contains(&a.name), "{} twice", a.name);
            assert!(a.doc.ends_with('.') && a.doc.len() > 10, "{}: {:?}", a.name, a.doc);
            match (a.default, a.range) {
                (Preset::Number(x), range) => assert!(range.contains(x), "{}: {x}", a.name),
                (Preset::Text(t), Range::Words { supported, others }) => {
                    assert!(supported.contains(&t) || others.contains(&t), "{}: {t}", a.name);
                }
                _ => {}
            }
            if let Status::NotYet { why, .. } | Status::WithoutEffect(why) = a.status {
                assert!(why.len() > 10 && !why.ends_with('.'), "{}: {why}", a.name);
            }
        }
        assert!(
            NESTED.iter().all(|a| a.name.split_once('.').is_some_and(|(d, _)| find(d).is_some()))
        );
    }

    #[test]
    fn a_misspelt_name_finds_its_neighbour() {
        assert_eq!(nearest("num_layer"), Some("num_layers"));
        assert_eq!(nearest("quite_another_thing"), None);
    }

    #[test]
    fn ranges_are_said_as_they_are_checked() {
        for (range, text, inside, outside) in [
            (Range::Between(0.0, 1.0), "from 0 to 1", 1.0, 1.5),
            (Range::Below(0.0, 1.0), "from 0 to below 1", 0.0, 1.0),
            (Range::Below(0.0, f64::INFINITY), "finite and at least 0", 1e30, f64::INFINITY),
            (Range::Between(1.0, f64::INFINITY), "at least 1", 1e9, 0.0),
        ] {
            assert_eq!(range.to_string(), text);
            assert!(range.contains(inside) && !range.contains(outside), "{text}");
            assert!(!range.contains(f64::NAN), "{text}");
        }
        assert_eq!(alternatives(&["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
