//! The lint `gated-width`.

use super::{Finding, Lint};
use crate::config::Config;
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "gated-width",
    text: "\
Where the activation is a gate, GPT-NeoX makes the MLP a third as wide as `intermediate_size`, or as 4 × `hidden_size`
where that is not given. Published models with gates are two thirds of 4 × `hidden_size` wide. Write three times
the width as `intermediate_size`.",
    wrong: "activation: swiglu\nhidden_size: 96",
    right: "activation: swiglu\nhidden_size: 96\nintermediate_size: 768",
    check,
};

fn check(c: &Config, r: &Reader<'_>) -> Option<Finding> {
    let m = &c.model;
    let given = ["intermediate_size", "expansion_factor"].iter().any(|k| r.find(k).is_some());
    if given || !m.activation.gated() || m.moe.is_some() {
        return None;
    }
    let usual = (m.hidden_size * 8 / 3).next_multiple_of(r.whole("mlp_multiple_of"));
    Some(Finding {
        message: format!(
            "the gated MLP is {} wide, a third of 4 × `hidden_size`; published models of this shape \
             have {usual}",
            m.intermediate_size
        ),
        keys: &["activation", "hidden_size"],
        hint: format!("`--set intermediate_size={}` makes it {usual} wide", 3 * usual),
    })
}
