//! The lint `cosine-past-its-end`.

use super::{Finding, Lint};
use crate::config::{Config, Decay};
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "cosine-past-its-end",
    text: "\
After `lr_decay_iters` steps GPT-NeoX's cosine rises again. Here the learning rate stays at `min_lr`.",
    wrong: "train_iters: 10\nlr_decay_style: cosine\nlr_decay_iters: 5",
    right: "train_iters: 10\nlr_decay_style: cosine\nlr_decay_iters: 10",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let (end, steps) = (c.optimizer.rate.iters, c.run.train_iters);
    (c.optimizer.rate.style == Decay::Cosine && end < steps).then(|| Finding {
        message: format!(
            "GPT-NeoX's cosine rises again from step {end} of {steps} on; here the rate stays at `min_lr`"
        ),
        keys: &["lr_decay_iters", "lr_decay_fraction", "train_iters"],
        hint: format!("`--set lr_decay_iters={steps}` means the same in both"),
    })
}
