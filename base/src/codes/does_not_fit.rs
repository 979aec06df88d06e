//! NX0112: a plan does not fit its cluster.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0112.
pub static KIND: Kind = Kind {
    code: "NX0112",
    title: "the plan does not fit the cluster",
    explanation: "\
A rank of the plan needs more memory than the cluster file says a rank has (less what is reserved), or
the configuration wants more ranks than the cluster has. Memory is counted to the byte: what the
compiler prints is what the runtime allocates.

Use more ranks along model_parallel_size or pipe_parallel_size, a higher ZeRO stage, smaller
micro-batches, checkpoint_activations, or another cluster.",
    example: Example::Session(
        "\
$ neoxc compile 20B.yml --cluster a100-40g.yml
error[NX0112]: a rank needs 52.1 GiB (55941931008 bytes), 14.1 GiB over what it has
 --> a100-40g.yml:4:13
  |
4 | memory_gib: 40
  |             ^^ 38.0 GiB are left for the plan",
    ),
    exit: 3,
};

/// What the keys at `places` ask for is more than the cluster has.
pub fn does_not_fit(message: &str, places: &[(Span, String)], hint: &str) -> Diagnostic {
    let d = Diagnostic::error(&KIND, message);
    places.iter().fold(d, |d, (span, text)| d.label(span, text.as_str())).hint(hint)
}
