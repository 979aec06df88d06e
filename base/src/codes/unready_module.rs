//! NX0207: a module that a pass cannot run on.

use std::fmt::Display;

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0207.
pub static KIND: Kind = Kind {
    code: "NX0207",
    title: "a module that a pass cannot run on",
    explanation: "\
Each pass requires facts that the passes before it have made true, and the rules of the ops that it meets.
The module that `neoxc opt` was given is not so. `neoxc opt - --passes list` prints the passes in the order in
which they run, and docs/architecture.md says what each does.

Run the passes before it first, or dump the module of the phase before the pass.",
    example: Example::Session(
        "\
$ neoxc opt empty.mlir --passes build-train-step
error[NX0207]: pass build-train-step: requires that there are functions @micro_step and @eval_step: there is no @micro_step
  = hint: run the passes before it first, in the order of `neoxc opt - --passes list`",
    ),
    exit: 3,
};

/// A pass cannot run, as `what` says with its name; the ops that it met come from `places`.
pub fn unready_module(what: &dyn Display, places: &[Span]) -> Diagnostic {
    let d = Diagnostic::error(&KIND, what.to_string());
    let d = places.iter().fold(d, |d, span| d.label(span, "the op comes from here"));
    d.hint("run the passes before it first, in the order of `neoxc opt - --passes list`")
}
