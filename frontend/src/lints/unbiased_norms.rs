//! The lint `unbiased-norms`.

use super::{Finding, Lint};
use crate::config::{Config, Norm};
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "unbiased-norms",
    text: "\
Nothing in GPT-NeoX reads `use_bias_in_norms`: its layer norms always have biases. Here layer norms are without them
where the key says so, and a GPT-NeoX checkpoint has more parameters. RMS norms have none in either.",
    wrong: "norm: layernorm\nuse_bias_in_norms: false",
    right: "norm: layernorm\nuse_bias_in_norms: true",
    check,
};

fn check(c: &Config, _: &Reader<'_>) -> Option<Finding> {
    (c.model.norm == Norm::LayerNorm && !c.model.use_bias_in_norms).then(|| Finding {
        message: "GPT-NeoX's layer norms have biases whatever `use_bias_in_norms` says; here they have none"
            .into(),
        keys: &["use_bias_in_norms", "norm"],
        hint: "`--set use_bias_in_norms=true` means the same in both".into(),
    })
}
