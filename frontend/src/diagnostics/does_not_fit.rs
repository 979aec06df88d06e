//! NX0112: a plan does not fit its cluster.

use neoxc_ir::diag::Kind;

/// NX0112.
pub static KIND: Kind = Kind {
    code: "NX0112",
    title: "the plan does not fit the cluster",
    explanation: "A rank of the plan needs more memory than the cluster file says a rank has (less what is reserved),\nor the configuration wants more ranks than the cluster has. Memory is counted to the byte: what the\ncompiler prints is what the runtime allocates.\n\nUse more ranks along model_parallel_size or pipe_parallel_size, a higher ZeRO stage, smaller\nmicro-batches, checkpoint_activations, or another cluster.",
};
