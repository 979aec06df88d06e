//! NXR0601: ranks cannot talk to each other.

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0601.
pub static KIND: Kind = Kind {
    code: "NXR0601",
    title: "ranks cannot talk to each other",
    explanation: "\
A call of the MPI library did not succeed, or a connection that ranks watch each other on cannot be made:
between all hosts of a job any TCP port must be open. Or ranks took longer than --start-timeout to find
each other or to leave MPI: one of them has stopped or never started. The message has the words of the
library or the system; what mpirun wrote above it often says more.",
    example: Example::Session(
        "\
$ mpirun -n 2 neoxc run --plan plan
error[NXR0601]: rank 1 did not come within 60 s",
    ),
    exit: 4,
};

/// Ranks cannot talk to each other, as `message` says.
pub fn link(message: &str) -> Diagnostic {
    Diagnostic::error(&KIND, message)
}
