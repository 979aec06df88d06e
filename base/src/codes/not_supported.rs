//! NX0104: not supported yet.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0104.
pub static KIND: Kind = Kind {
    code: "NX0104",
    title: "not supported yet",
    explanation: "\
The argument is known, but this version cannot do what the value asks for. Nothing is ignored
silently: a run that would differ from the configuration is refused.

The message says why, and the hint what to use instead. `neoxc explain KEY` tells of the argument.",
    example: Example::Config { wrong: "use_qk_layernorm: true", right: "use_qk_layernorm: false" },
    exit: 3,
};

/// `what` (a key, or a key with its value) is not supported because of `why`; `instead` is the hint.
pub fn not_supported(what: &str, why: &str, span: &Span, instead: &str) -> Diagnostic {
    waits(&KIND, what, why, span, instead)
}

/// The same for what waits for a subject with a code of its own, such as Mamba layers.
pub fn waits(kind: &'static Kind, what: &str, why: &str, at: &Span, instead: &str) -> Diagnostic {
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    Diagnostic::error(kind, format!("{what} is not supported yet{why}"))
        .label(at, "asked for here")
        .hint(instead)
}
