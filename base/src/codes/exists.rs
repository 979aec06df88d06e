//! NXR0002: a file exists already.

use std::fmt::Display;

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0002.
pub static KIND: Kind = Kind {
    code: "NXR0002",
    title: "a file exists already",
    explanation: "\
The command would replace a file that it did not make in this run. Nothing was touched. Give --force to
replace it, or choose another name.",
    example: Example::Session(
        "\
$ neoxc data preprocess text.jsonl --vocab-file tokenizer.json -o data/text
error[NXR0002]: data/text_text_document.bin exists already
  = hint: give --force to replace it, or another name",
    ),
    exit: 5,
};

/// There is a file at `path` that would be replaced.
pub fn exists(path: &dyn Display) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{path} exists already"))
        .hint("give --force to replace it, or another name")
}
