//! NXR0201: a plan was refused.

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0201.
pub static KIND: Kind = Kind {
    code: "NXR0201",
    title: "a plan was refused",
    explanation: "\
Every file of a plan is listed with its size and SHA-256 in manifest.json; a plan with a missing,
foreign or changed file is not run, nor is one of another format version. Compile it again: with the
kernel cache that takes well under a second.

A plan is code that runs as you. So one whose folder or files others may write is not run either, unless
--trust-plan says that they are trusted: it belongs to another user than you or root, everybody may write
to it, a group may that is not your own, or an access control list names somebody. The same holds for the
folders on the way to it, unless they are sticky.",
    example: Example::Session(
        "\
$ neoxc run --plan plan
error[NXR0201]: plan/plan.json: its SHA-256 is not the manifest's
  = hint: compile the plan again",
    ),
    exit: 3,
};

/// The plan was refused as `message` says.
pub fn plan(message: &str, hint: &str) -> Diagnostic {
    Diagnostic::error(&KIND, message).hint(hint)
}
