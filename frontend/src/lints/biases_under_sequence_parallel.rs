//! The lint `biases-under-sequence-parallel`.

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "biases-under-sequence-parallel",
    text: "\
With `sequence_parallel` and the sequential residual each tensor rank of GPT-NeoX has a copy of the biases of
`attention.dense` and of the MLP's second matrix, sees the gradient of its part of the sequence, and nothing adds
these up: the copies drift apart. Here the gradients are summed.",
    wrong: "sequence_parallel: true\nmodel_parallel_size: 2",
    right: "sequence_parallel: true\nmodel_parallel_size: 2\nuse_bias_in_attn_linear: false\nuse_bias_in_mlp: false",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let m = &c.model;
    let biases = m.bias_of_output() || m.use_bias_in_mlp;
    let divided = c.parallel.sequence_parallel && c.parallel.tensor > 1;
    (divided && biases && !m.gpt_j_residual).then(|| Finding {
        message: "GPT-NeoX lets the biases of tensor ranks drift apart under `sequence_parallel`; here \
                  their gradients are summed"
            .into(),
        keys: &["sequence_parallel", "model_parallel_size"],
        hint: "it matters only where a run is compared with GPT-NeoX's".into(),
    })
}
