//! NX0105: key missing.

use crate::diag::{Diagnostic, Example, Kind};

/// NX0105.
pub static KIND: Kind = Kind {
    code: "NX0105",
    title: "key missing",
    explanation: "\
The model or the run cannot be built without this key, and there is no default that would be right for
everybody.

Add the key to a file, or give it with `--set KEY=VALUE`.",
    example: Example::Config { wrong: "num_layers: null", right: "num_layers: 2" },
    exit: 3,
};

/// `what` (a key, or words for one of several keys) is missing.
pub fn missing_key(what: &str, hint: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{what} is missing")).hint(hint)
}
