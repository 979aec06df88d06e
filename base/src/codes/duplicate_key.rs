//! NX0103: key given twice.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0103.
pub static KIND: Kind = Kind {
    code: "NX0103",
    title: "key given twice",
    explanation: "\
A key may be given once, over all files together, whether it is written with `-` or `_`. GPT-NeoX
refuses a key in two files, but lets the second one win within a file; here both are errors.

Keep one of the two, or override it on the command line with `--set KEY=VALUE`.",
    example: Example::Config { wrong: "seed: 1\nseed: 2", right: "seed: 2" },
    exit: 3,
};

/// `key` is given at `first` and again at `again`; `how` ends the sentence (`twice`, `in two files`).
pub fn duplicate_key(key: &str, how: &str, first: &Span, again: &Span, hint: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("`{key}` is given {how}"))
        .label(again, "again here")
        .label(first, "first here")
        .hint(hint)
}

/// Further keys are given twice, the first of which is given again at `again`; `message` says how many.
pub fn more(message: &str, again: &Span) -> Diagnostic {
    Diagnostic::error(&KIND, message).label(again, "the first of these")
}
