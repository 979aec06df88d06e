//! AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), which is what GPT-NeoX's
//! `adam` runs.
//!
//! ```text
//! m' = β₁m + (1-β₁)g     v' = β₂v + (1-β₂)g²
//! w' = w - lr·λ·w - lr·(m'/(1-β₁ᵗ)) / (√(v'/(1-β₂ᵗ)) + ε)
//! ```
//! With `adam_w_mode: false` it is Adam as first published (Kingma & Ba 2014, arXiv:1412.6980), whose decay is the
//! gradient of an L2 penalty: `g + λ·w` stands in the place of `g`, and nothing else decays. With `bias_correction:
//! false` the denominators `1-βᵗ` are 1. Both keys are those of DeepSpeed's and apex's fused Adam.
//!
//! `cpu_adam` and `cpu_torch_adam` are the same update where the state lies in the memory of the host, which on a CPU
//! it always does.

use neoxc_ir::op::OpError;

use crate::{Hyper, LR, Optimizer, Range, Scalar, Slot, Update, WEIGHT_DECAY};

/// What a step keeps of the mean gradient.
pub const BETA1: Hyper = Hyper {
    name: "beta1",
    key: "betas",
    at: Some(0),
    default: 0.9,
    range: Range::HalfOpen(0.0, 1.0),
    doc: "what a step keeps of the mean gradient",
};

/// What a step keeps of the mean squared gradient.
pub const BETA2: Hyper = Hyper {
    name: "beta2",
    key: "betas",
    at: Some(1),
    default: 0.999,
    range: Range::HalfOpen(0.0, 1.0),
    doc: "what a step keeps of the mean squared gradient",
};

/// What is added to the root of the mean squared gradient.
pub const EPS: Hyper = Hyper {
    name: "eps",
    key: "eps",
    at: None,
    default: 1e-8,
    range: Range::Closed(0.0, 1e9),
    doc: "added to the root of the mean squared gradient",
};

/// The optimizer of this file.
pub static ADAM: Optimizer = Optimizer {
    names: &["adam", "adamw", "cpu_adam", "cpu_torch_adam"],
    doc: "AdamW (arXiv:1711.05101), or Adam with L2 decay (arXiv:1412.6980)",
    hypers: &[
        BETA1,
        BETA2,
        EPS,
        Hyper {
            name: "adam_w_mode",
            key: "adam_w_mode",
            at: None,
            default: 1.0,
            range: Range::Flag,
            doc: "whether weight decay is apart from the gradient (AdamW), or part of it (L2)",
        },
        Hyper {
            name: "bias_correction",
            key: "bias_correction",
            at: None,
            default: 1.0,
            range: Range::Flag,
            doc: "whether means are divided by the weight that they have had so far",
        },
        WEIGHT_DECAY,
    ],
    slots: &[
        Slot { name: "exp_avg", only_with: None, of: None },
        Slot { name: "exp_avg_sq", only_with: None, of: None },
    ],
    scalars: &[
        LR,
        Scalar { name: "bc1", formula: "1 - bias_correction * beta1^step" },
        Scalar { name: "bc2", formula: "1 - bias_correction * beta2^step" },
    ],
    update,
    matrix: None,
};

fn update(u: &mut Update<'_, '_>) -> Result<(), OpError> {
    let decoupled = u.hyper("adam_w_mode") != 0.0;
    element(u, decoupled)
}

/// AdamW's update, for optimizers that leave some parameters to it: they have its hyper-parameters, slots and scalars.
pub fn decoupled(u: &mut Update<'_, '_>) -> Result<(), OpError> {
    element(u, true)
}

fn element(u: &mut Update<'_, '_>, decoupled: bool) -> Result<(), OpError> {
    let (w, mut g) = (u.weight(), u.gradient());
    let (b1, b2) = (u.hyper("beta1"), u.hyper("beta2"));
    let decay = u.scale(w, u.hyper("weight_decay"))?;
    if !decoupled {
        g = u.add(g, decay)?;
    }
    let (m, v) = (u.get("exp_avg")?, u.get("exp_avg_sq")?);
    let m = u.blend(m, b1, g, 1.0 - b1)?;
    let g2 = u.mul(g, g)?;
    let v = u.blend(v, b2, g2, 1.0 - b2)?;
    let bc2 = u.get("bc2")?;
    let unbiased = u.div(v, bc2)?;
    let root = u.sqrt(unbiased)?;
    let eps = u.number(u.hyper("eps"))?;
    let root = u.add(root, eps)?;
    let bc1 = u.get("bc1")?;
    let unbiased = u.div(m, bc1)?;
    let mut step = u.div(unbiased, root)?;
    if decoupled {
        step = u.add(decay, step)?;
    }
    let lr = u.get("lr")?;
    let step = u.mul(step, lr)?;
    let new = u.sub(w, step)?;
    u.set_weight(new);
    u.set("exp_avg", m);
    u.set("exp_avg_sq", v);
    Ok(())
}
