//! NX0109: not readable as YAML.

use neoxc_ir::diag::Kind;

/// NX0109.
pub static KIND: Kind = Kind {
    code: "NX0109",
    title: "not readable as YAML",
    explanation: "The file is not YAML or JSON, is nested too deeply, or is not a mapping of keys to values.\n\nThe place is where reading stopped; the cause may stand just before it.",
};
