//! NX0105: key missing.

use neoxc_ir::diag::Kind;

/// NX0105.
pub static KIND: Kind = Kind {
    code: "NX0105",
    title: "key missing",
    explanation: "The model or the run cannot be built without this key, and there is no default that would be\nright for everybody.\n\nAdd the key to a file or give it with `--set KEY=VALUE`.",
};
