//! The lint `dropout-without-biases`.

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "dropout-without-biases",
    text: "\
GPT-NeoX drops in the kernel that adds a bias: a branch without one, or an MLP without one, has no hidden dropout at
all. Here `hidden_dropout` holds for both branches, whatever their biases.",
    wrong: "hidden_dropout: 0.1\nuse_bias_in_mlp: false",
    right: "hidden_dropout: 0.1\nuse_bias_in_mlp: true",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    (c.model.hidden_dropout > 0.0 && !c.model.use_bias_in_mlp).then(|| Finding {
        message: "GPT-NeoX drops nothing of an MLP without biases; here `hidden_dropout` holds for it"
            .into(),
        keys: &["hidden_dropout", "use_bias_in_mlp"],
        hint: "`--set hidden_dropout=0.0` means the same in both".into(),
    })
}
