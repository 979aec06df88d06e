//! NX0104: not supported yet.

use neoxc_ir::diag::Kind;

/// NX0104.
pub static KIND: Kind = Kind {
    code: "NX0104",
    title: "not supported yet",
    explanation: "The argument is known, but this version cannot do what the value asks for. Nothing is ignored\nsilently: a run that would differ from the configuration is refused.\n\nRemove the key, or set it to the value that the hint names.",
};
