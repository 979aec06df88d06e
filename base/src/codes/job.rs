//! NXR0602: processes that do not belong together.

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0602.
pub static KIND: Kind = Kind {
    code: "NXR0602",
    title: "processes that do not belong together",
    explanation: "\
mpirun must start as many processes as the plan has ranks, each with the same plan, configuration, data,
options and version of the program. The message names the first rank that differs, and in what. Nothing
was run. On several hosts all need the same files, at best on one file system.",
    example: Example::Session(
        "\
$ mpirun -n 3 neoxc run --plan plan
error[NXR0602]: the plan has 2 ranks, and mpirun started 3 processes
  = hint: start all ranks with the same plan, options and program",
    ),
    exit: 3,
};

/// The processes of a job differ as `message` says.
pub fn job(message: &str) -> Diagnostic {
    Diagnostic::error(&KIND, message)
        .hint("start all ranks with the same plan, options and program")
}
