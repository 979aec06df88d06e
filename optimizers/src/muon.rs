//! Muon: momentum, made orthogonal (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>), for the matrices of
//! layers; AdamW for everything else: embeddings, the head, norms and biases.
//!
//! ```text
//! b' = μ·b + (1-μ)·g     u = μ·b' + (1-μ)·g (Nesterov), or b'     w' = w - lr·λ·w - lr·s·orthogonal(u)
//!
//! orthogonal: X = u / max(‖u‖, 1e-7); five times: A = XXᵀ, X = 3.4445·X + (-4.7750·A + 2.0315·AA)·X
//! s = √max(1, rows/columns) (`original`), or 0.2·√max(rows, columns) (`match_rms_adamw`, arXiv:2502.16982)
//! ```
//! Keys and the words of `adjust_lr_fn` are those of `torch.optim.Muon`. A matrix is what a published checkpoint has: the
//! fused projection to queries, keys and values is one. Of experts each has its own. The matmuls are as precise as
//! the model's: bf16 where that trains in bf16, as published.

use neoxc_ir::op::OpError;
use neoxc_ir::{Attr, Attrs, Builder, OpKind, ValueId};

use crate::{
    Form, Hyper, LR, Matrix, Optimizer, Range, Scalar, Settings, Slot, Update, WEIGHT_DECAY, adam,
};

/// Coefficients of the iteration.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// Iterations.
const TIMES: usize = 5;

/// The words of `adjust_lr_fn`.
const SCALES: &[&str] = &["original", "match_rms_adamw"];

/// The optimizer of this file.
pub static MUON: Optimizer = Optimizer {
    names: &["muon"],
    doc: "Muon on the matrices of layers, AdamW on the rest (https://kellerjordan.github.io/posts/muon/)",
    hypers: &[
        Hyper {
            name: "momentum",
            key: "momentum",
            at: None,
            default: 0.95,
            range: Range::HalfOpen(0.0, 1.0),
            doc: "what a step keeps of the momentum of a matrix",
        },
        Hyper {
            name: "nesterov",
            key: "nesterov",
            at: None,
            default: 1.0,
            range: Range::Flag,
            doc: "Nesterov's momentum",
        },
        Hyper {
            name: "adjust_lr_fn",
            key: "adjust_lr_fn",
            at: None,
            default: 0.0,
            range: Range::Words(SCALES),
            doc: "what the learning rate of a matrix is multiplied by: √max(1, rows/columns), or 0.2·√max(rows, columns), with \
                  which matrices and the rest can share AdamW's learning rate",
        },
        adam::BETA1,
        adam::BETA2,
        adam::EPS,
        WEIGHT_DECAY,
    ],
    slots: &[
        Slot { name: "momentum_buffer", only_with: None, of: Some(Form::Matrix) },
        Slot { name: "exp_avg", only_with: None, of: Some(Form::Elements) },
        Slot { name: "exp_avg_sq", only_with: None, of: Some(Form::Elements) },
    ],
    scalars: &[
        LR,
        Scalar { name: "bc1", formula: "1 - beta1^step" },
        Scalar { name: "bc2", formula: "1 - beta2^step" },
    ],
    update: adam::decoupled,
    matrix: Some(Matrix { direction, whole, update }),
};

/// The momentum with the gradient in it.
fn momentum(u: &mut Update<'_, '_>) -> Result<ValueId, OpError> {
    let (g, old, keep) = (u.gradient(), u.get("momentum_buffer")?, u.hyper("momentum"));
    u.blend(old, keep, g, 1.0 - keep)
}

fn direction(u: &mut Update<'_, '_>) -> Result<ValueId, OpError> {
    let (new, g, keep) = (momentum(u)?, u.gradient(), u.hyper("momentum"));
    match u.hyper("nesterov") != 0.0 {
        true => u.blend(new, keep, g, 1.0 - keep),
        false => Ok(new),
    }
}

fn update(u: &mut Update<'_, '_>) -> Result<(), OpError> {
    let (w, direction) = (u.weight(), u.whole()?);
    let decay = u.scale(w, u.hyper("weight_decay"))?;
    let step = u.add(direction, decay)?;
    let lr = u.get("lr")?;
    let step = u.mul(step, lr)?;
    let new = u.sub(w, step)?;
    u.set_weight(new);
    let momentum = momentum(u)?;
    u.set("momentum_buffer", momentum);
    Ok(())
}

/// `orthogonal(x)` times the scale, of matrices with the dims `row` and `column`.
fn whole(b: &mut Builder<'_>, x: ValueId, settings: &Settings) -> Result<ValueId, OpError> {
    let size = |b: &Builder<'_>, dim: &str| b.ty(x).size(dim).unwrap_or(1);
    let (rows, columns) = (size(b, "row"), size(b, "column"));
    let squares = b.mul(x, x)?;
    let sum = b.reduce_sum(squares, &["row", "column"])?;
    let norm = b.unary(OpKind::Sqrt, sum)?;
    let least = b.scalar(1e-7)?;
    let norm = b.one(OpKind::Maximum, &[norm, least], Attrs::new())?;
    let mut x = b.div(x, norm)?;
    // The matmuls are those of the smaller side.
    let (side, other) = if rows <= columns { ("row", "column") } else { ("column", "row") };
    let [of_x, of_a, of_aa] = COEFFICIENTS;
    let renamed = |b: &mut Builder<'_>, x: ValueId, from: &str, to: &str| {
        let attrs = Attrs::new().with("from", Attr::Str(from.into()));
        b.one(OpKind::Rename, &[x], attrs.with("to", Attr::Str(to.into())))
    };
    let scaled = |b: &mut Builder<'_>, x: ValueId, k: f64| {
        let k = b.scalar(k)?;
        b.mul(x, k)
    };
    for _ in 0..TIMES {
        let order: Vec<String> = b.ty(x).dims.iter().map(|d| d.name.to_string()).collect();
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        let again = renamed(b, x, side, "again")?;
        let a = b.matmul(x, again, &[other])?;
        // A is its own transpose: AA is the sum over either dim.
        let third = renamed(b, a, "again", "third")?;
        let aa = b.matmul(a, third, &[side])?;
        let aa = renamed(b, aa, "again", side)?;
        let aa = renamed(b, aa, "third", "again")?;
        let (a, aa) = (scaled(b, a, of_a)?, scaled(b, aa, of_aa)?);
        let polynomial = b.add(a, aa)?;
        let product = b.matmul(polynomial, again, &["again"])?;
        let product = b.transpose_to(product, &order)?;
        let kept = scaled(b, x, of_x)?;
        x = b.add(kept, product)?;
    }
    let (rows, columns) = (rows as f64, columns as f64);
    let scale = match SCALES[settings.get("adjust_lr_fn") as usize] {
        "original" => (rows / columns).max(1.0).sqrt(),
        _ => 0.2 * rows.max(columns).sqrt(),
    };
    scaled(b, x, scale)
}
