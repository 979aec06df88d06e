//! NXR0001: a file cannot be read or written.

use std::fmt::Display;

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0001.
pub static KIND: Kind = Kind {
    code: "NXR0001",
    title: "a file cannot be read or written",
    explanation: "\
The system refused an operation on the file; its reason is in the message. Files are written under a
temporary name and renamed when they are whole, so what was there before is still there.",
    example: Example::Session(
        "\
$ neoxc run --plan none
error[NXR0001]: cannot read none/manifest.json: No such file or directory (os error 2)
  = hint: `neoxc compile` makes a plan",
    ),
    exit: 5,
};

/// The system refused to `action` (`read`, `write`, …) the file at `path`, because of `why`.
pub fn io(action: &str, path: &dyn Display, why: &dyn Display, hint: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("cannot {action} {path}: {why}")).hint(hint)
}
