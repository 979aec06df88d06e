//! NX0106: impossible value.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0106.
pub static KIND: Kind = Kind {
    code: "NX0106",
    title: "impossible value",
    explanation: "\
The value is of the right type but cannot be meant: zero layers, a negative size, a fraction above one.

The message names the range; docs/arguments.md has the range of every argument.",
    example: Example::Config { wrong: "hidden_dropout: 1.0", right: "hidden_dropout: 0.1" },
    exit: 3,
};

/// `name` has the value `found`, which is outside of `range` (a phrase such as `from 0 to below 1`).
pub fn out_of_range(name: &str, found: &str, range: &str, span: &Span) -> Diagnostic {
    Diagnostic::error(&KIND, format!("`{name}` is {found}; it must be {range}"))
        .label(span, "out of range")
}

/// A value that cannot be meant for another reason, which `message` tells.
pub fn impossible_value(message: &str, span: &Span, label: &str, hint: &str) -> Diagnostic {
    Diagnostic::error(&KIND, message).label(span, label).hint(hint)
}
