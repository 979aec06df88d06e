//! The entries of a module: the functions that a plan has programs for.
//!
//! Their names are those of [`neoxc_base::entry`], which plans and the runtime read too.

pub use neoxc_base::entry::{
    DECODE, EVAL_STEP, Entry, LOGITS, Part, Program, ROUND_WEIGHTS, TRAIN_STEP, class_of, name_of,
};
use neoxc_ir::{Module, keys};

/// Number of classes of stages that the programs of a module are for.
fn classes(m: &Module) -> usize {
    m.attrs.strs(keys::CLASSES).map_or(1, |c| c.len())
}

/// The names of the entries that a module has, in the order of plans, of each class in turn.
pub fn entries(m: &Module) -> Vec<String> {
    let classes = classes(m);
    let of = move |entry: Entry| (0..classes).map(move |class| entry.of_class(class).to_string());
    Entry::all().flat_map(of).filter(|name| m.function(name).is_some()).collect()
}

/// Whether a function of this name is this part of training, for stages of any class.
pub fn is_training(name: &str, part: Part) -> bool {
    Entry::parse(name).is_some_and(|e| (e.program, e.part) == (Program::Train, part))
}

/// Whether a function of this name is training, or a part of it.
pub fn trains(name: &str) -> bool {
    Entry::parse(name).is_some_and(|e| e.program == Program::Train)
}
