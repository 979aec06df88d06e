//! NXR0603: a rank was lost.

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0603.
pub static KIND: Kind = Kind {
    code: "NXR0603",
    title: "a rank was lost",
    explanation: "\
A rank died, was stopped, cannot be reached any more, or failed, so that the whole job ended. The message
names that rank, the instruction at which this rank waited with its place in the plan, and whom it waited
for. Ranks tell each other that they live; one that is silent for --timeout seconds counts as lost. If all
live, but all wait and nothing arrives, or work with a file does not go on for as long, the job ends too.

Go on from the last checkpoint with --resume.",
    example: Example::Session(
        "\
$ mpirun -n 8 neoxc run --plan plan
rank 4: error[NXR0603]: rank 5 was silent for 3 s: it is stopped, or the link to it is cut; rank 4 waited \
for rank 5 in `all_reduce tensor` (programs/train_forward_1.txt:18, model.yml:2:39)
  = hint: go on with --resume from the last checkpoint",
    ),
    exit: 7,
};

/// Rank `lost` ended in the way that `what` tells, while `rank` waited for the ranks `waited` in the
/// instruction `at`, or between programs.
pub fn lost(rank: u64, lost: u64, what: &str, waited: &[u64], at: Option<&str>) -> Diagnostic {
    let numbers: Vec<String> = waited.iter().map(u64::to_string).collect();
    let plural = if waited.len() == 1 { "" } else { "s" };
    let whom = match waited {
        [] => String::new(),
        _ => format!(" for rank{plural} {}", numbers.join(", ")),
    };
    let place = match at {
        Some(at) => format!("in {at}"),
        None => "between programs".to_string(),
    };
    Diagnostic::error(&KIND, format!("rank {lost} {what}; rank {rank} waited{whom} {place}"))
        .hint("go on with --resume from the last checkpoint")
}
