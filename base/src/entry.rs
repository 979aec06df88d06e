//! The programs of a plan by their names, and the parts of them that the stages of a pipeline run.
//!
//! Passes make functions of these names, the plan has programs of these names, and the runtime runs them. On a pipeline's stages a program is cut into parts (`train_forward`), and stages of
//! another class than the first have parts of their own (`train_forward_1`).

use std::fmt;

/// What a plan is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Program {
    /// One step of the optimizer.
    Train,
    /// The loss of one micro-batch.
    Eval,
    /// The logits of a position.
    Logits,
    /// The logits behind one token, from what was kept of those before it.
    Decode,
    /// The weights in the precision that matmuls read.
    RoundWeights,
}

/// A part of a program, in the order in which a micro-batch needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// All of it: the program of a rank that has all layers.
    Whole,
    /// Clears the sums of a step.
    Start,
    /// In front of the layers.
    Enter,
    /// The layers.
    Forward,
    /// Behind the layers.
    Head,
    /// The layers backwards.
    Backward,
    /// The layers backwards, for the last micro-batch of a step.
    BackwardLast,
    /// The gradients of the layers' weights, where `Backward` does not make them.
    Weights,
    /// The gradients of the layers' weights, for the last micro-batch of a step.
    WeightsLast,
    /// The gradients of what stands in front of the layers.
    Leave,
    /// Reduces, clips, updates.
    Finish,
}

/// A function that a plan has a program for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// What it is run for.
    pub program: Program,
    /// Which part of that it is.
    pub part: Part,
    /// The class of the stages that run it; 0 where there is one class.
    pub class: usize,
}

/// The program of a step.
pub const TRAIN_STEP: &str = "train_step";
/// The program of an evaluation.
pub const EVAL_STEP: &str = "eval_step";
/// The program that makes the logits of a position.
pub const LOGITS: &str = "logits";
/// The program that makes the logits behind one token.
pub const DECODE: &str = "decode";
/// The program that rounds weights for the others: a device runs it by itself where weights have come from outside.
pub const ROUND_WEIGHTS: &str = "round_weights";

/// Every entry of the first class with its name, in the order of plans.
const NAMES: [(Program, Part, &str); 21] = {
    use Part::*;
    use Program::*;
    [
        (Train, Whole, TRAIN_STEP),
        (Eval, Whole, EVAL_STEP),
        (Logits, Whole, LOGITS),
        (Decode, Whole, DECODE),
        (RoundWeights, Whole, ROUND_WEIGHTS),
        (Train, Start, "train_start"),
        (Train, Enter, "train_enter"),
        (Train, Forward, "train_forward"),
        (Train, Head, "train_head"),
        (Train, Backward, "train_backward"),
        (Train, BackwardLast, "train_backward_last"),
        (Train, Weights, "train_weights"),
        (Train, WeightsLast, "train_weights_last"),
        (Train, Leave, "train_leave"),
        (Train, Finish, "train_finish"),
        (Eval, Enter, "eval_enter"),
        (Eval, Forward, "eval_forward"),
        (Eval, Head, "eval_head"),
        (Logits, Enter, "logits_enter"),
        (Logits, Forward, "logits_forward"),
        (Logits, Head, "logits_head"),
    ]
};

impl Entry {
    /// The entry for stages of the first class.
    pub const fn new(program: Program, part: Part) -> Self {
        Self { program, part, class: 0 }
    }

    /// The same part for stages of another class.
    #[must_use]
    pub const fn of_class(self, class: usize) -> Self {
        Self { class, ..self }
    }

    /// Every entry of the first class, in the order of plans.
    pub fn all() -> impl Iterator<Item = Entry> {
        NAMES.iter().map(|(program, part, _)| Entry::new(*program, *part))
    }

    /// The entry of this name.
    pub fn parse(name: &str) -> Option<Entry> {
        let (base, class) = class_of(name);
        let (program, part, _) = NAMES.iter().find(|(_, _, known)| *known == base)?;
        // `train_step_0` and `train_step_01` are nobody's name.
        let entry = Entry::new(*program, *part).of_class(class);
        (entry.to_string() == name).then_some(entry)
    }

    /// Whether this is what updates the weights: the whole step, or its last part.
    pub fn updates(self) -> bool {
        self.program == Program::Train && matches!(self.part, Part::Whole | Part::Finish)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = NAMES.iter().find(|(p, part, _)| (*p, *part) == (self.program, self.part));
        // A part that a program does not have is no function's name, and parses as none.
        let base = known.map_or("no_entry", |(_, _, name)| name);
        f.write_str(&name_of(base, self.class))
    }
}

/// The name of a program for the stages of a class: those of the first class have no number.
pub fn name_of(base: &str, class: usize) -> String {
    if class == 0 { base.to_string() } else { format!("{base}_{class}") }
}

/// A program's name without the number of its class, and the class.
pub fn class_of(name: &str) -> (&str, usize) {
    let numbered = name.rsplit_once('_').and_then(|(base, n)| Some((base, n.parse().ok()?)));
    numbered.unwrap_or((name, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(Entry::all().count(), 21);
        for entry in Entry::all().flat_map(|e| [e, e.of_class(1), e.of_class(12)]) {
            assert_eq!(Entry::parse(&entry.to_string()), Some(entry), "{entry}");
        }
        let last = Entry::new(Program::Train, Part::BackwardLast).of_class(2);
        assert_eq!(last.to_string(), "train_backward_last_2");
        for name in [
            "train",
            "block",
            "train_step_0",
            "train_step_01",
            "train_step.block",
            "",
            "eval_leave",
        ] {
            assert_eq!(Entry::parse(name), None, "{name}");
        }
        assert!(Entry::parse("train_finish_1").is_some_and(Entry::updates));
        assert!(!Entry::parse("train_leave").is_some_and(Entry::updates));
    }
}
