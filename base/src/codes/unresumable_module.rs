//! NX0205: a module that compilation cannot go on from.

use crate::diag::{Diagnostic, Example, Kind};

/// NX0205.
pub static KIND: Kind = Kind {
    code: "NX0205",
    title: "a module that compilation cannot go on from",
    explanation: "\
`neoxc compile --from FILE.mlir` goes on from what `neoxc compile` has printed: the head of such a module has
the configuration (`neox.config`), what the passes were given (`neox.settings`) and the last one that has run
(`neox.after`). One of these is missing or cannot be read, or the program is not what they say: it is divided
over another mesh, or its values have places that somebody has edited.

Dump the module again (`neoxc dump --plan PLAN --phase PHASE`), and leave its head as it is. A module written
by hand has no configuration; `neoxc opt` runs passes on it.",
    example: Example::Session(
        "\
$ neoxc compile --from hand-written.mlir
error[NX0205]: the module has no `neox.config`
  = hint: --from takes what `neoxc dump` has printed; `neoxc opt` runs passes on any module",
    ),
    exit: 3,
};

/// What is wrong with the module.
pub fn unresumable_module(message: &str) -> Diagnostic {
    let hint = "--from takes what `neoxc dump` has printed; `neoxc opt` runs passes on any module";
    Diagnostic::error(&KIND, message).hint(hint)
}
