//! The lint `weight-decay-in-params`.

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "weight-decay-in-params",
    text: "\
`weight_decay` is a key of its own in GPT-NeoX, beside `optimizer`: inside `optimizer.params` it ends in an error there,
given twice. Here it counts, and wins.",
    wrong: "optimizer: {type: Adam, params: {lr: 0.001, weight_decay: 0.01}}",
    right: "optimizer: {type: Adam, params: {lr: 0.001}}\nweight_decay: 0.01",
    check,
};

fn check(_: &Config, r: &Reader<'_>) -> Option<Finding> {
    r.has("optimizer", &["params", "weight_decay"]).then(|| Finding {
        message: "`weight_decay` inside `optimizer.params` ends in an error in GPT-NeoX; here it counts"
            .into(),
        keys: &["optimizer", "weight_decay"],
        hint: "give it as a key of its own, beside `optimizer`".into(),
    })
}
