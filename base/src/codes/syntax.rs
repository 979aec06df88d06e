//! NX0109: not readable as YAML.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0109.
pub static KIND: Kind = Kind {
    code: "NX0109",
    title: "not readable as YAML",
    explanation: "\
The file is not YAML or JSON, is nested too deeply, or is not a mapping of keys to values.

The place is where reading stopped; the cause may stand just before it.",
    example: Example::Config { wrong: "extra_save_iters: [1, 2", right: "extra_save_iters: [1, 2]" },
    exit: 3,
};

/// Reading stopped at `span`.
pub fn syntax(message: &str, span: &Span, label: &str) -> Diagnostic {
    Diagnostic::error(&KIND, message).label(span, label)
}
