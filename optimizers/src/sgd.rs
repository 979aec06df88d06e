//! SGD with momentum, by the formula of `torch.optim.SGD`: weight decay is added to the gradient.
//!
//! ```text
//! d = g + λ·w     b' = μ·b + (1-τ)·d, in the first step d     w' = w - lr·b'     (Nesterov: w - lr·(d + μ·b'))
//! ```

use neoxc_ir::op::OpError;

use crate::{Hyper, LR, Optimizer, Range, Scalar, Slot, Update, WEIGHT_DECAY};

/// The optimizer of this file.
pub static SGD: Optimizer = Optimizer {
    names: &["sgd"],
    doc: "SGD with momentum, dampening and Nesterov's step, as torch.optim.SGD",
    hypers: &[
        Hyper {
            name: "momentum",
            key: "momentum",
            at: None,
            default: 0.0,
            range: Range::HalfOpen(0.0, 1.0),
            doc: "what a step keeps of the momentum; 0 keeps none, and no state",
        },
        Hyper {
            name: "dampening",
            key: "dampening",
            at: None,
            default: 0.0,
            range: Range::Closed(0.0, 1.0),
            doc: "what the momentum does not take of the gradient, from the second step on",
        },
        Hyper {
            name: "nesterov",
            key: "nesterov",
            at: None,
            default: 0.0,
            range: Range::Flag,
            doc: "Nesterov's momentum",
        },
        WEIGHT_DECAY,
    ],
    slots: &[Slot { name: "momentum_buffer", only_with: Some("momentum"), of: None }],
    scalars: &[
        LR,
        // The first step takes the whole gradient.
        Scalar { name: "take", formula: "1 - dampening * min(1, step - 1)" },
    ],
    update,
    matrix: None,
};

fn update(u: &mut Update<'_, '_>) -> Result<(), OpError> {
    let (w, g) = (u.weight(), u.gradient());
    let decay = u.scale(w, u.hyper("weight_decay"))?;
    let d = u.add(g, decay)?;
    let momentum = u.hyper("momentum");
    let mut step = d;
    if momentum != 0.0 {
        let (old, take) = (u.get("momentum_buffer")?, u.get("take")?);
        let (kept, taken) = (u.scale(old, momentum)?, u.mul(d, take)?);
        let buffer = u.add(kept, taken)?;
        u.set("momentum_buffer", buffer);
        step = buffer;
        if u.hyper("nesterov") != 0.0 {
            let ahead = u.scale(buffer, momentum)?;
            step = u.add(d, ahead)?;
        }
    }
    let lr = u.get("lr")?;
    let scaled = u.mul(step, lr)?;
    let new = u.sub(w, scaled)?;
    u.set_weight(new);
    Ok(())
}
