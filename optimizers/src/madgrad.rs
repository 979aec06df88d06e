//! MADGRAD: dual averaging from the start weights, divided by the cube root of the sum of squares (Defazio & Jelassi 2021,
//! arXiv:2101.11075), with the decoupled decay of GPT-NeoX's `madgrad_wd`.
//!
//! ```text
//! r = lr + ε     λ = r·√t     s' = s + λ·g     q' = q + λ·g²
//! z = w₀ - s'/(∛q' + ε)     w' = μ·(1 - r·wd)·w + (1-μ)·z
//! ```
//! `w₀` are the weights before the first step: the first step puts them into a slot.

use neoxc_ir::op::OpError;

use crate::{Hyper, LR, Optimizer, Range, Scalar, Slot, Update, WEIGHT_DECAY};

/// The optimizer of this file.
pub static MADGRAD: Optimizer = Optimizer {
    names: &["madgrad_wd", "madgrad"],
    doc: "MADGRAD (arXiv:2101.11075) with decoupled decay, as GPT-NeoX's madgrad_wd",
    hypers: &[
        Hyper {
            name: "momentum",
            key: "momentum",
            at: None,
            default: 0.9,
            range: Range::HalfOpen(0.0, 1.0),
            doc: "what a step keeps of the weights",
        },
        Hyper {
            name: "eps",
            key: "eps",
            at: None,
            default: 1e-6,
            range: Range::Closed(0.0, 1e9),
            doc: "added to the learning rate, and to the cube root of the sum of squares",
        },
        WEIGHT_DECAY,
    ],
    slots: &[
        Slot { name: "grad_sum", only_with: None, of: None },
        Slot { name: "grad_sum_sq", only_with: None, of: None },
        Slot { name: "first_weights", only_with: None, of: None },
    ],
    scalars: &[
        LR,
        Scalar { name: "root", formula: "step^0.5" },
        // 1 in the first step, then 0.
        Scalar { name: "first", formula: "max(0, 2 - step)" },
    ],
    update,
    matrix: None,
};

fn update(u: &mut Update<'_, '_>) -> Result<(), OpError> {
    let (w, g, eps) = (u.weight(), u.gradient(), u.hyper("eps"));
    let (old, first) = (u.get("first_weights")?, u.get("first")?);
    let away = u.sub(w, old)?;
    let away = u.mul(away, first)?;
    let start = u.add(old, away)?;
    let (lr, least) = (u.get("lr")?, u.number(eps)?);
    let rate = u.add(lr, least)?;
    let root = u.get("root")?;
    let take = u.mul(rate, root)?;
    let taken = u.mul(take, g)?;
    let (sum, squares) = (u.get("grad_sum")?, u.get("grad_sum_sq")?);
    let sum = u.add(sum, taken)?;
    let square = u.mul(taken, g)?;
    let squares = u.add(squares, square)?;
    let divisor = u.cube_root(squares)?;
    let divisor = u.add(divisor, least)?;
    let step = u.div(sum, divisor)?;
    let z = u.sub(start, step)?;
    let decay = u.scale(rate, u.hyper("weight_decay"))?;
    let decay = u.mul(decay, w)?;
    let kept = u.sub(w, decay)?;
    let momentum = u.hyper("momentum");
    let new = u.blend(kept, momentum, z, 1.0 - momentum)?;
    u.set_weight(new);
    u.set("grad_sum", sum);
    u.set("grad_sum_sq", squares);
    u.set("first_weights", start);
    Ok(())
}
