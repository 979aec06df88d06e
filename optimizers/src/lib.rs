//! Optimizers as declarations: what one keeps of each parameter, which numbers it is given before a step, what a
//! configuration may set, and its update, in one file each and one line of [`ALL`].
//!
//! The frontend reads names and hyper-parameters from here, `build-train-step` state and update; everything behind it
//! (layouts, ZeRO, memory, plans, checkpoints, the runtime) sees slots with names and numbers with formulas, and knows
//! no optimizer. How to add one: `docs/howto/add-an-optimizer.md`.

// Printing is the runtime's `say`: the standard macros panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod adam;
mod lion;
mod madgrad;
mod muon;
mod settings;
mod sgd;
mod update;

use neoxc_ir::op::OpError;
use neoxc_ir::{Builder, ValueId};
pub use settings::Settings;
pub use update::{Update, build, direction};

/// Every optimizer. The one list of them.
pub static ALL: &[&Optimizer] =
    &[&adam::ADAM, &lion::LION, &madgrad::MADGRAD, &muon::MUON, &sgd::SGD];

/// An optimizer.
pub struct Optimizer {
    /// What GPT-NeoX's `optimizer.type` may call it, in lower case; the first is its name here.
    pub names: &'static [&'static str],
    /// One line: what it does and where it is published.
    pub doc: &'static str,
    /// What a configuration may set, besides the learning rate.
    pub hypers: &'static [Hyper],
    /// What it keeps of each parameter from step to step. Starts at zero.
    pub slots: &'static [Slot],
    /// Numbers that it is given before each step.
    pub scalars: &'static [Scalar],
    /// The update of one element. It reads weight, gradient and state once and gives new ones.
    pub update: fn(&mut Update<'_, '_>) -> Result<(), OpError>,
    /// The update of a matrix of a layer, where it is not that of its elements.
    pub matrix: Option<Matrix>,
}

/// An update that looks at a matrix as a whole, between two parts that look at an element.
pub struct Matrix {
    /// What an element adds to the matrix that is looked at: a function of gradient, state and scalars.
    pub direction: fn(&mut Update<'_, '_>) -> Result<ValueId, OpError>,
    /// What is made of the matrices of directions, which have dims `row` and `column` and in front of them those of
    /// which each element has a matrix of its own; the result has the same dims.
    pub whole: fn(&mut Builder<'_>, ValueId, &Settings) -> Result<ValueId, OpError>,
    /// The update of an element, which also reads its element of what was made.
    pub update: fn(&mut Update<'_, '_>) -> Result<(), OpError>,
}

/// How a parameter is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Element by element.
    Elements,
    /// As a matrix.
    Matrix,
}

/// A number, or a choice as 0 and 1, that a configuration may set.
pub struct Hyper {
    /// Its name in formulas and in the IR.
    pub name: &'static str,
    /// Its key in `optimizer.params`.
    pub key: &'static str,
    /// Its place, where the key holds a list.
    pub at: Option<usize>,
    /// Value where a configuration sets none.
    pub default: f64,
    /// Values that it may have.
    pub range: Range,
    /// What it is.
    pub doc: &'static str,
}

/// Values of a hyper-parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// From the first number up to the second, both included.
    Closed(f64, f64),
    /// From the first number up to the second, which is excluded.
    HalfOpen(f64, f64),
    /// `true`, 1, or `false`, 0.
    Flag,
    /// One of several words, the value being its number.
    Words(&'static [&'static str]),
}

impl Range {
    /// Whether it has `x`.
    pub fn has(self, x: f64) -> bool {
        match self {
            Range::Closed(least, most) => (least..=most).contains(&x),
            Range::HalfOpen(least, end) => (least..end).contains(&x),
            Range::Flag => x == 0.0 || x == 1.0,
            Range::Words(words) => x.fract() == 0.0 && (0.0..words.len() as f64).contains(&x),
        }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Range::Closed(least, most) => write!(f, "from {least} to {most}"),
            Range::HalfOpen(least, end) => write!(f, "from {least} up to but not {end}"),
            Range::Flag => f.write_str("true or false"),
            Range::Words(words) => f.write_str(&words.join(" or ")),
        }
    }
}

/// State of one kind: an f32 tensor like the parameter, for each parameter that is trained.
pub struct Slot {
    /// Its name in the IR, in plans, and in front of a parameter's name in checkpoints.
    pub name: &'static str,
    /// A hyper-parameter at whose value 0 the state is neither kept nor read.
    pub only_with: Option<&'static str>,
    /// The form of the updates that keep it, if not all do.
    pub of: Option<Form>,
}

/// A number that the runtime works out before a step.
pub struct Scalar {
    /// Its name in the IR.
    pub name: &'static str,
    /// Its formula over `step` (counted from 1), `lr` (the schedule's learning rate at this step) and the
    /// hyper-parameters: numbers, names, `+ - * / ^`, `min(a, b)`, `max(a, b)`, brackets.
    pub formula: &'static str,
}

/// The learning rate as the schedule has it.
pub const LR: Scalar = Scalar { name: "lr", formula: "lr" };

/// The weight decay of parameters that decay; others have 0. GPT-NeoX's top-level key of the same name is its default.
pub const WEIGHT_DECAY: Hyper = Hyper {
    name: "weight_decay",
    key: "weight_decay",
    at: None,
    default: 0.1,
    range: Range::Closed(0.0, 100.0),
    doc: "weight decay of matrices and embeddings",
};

impl Optimizer {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// The state that it keeps with these settings of a parameter that it updates in this form.
    pub fn slots(&self, settings: &Settings, form: Form) -> Vec<&'static Slot> {
        let kept = |s: &&'static Slot| {
            s.of.is_none_or(|of| of == form)
                && s.only_with.is_none_or(|name| settings.get(name) != 0.0)
        };
        self.slots.iter().filter(kept).collect()
    }
}

/// The optimizer that `optimizer.type` calls `name`, in upper or lower case.
pub fn find(name: &str) -> Option<&'static Optimizer> {
    let name = name.to_lowercase();
    ALL.iter().copied().find(|o| o.names.contains(&name.as_str()))
}

/// Names of all optimizers, for people.
pub fn names() -> String {
    ALL.iter().flat_map(|o| o.names).copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_whole() {
        for (n, o) in ALL.iter().enumerate() {
            let name = o.name();
            assert!(o.names.iter().all(|n| *n == n.to_lowercase()), "{name}");
            let others = ALL.iter().skip(n + 1).flat_map(|o| o.names);
            assert!(others.clone().all(|other| !o.names.contains(other)), "{name}");
            assert!(o.hypers.iter().all(|h| h.range.has(h.default)), "{name}");
            assert!(o.hypers.iter().any(|h| h.name == WEIGHT_DECAY.name), "{name}");
            let mut all: Vec<&str> = o.slots.iter().map(|s| s.name).collect();
            all.extend(o.scalars.iter().map(|s| s.name));
            all.extend(o.hypers.iter().map(|h| h.name));
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count, "{name}: two things of one name");
            let word = |s: &&str| s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            assert!(all.iter().all(word), "{name}: {all:?}");
            for s in o.slots.iter().filter_map(|s| s.only_with) {
                assert!(o.hypers.iter().any(|h| h.name == s), "{name}: {s}");
            }
        }
    }
}
