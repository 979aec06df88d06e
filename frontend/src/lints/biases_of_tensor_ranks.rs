//! The lint `biases-of-tensor-ranks`.

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "biases-of-tensor-ranks",
    text: "\
With the parallel residual every tensor rank of GPT-NeoX adds its own copy of the biases of `attention.dense` and of
the MLP's second matrix before the sum over ranks, so a bias acts as many times as there are ranks. Here it acts
once, on any number of ranks. Biases of a GPT-NeoX checkpoint of several tensor ranks must be added up.",
    wrong: "gpt_j_residual: true\nmodel_parallel_size: 2",
    right: "gpt_j_residual: true\nmodel_parallel_size: 1",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let m = &c.model;
    let biases = m.bias_of_output() || m.use_bias_in_mlp;
    (m.gpt_j_residual && biases && c.parallel.tensor > 1).then(|| Finding {
        message: format!(
            "GPT-NeoX adds the biases of a parallel residual once per tensor rank, {} times; here they \
             are added once",
            c.parallel.tensor
        ),
        keys: &["model_parallel_size", "gpt_j_residual"],
        hint: "it matters only where a run is compared with GPT-NeoX's".into(),
    })
}
