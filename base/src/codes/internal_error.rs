//! NX0001: internal error.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0001.
pub static KIND: Kind = Kind {
    code: "NX0001",
    title: "internal error: a bug in neoxc",
    explanation: "\
The compiler met something that its own rules exclude: a pass was given a module that it cannot handle,
left one that breaks a promise, or a kernel could not be built. The configuration was found to be right
before, so the mistake is neoxc's.

The message names the pass and, where it is known, the line of the configuration that the operation
comes from. The module that the pass was given is saved, and the line `replay` is the command that runs
the pass on it again. Please report the bug with that file.",
    example: Example::Session(
        "\
$ neoxc compile model.yml
error[NX0001]: pass fuse-kernels: @train_step: no kernel family takes neox.sort at model.yml:3:5
  = hint: this is a bug; replay: neoxc opt /tmp/neoxc-failed-fuse-kernels-Kq3xZ1.mlir --passes fuse-kernels",
    ),
    exit: 1,
};

/// The compiler failed at `message`; `replay` is the command that makes it fail again.
pub fn internal_error(message: &str, places: &[Span], replay: Option<&str>) -> Diagnostic {
    let hint = replay.map(|r| format!("this is a bug; replay: {r}")).unwrap_or_default();
    let d = Diagnostic::error(&KIND, message);
    places.iter().fold(d, |d, span| d.label(span, "the operation comes from here")).hint(hint)
}
