//! NXR0301: a checkpoint is damaged or belongs to another model.

use std::fmt::Display;

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0301.
pub static KIND: Kind = Kind {
    code: "NXR0301",
    title: "a checkpoint is damaged or belongs to another model",
    explanation: "\
Tensors are found by name and must have the plan's shapes. The message names the first one that is
missing, left over or of another shape. Nothing was written. Resume with the configuration that wrote
it; or, to go on from an older checkpoint, write its folder's name into the file `latest`.",
    example: Example::Session(
        "\
$ neoxc run --plan plan --resume
error[NXR0301]: checkpoints/global_step100: its part of gpt_neox.embed_in.weight is missing
  = hint: to go on from an older checkpoint, write its folder's name into the file `latest`",
    ),
    exit: 3,
};

/// The checkpoint's file or folder at `path` is wrong as `message` says, with the tensor's name.
pub fn checkpoint(path: &dyn Display, message: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{path}: {message}"))
        .hint("to go on from an older checkpoint, write its folder's name into the file `latest`")
}
