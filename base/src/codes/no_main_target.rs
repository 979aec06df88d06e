//! NX0204: no target that a plan runs on.

use crate::diag::{Diagnostic, Example, Kind};

/// NX0204.
pub static KIND: Kind = Kind {
    code: "NX0204",
    title: "no target that a plan runs on",
    explanation: "\
A plan may carry kernels for several targets, and this version runs those of an x86-64 one: GPU kernels
are compiled and checked, but the runtime does not launch them yet.

Add an x86-64 target: `--target x86-64-native,sm_90a`.",
    example: Example::Session(
        "\
$ neoxc compile model.yml --target sm_90a
error[NX0204]: none of the targets sm_90a is one that a plan runs on
  = hint: add an x86-64 target, such as `--target x86-64-native,sm_90a`",
    ),
    exit: 2,
};

/// None of the targets called `names` runs a plan.
pub fn no_main_target(names: &[&str]) -> Diagnostic {
    let names = names.join(",");
    Diagnostic::error(&KIND, format!("none of the targets {names} is one that a plan runs on"))
        .hint(format!("add an x86-64 target, such as `--target x86-64-native,{names}`"))
}
