//! NX0208: the command line names something that there is not.

use crate::diag::{Diagnostic, Example, Kind};

/// NX0208.
pub static KIND: Kind = Kind {
    code: "NX0208",
    title: "the command line names something that there is not",
    explanation: "\
An argument of the command has to be one of several names (of a pass, a phase, a setting of passes, a
function of a plan, a code or an argument to be explained), or has to have the form KEY=VALUE, and it is
not so. The hint has the names, or the command that prints them.
Nothing has run.",
    example: Example::Session(
        "\
$ neoxc opt module.mlir --passes fuse-kernel
error[NX0208]: no pass is called `fuse-kernel`
  = hint: did you mean `fuse-kernels`?",
    ),
    exit: 2,
};

/// No `what` is called `name`; `known` are those that there are.
pub fn unknown_name(what: &str, name: &str, known: &[&str]) -> Diagnostic {
    let hint = match crate::nearest::nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", known.join(", ")),
    };
    Diagnostic::error(&KIND, format!("no {what} is called `{name}`")).hint(hint)
}

/// There is nothing called `name` that could be explained; `hint` says what there is.
pub fn unexplained(name: &str, hint: impl Into<String>) -> Diagnostic {
    let message = format!("no code, argument or lint is called `{name}`");
    Diagnostic::error(&KIND, message).hint(hint)
}

/// The function `@function` has no value called `name`: it has `count`.
pub fn unknown_value(function: &str, name: &str, count: usize) -> Diagnostic {
    let hint = match count.checked_sub(1) {
        Some(last) => format!("its values are %0 to %{last}"),
        None => format!("it has none: `@{function}` alone prints the function"),
    };
    Diagnostic::error(&KIND, format!("@{function} has no value `%{name}`")).hint(hint)
}

/// A setting of passes is none, as `why` says.
pub fn setting(why: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("a setting of passes cannot be read: {why}"))
        .hint("give `--set KEY=VALUE`, such as `--set tensor=2`; docs/ir.md says more")
}
