//! The lint `linear-towards-zero`.

use super::{Finding, Lint};
use crate::config::{Config, Decay};
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "linear-towards-zero",
    text: "\
`lr_decay_style: linear` heads for 0, not for `min_lr`: the rate meets `min_lr` before the end of the schedule and stays
there. GPT-NeoX does the same; other systems draw the line to `min_lr`.",
    wrong: "lr_decay_style: linear\nmin_lr: 0.0001",
    right: "lr_decay_style: linear\nmin_lr: 0.0",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    let rate = &c.optimizer.rate;
    let floor = rate.style == Decay::Linear && rate.min_lr > 0.0 && rate.min_lr < rate.lr;
    floor.then(|| Finding {
        message: format!(
            "the line of `lr_decay_style: linear` heads for 0 and meets `min_lr` {:.1} % before its end",
            100.0 * rate.min_lr / rate.lr * (1.0 - rate.warmup)
        ),
        keys: &["lr_decay_style", "min_lr"],
        hint: "`--set lr_decay_style=wsd`, with `wsd_decay_ratio`, draws a line to `min_lr`".into(),
    })
}
