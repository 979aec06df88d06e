//! NXR0401: kernels cannot be loaded.

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0401.
pub static KIND: Kind = Kind {
    code: "NXR0401",
    title: "kernels cannot be loaded",
    explanation: "\
The plan's shared object for this target is missing or the system's loader refused it. A plan compiled
with x86-64-native for one machine may use instructions that another does not have: compile with
--target x86-64-v3 for machines that differ. Kernels for bf16 may use AMX's tile registers, which Linux
(5.16 and later) gives to a process that asks; where it refuses, compile with x86-64-v4.",
    example: Example::Session(
        "\
$ neoxc run --plan plan
error[NXR0401]: kernels: the plan was compiled for a processor with avx512f, which this one does not have",
    ),
    exit: 4,
};

/// Kernels cannot be loaded for the reason `why`.
pub fn kernels(why: &str) -> Diagnostic {
    Diagnostic::error(&KIND, format!("kernels: {why}"))
}
