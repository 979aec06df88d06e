//! Lion: the sign of a blend of momentum and gradient (Chen et al. 2023, arXiv:2302.06675, algorithm 2), with decoupled
//! weight decay. `sign(0)` is 0, as there; DeepSpeed's fused kernel makes it -1.
//!
//! ```text
//! u = sign(β₁m + (1-β₁)g)     w' = w - lr·(u + λ·w)     m' = β₂m + (1-β₂)g
//! ```

use neoxc_ir::op::OpError;

use crate::{Hyper, LR, Optimizer, Range, Slot, Update, WEIGHT_DECAY};

/// The optimizer of this file.
pub static LION: Optimizer = Optimizer {
    names: &["lion"],
    doc: "Lion (arXiv:2302.06675)",
    hypers: &[
        Hyper {
            name: "beta1",
            key: "betas",
            at: Some(0),
            default: 0.9,
            range: Range::HalfOpen(0.0, 1.0),
            doc: "what the step's direction has of the momentum",
        },
        Hyper {
            name: "beta2",
            key: "betas",
            at: Some(1),
            default: 0.99,
            range: Range::HalfOpen(0.0, 1.0),
            doc: "what a step keeps of the momentum",
        },
        WEIGHT_DECAY,
    ],
    slots: &[Slot { name: "exp_avg", only_with: None, of: None }],
    scalars: &[LR],
    update,
    matrix: None,
};

fn update(u: &mut Update<'_, '_>) -> Result<(), OpError> {
    let (w, g, m) = (u.weight(), u.gradient(), u.get("exp_avg")?);
    let (b1, b2) = (u.hyper("beta1"), u.hyper("beta2"));
    let blend = u.blend(m, b1, g, 1.0 - b1)?;
    let sign = u.sign(blend)?;
    let decay = u.scale(w, u.hyper("weight_decay"))?;
    let total = u.add(sign, decay)?;
    let lr = u.get("lr")?;
    let step = u.mul(total, lr)?;
    let new = u.sub(w, step)?;
    u.set_weight(new);
    let m = u.blend(m, b2, g, 1.0 - b2)?;
    u.set("exp_avg", m);
    Ok(())
}
