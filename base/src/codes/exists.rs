//! NXR0002: a file exists already.

use std::fmt::Display;

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0002.
pub static KIND: Kind = Kind {
    code: "NXR0002",
    title: "a file exists already",
    explanation: "\
The command would replace a file, or a run the checkpoints of another, that it did not make. Nothing was
touched. Give --force to replace it, or choose another name; a run may go on with --resume.",
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

/// A command that replaces nothing would write to `path`.
pub fn kept(path: &dyn Display) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{path} exists already"))
        .hint("give another name: a conversion replaces nothing")
}

/// A run that begins anew would replace the checkpoint at `path`.
pub fn checkpoint(path: &dyn Display) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{path} exists already: another run has saved there")).hint(
        "give --resume to go on from it, --force to begin anew and replace it, or another --save",
    )
}
