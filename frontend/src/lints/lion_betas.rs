//! The lint `lion-betas`.

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "lion-betas",
    text: "\
GPT-NeoX has two Lions: its own at ZeRO stage 0, whose betas are 0.9 and 0.99 without `betas`, and DeepSpeed's from
stage 1 on, whose are 0.9 and 0.999. Here they are 0.9 and 0.99, those of the paper (arXiv 2302.06675), at every
stage.",
    wrong: "optimizer: {type: Lion, params: {lr: 0.001}}\nzero_optimization: {stage: 1}",
    right: "optimizer: {type: Lion, params: {lr: 0.001, betas: [0.9, 0.99]}}\nzero_optimization: {stage: 1}",
    check,
};

fn check(c: &Config, r: &Reader<'_>) -> Option<Finding> {
    let given = r.has("optimizer", &["params", "betas"]);
    (c.optimizer.kind == "lion" && c.parallel.zero_stage > 0 && !given).then(|| Finding {
        message: "GPT-NeoX's Lion has the betas 0.9 and 0.999 from ZeRO stage 1 on; here they are 0.9 and \
                  0.99"
            .into(),
        keys: &["optimizer", "zero_optimization"],
        hint: "`--set optimizer.params.betas=[0.9,0.99]` means the same in both".into(),
    })
}
