//! NX0201: ranks do not divide a dim.

use crate::diag::{Diagnostic, Example, Kind, Span};

/// NX0201.
pub static KIND: Kind = Kind {
    code: "NX0201",
    title: "ranks do not divide a dim",
    explanation: "\
Ranks along an axis of the mesh divide a dim of the model into equal shards: tensor ranks divide heads
(those of keys and values: `num_kv_heads` where it is given) and the columns of the MLP, context ranks
the sequence, expert ranks the experts, data ranks the micro-batches of a step. The dim's size must be a
multiple of the number of ranks.

Most such configurations are refused by `neoxc check` (NX0107, with both keys). This is told where only
the built model shows the dim's size.",
    example: Example::Session(
        "\
$ neoxc opt model.mlir --passes assign-layouts
error[NX0201]: 3 ranks of the `tensor` axis do not divide the 4 elements of `heads`
  = hint: `model_parallel_size` must divide it",
    ),
    exit: 3,
};

/// `ranks` ranks of `axis` do not divide `dim`, which has `size` elements, in what `places` made.
pub fn undivided_dim(
    ranks: usize,
    axis: &str,
    size: usize,
    dim: &str,
    places: &[Span],
) -> Diagnostic {
    let key = match axis {
        "tensor" => "`model_parallel_size`",
        "pipe" => "`pipe_parallel_size`",
        "context" => "`context_parallel_size`",
        "expert" => "`moe_expert_parallel_size`",
        _ => "the number of data ranks (`world_size` over the other degrees)",
    };
    let message =
        format!("{ranks} ranks of the `{axis}` axis do not divide the {size} elements of `{dim}`");
    let d = Diagnostic::error(&KIND, message);
    places
        .iter()
        .fold(d, |d, span| d.label(span, format!("`{dim}` comes from here")))
        .hint(format!("{key} must divide it"))
}
