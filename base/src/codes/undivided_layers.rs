//! NX0203: stages do not divide the layers.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0203.
pub static KIND: Kind = Kind {
    code: "NX0203",
    title: "stages do not divide the layers",
    explanation: "\
A pipeline's stages divide the layers by `pipe_partition_method`, and every stage must have at least
one; where layers of several kinds follow each other in periods, a stage has whole periods. An
interleaved schedule gives every stage as many equal chunks of layers as `virtual_pipeline_chunks` says.

Use fewer stages or chunks, or another `pipe_partition_method` (`balanced` looks at the time that each
layer takes).",
    example: Example::Session(
        "\
$ neoxc opt grad.mlir --passes cut-stages
error[NX0203]: 4 stages × 2 chunks do not divide 6 layers
  = hint: `pipe_parallel_size` × `virtual_pipeline_chunks` must divide `num_layers`",
    ),
    exit: 3,
};

/// Stages cannot have the layers of what `places` made; `message` says why.
pub fn undivided_layers(message: &str, places: &[Span], hint: &str) -> Diagnostic {
    let d = Diagnostic::error(&KIND, message);
    places.iter().fold(d, |d, span| d.label(span, "these layers")).hint(hint)
}
