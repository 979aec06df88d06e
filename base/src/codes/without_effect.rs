//! NX0108: key without effect here.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0108.
pub static KIND: Kind = Kind {
    code: "NX0108",
    title: "key without effect here",
    explanation: "\
The key is known and harmless: it chooses between implementations, launchers or loggers that a compiled
plan does not have, or nothing reads it in GPT-NeoX either. The run is the same without it.

`neoxc explain KEY` says why for each key.",
    example: Example::Config { wrong: "num_workers: 4", right: "# num_workers is left out" },
    exit: 0,
};

/// `keys` say nothing here; `why` is told of the first one, which is at `span`.
pub fn without_effect(message: &str, span: &Span, why: &str) -> Diagnostic {
    Diagnostic::warning(&KIND, message).label(span, why)
}
