//! NXR0404: less memory than the plan takes.

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0404.
pub static KIND: Kind = Kind {
    code: "NXR0404",
    title: "less memory than the plan takes",
    explanation: "\
A plan's memory is known to the byte before anything is allocated; it is compared with what the machine
has free, and with the limit of the control group (container) that the process is in. Use smaller
micro-batches with more accumulation steps, `checkpoint_activations`, or more memory.",
    example: Example::Session(
        "\
$ neoxc run --plan plan
error[NXR0404]: the plan takes 9000000000 bytes of memory, 8000000000 are available (this machine)
  = hint: smaller micro-batches, `checkpoint_activations`, or more memory; `neoxc compile` prints what \
         takes how much",
    ),
    exit: 4,
};

/// `what` takes `needs` bytes (the plan: for this number of threads), and `limit` leaves `available`.
pub fn memory(what: &str, needs: u64, available: u64, limit: &str) -> Diagnostic {
    let message =
        format!("{what} takes {needs} bytes of memory, {available} are available ({limit})");
    Diagnostic::error(&KIND, message).hint(match what {
        PLAN => {
            "smaller micro-batches, `checkpoint_activations`, or more memory; `neoxc compile` prints what \
             takes how much"
        }
        _ => "more memory, fewer steps (`train_iters`, `eval_iters`), or fewer processes on this host",
    })
}

/// What a plan's own memory is called.
pub const PLAN: &str = "the plan";
