//! NX0101: unknown key.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0101.
pub static KIND: Kind = Kind {
    code: "NX0101",
    title: "unknown key",
    explanation: "\
The key is not an argument of GPT-NeoX, nor one of neoxc's own. Unknown keys are errors, because a
misspelt one would otherwise leave its default in force for a whole training run.

Check the spelling; `-` and `_` are the same in key names. `neoxc explain KEY` tells what a key means,
and docs/arguments.md lists all of them.",
    example: Example::Config { wrong: "num_layer: 4", right: "num_layers: 4" },
    exit: 3,
};

/// `key` is none of those that `what` has; `near` is the one that it resembles.
pub fn unknown_key(key: &str, what: &str, span: &Span, near: Option<&str>) -> Diagnostic {
    let hint = near.map(|n| format!("did you mean `{n}`?")).unwrap_or_default();
    Diagnostic::error(&KIND, format!("unknown key `{key}`"))
        .label(span, format!("this is not {what}"))
        .hint(hint)
}

/// `key` was called so once, and is called `now` today.
pub fn renamed_key(key: &str, now: &str, span: &Span) -> Diagnostic {
    let hint = format!("it is called `{now}` now");
    former_key(key, &hint, span)
}

/// `key` was one once; `hint` says what to write today.
pub fn former_key(key: &str, hint: &str, span: &Span) -> Diagnostic {
    Diagnostic::error(&KIND, format!("unknown key `{key}`"))
        .label(span, "this is an argument of GPT-NeoX no more, or never was")
        .hint(hint)
}

/// `n` further keys are unknown, the first of them at `span`.
pub fn more(n: usize, span: &Span) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{n} more unknown keys")).label(span, "the first of these")
}
