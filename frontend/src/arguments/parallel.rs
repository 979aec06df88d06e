//! Arguments that say how many ranks there are, and what they divide.

use super::{Argument, dict, flag, float, int, word};

const OF_COURSE: &str = "it follows from `pipe_parallel_size`";

#[rustfmt::skip] // a table: an argument begins a line
pub(super) static ARGUMENTS: &[Argument] = &[
    int("pipe_parallel_size").number(0.0).between(0.0, 65_536.0).doc("Ranks that divide the layers: stages of a pipeline. 0 and 1 are one stage."),
    word("pipe_schedule", "1f1b", &["1f1b", "gpipe", "zb-h1", "interleaved"], &[]).ours()
        .doc("Order of micro-batches in a pipeline: one forward, one backward (`1f1b`); all forward, then all backward (`gpipe`); with gradients of weights where stages would wait (`zb-h1`); or with several chunks of layers on each stage (`interleaved`)."),
    int("virtual_pipeline_chunks").number(1.0).between(1.0, 65_536.0).ours().doc("Chunks of layers on each stage of an `interleaved` schedule; 2 if it is not given."),
    word("pipe_partition_method", "type:transformer|mlp", &["type:transformer|mlp", "parameters", "uniform", "balanced"], &["type:*"])
        .doc("How stages divide the layers: equal numbers of layers, of parameters, or of GPT-NeoX's modules; `balanced` (ours) by time."),
    int("model_parallel_size").number(1.0).between(0.0, 65_536.0).doc("Ranks that divide each layer: heads, columns of the MLP and the vocabulary (tensor parallelism)."),
    flag("sequence_parallel", false).doc("Tensor ranks divide the residual stream along the sequence as well: less memory, the same results."),
    int("context_parallel_size").number(1.0).between(0.0, 65_536.0).ours().doc("Ranks that divide the sequence; in attention they divide the heads."),
    int("world_size").between(1.0, 1_048_576.0).doc("All ranks. What the other degrees leave are data ranks, which divide a step's micro-batches."),
    flag("is_pipe_parallel", false).idle(OF_COURSE).doc("Whether there is a pipeline; GPT-NeoX sets it itself."),
    int("global_num_gpus").idle("`world_size` says it").doc("All GPUs; GPT-NeoX sets it itself."),
    flag("fp32_allreduce", false).idle("sums over ranks are always f32").doc("Sum over ranks in f32."),
    flag("prescale_gradients", false).idle("gradients are f32, and dividing them before or after their sum is the same").doc("Divide gradients before they are summed over ranks."),
    float("gradient_predivide_factor").number(1.0).idle("gradients are f32, and dividing them before or after their sum is the same").doc("What gradients are divided by before they are summed over ranks."),
    flag("sparse_gradients", false).idle("gradients of embeddings are summed with all their rows").doc("Sum only rows of the embedding's gradient that are not zero."),
    flag("communication_data_type", false).unset().not_yet("sums over ranks are f32", "").doc("Dtype of sums over ranks."),
    dict("elasticity").not_yet("a plan is for a number of ranks; a checkpoint can be resumed with any", "compile for the new number of ranks and use --resume").doc("Change the number of ranks while a run goes on."),
];
