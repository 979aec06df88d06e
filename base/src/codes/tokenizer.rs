//! NXR0501: a tokenizer is damaged or does not fit.

use std::fmt::Display;

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0501.
pub static KIND: Kind = Kind {
    code: "NXR0501",
    title: "a tokenizer is damaged or does not fit",
    explanation: "\
The tokenizer's file cannot be understood, or it produces ids that the model's vocabulary does not have.
Name the file that the training data were tokenized with.",
    example: Example::Session(
        "\
$ neoxc generate --plan plan --prompt A
error[NXR0501]: tokenizer.json: expected value at line 1 column 1",
    ),
    exit: 3,
};

/// The tokenizer's file at `path` is wrong as `message` says.
pub fn tokenizer(path: &dyn Display, message: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{path}: {message}"))
}
