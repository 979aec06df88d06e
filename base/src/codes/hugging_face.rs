//! NXR0303: a folder or a model that cannot be converted.

use std::fmt::Display;

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0303.
pub static KIND: Kind = Kind {
    code: "NXR0303",
    title: "a folder or a model that cannot be converted",
    explanation: "\
`neoxc convert` writes a folder only if it holds exactly the model that was given. A Hugging Face folder
must have a `config.json` of which every key is known, and in safetensors files exactly the weights of
the model that it describes. A checkpoint must be of a model that a class of Hugging Face computes, with
weights that the asked dtype holds. The message names the file, and the key or the tensor;
docs/howto/hugging-face.md lists what can be converted. Nothing was written.",
    example: Example::Session(
        "\
$ neoxc convert hf-to-neox hf checkpoints
error[NXR0303]: hf: has model.extra.weight, which the model has not
  = hint: the folder must be as `model.save_pretrained(…)` writes it; docs/howto/hugging-face.md says more",
    ),
    exit: 3,
};

/// What to do with a Hugging Face folder that is not whole.
pub const WHOLE: &str =
    "the folder must be as `model.save_pretrained(…)` writes it; docs/howto/hugging-face.md says more";

/// The file or folder at `path` cannot be converted, as `why` says.
pub fn hugging_face(path: &dyn Display, why: &dyn Display, hint: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("{path}: {why}")).hint(hint)
}
