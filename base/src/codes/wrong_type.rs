//! NX0102: value of the wrong type.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0102.
pub static KIND: Kind = Kind {
    code: "NX0102",
    title: "value of the wrong type",
    explanation: "\
The value is not of the argument's type. Files are read as PyYAML reads YAML 1.1, where `1e-4` is
text: a float needs a dot (`1.0e-4`). `True`, `yes` and `on` are truth values.

Write a value of the type that the message names.",
    example: Example::Config { wrong: "layernorm_epsilon: 1e-5", right: "layernorm_epsilon: 1.0e-5" },
    exit: 3,
};

/// The value of `name` is `found` where `want` is expected.
pub fn wrong_type(name: &str, found: &str, want: &str, span: &Span, hint: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("`{name}` is {found}, not {want}"))
        .label(span, format!("expected {want}"))
        .hint(hint)
}
