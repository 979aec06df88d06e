//! NXR0101: a data set is damaged or does not fit.

use std::fmt::Display;

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0101.
pub static KIND: Kind = Kind {
    code: "NXR0101",
    title: "a data set is damaged or does not fit",
    explanation: "\
The .bin and .idx files of a data set contradict each other, are cut short, or hold token ids that the
model's vocabulary does not have. Make them again with `neoxc data preprocess`, with the tokenizer that
the configuration names.",
    example: Example::Session(
        "\
$ neoxc run model.yml
error[NXR0101]: data/text_text_document.idx: is not an index of this format",
    ),
    exit: 3,
};

/// The data set's file at `path` is wrong as `message` says.
pub fn data(path: &dyn Display, message: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{path}: {message}"))
}
