//! The lint `attention-dropped`.

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "attention-dropped",
    text: "\
With the parallel residual GPT-NeoX adds what attention gives only where the MLP returns a bias: an MLP without
biases, or with experts, leaves attention out of the sum (transformer.py). neoxc adds both, as the formula
says; a GPT-NeoX checkpoint that was trained so is another model.",
    wrong: "gpt_j_residual: true\nuse_bias_in_mlp: false",
    right: "gpt_j_residual: true\nuse_bias_in_mlp: true",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let bare = !c.model.use_bias_in_mlp || c.model.moe.is_some();
    (c.model.gpt_j_residual && bare).then(|| Finding {
        message: "GPT-NeoX leaves attention out of a parallel residual whose MLP has no biases; here \
                  it is added"
            .into(),
        keys: &["gpt_j_residual", "use_bias_in_mlp", "moe_num_experts"],
        hint: "`--set gpt_j_residual=false` means the same in both".into(),
    })
}
