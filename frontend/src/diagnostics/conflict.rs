//! NX0107: values contradict each other.

use neoxc_ir::diag::Kind;

/// NX0107.
pub static KIND: Kind = Kind {
    code: "NX0107",
    title: "values contradict each other",
    explanation: "Two values cannot both hold, such as a hidden size that the number of heads does not divide, or\nbatch sizes that do not multiply up. Both places are shown.\n\nChange one of them.",
};
