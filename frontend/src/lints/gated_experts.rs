//! The lint `gated-experts`.

use super::{Finding, Lint};
use crate::config::{Activation, Config};
use crate::reader::Reader;

pub(super) static LINT: Lint = Lint {
    name: "gated-experts",
    text: "\
GPT-NeoX's experts have no gate: where the activation is one, they apply its inner function to their only wide
projection (`swiglu`: `silu`), as wide as `intermediate_size` says (moe_mlp.py). neoxc gives experts the gate, and a
third of the width, as a dense MLP has it. Where that is meant, `moe_intermediate_size` says the width of an
expert in its own words.",
    wrong: "activation: swiglu\nmoe_num_experts: 4\nintermediate_size: 144",
    right: "activation: swiglu\nmoe_num_experts: 4\nmoe_intermediate_size: 48",
    check,
};

fn check(c: &Config, r: &Reader<'_>) -> Option<Finding> {
    let m = &c.model;
    if m.moe.is_none_or(|e| e.ffn.is_some()) || !m.activation.gated() || r.find("model_family").is_some()
    {
        return None;
    }
    let inner = match m.activation {
        Activation::SwiGlu => "silu",
        Activation::GeGlu => "gelu",
        Activation::ReGlu => "relu",
        _ => "its function",
    };
    Some(Finding {
        message: format!(
            "experts have the gate of `{}` and are {} wide; GPT-NeoX's have no gate, and apply {inner}",
            m.activation, m.intermediate_size
        ),
        keys: &["activation", "moe_num_experts", "intermediate_size"],
        hint: format!("`--set moe_intermediate_size={}` says that it is meant", m.intermediate_size),
    })
}
