//! `neox.cross_entropy_grad`: gradient of the logits.

use super::part::{self, own};
use super::prelude::*;
use super::rows::rows;

/// The op of this file.
pub struct CrossEntropyGrad;

impl OpDef for CrossEntropyGrad {
    frame! {
        cross_entropy_grad(logits, labels, lse, dloss, part: Optional) -> (dlogits),
        "`(exp(logits - lse) - onehot(label))·dloss`; of logits that are part `part` of the rows, that part.",
        class Special,
        precision (Exact) -> (Free),
        attrs &[required("dim", AttrKind::Str, "the dim of the classes")],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        part::check(cx, 4)?;
        let row = super::cross_entropy::row_type(cx)?;
        if cx.operands[2..4].iter().any(|t| *t != row) {
            return Err(OpError::new(format!("lse and dloss must be {row}")));
        }
        Ok(vec![cx.operands[0].clone()])
    }
    no_gradient!("second derivatives are not needed for training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let along = cx.attrs.str("dim").unwrap_or_default();
        ShardRule::by_dim(cx, |dim| match dim == along {
            true => ShardEffect::Own,
            false => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 15.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let [logits, labels, lse, dloss, ref part @ ..] = cx.operands[..] else {
            return Err(OpError::new("takes four operands"));
        };
        let (bases, at) = rows(&logits.ty, cx.rule.str("dim")?)?;
        let mut out = logits.clone();
        for (row, base) in bases.into_iter().enumerate() {
            let label = own(labels.data[row], at.len(), part.first().copied(), "label")?;
            for (i, o) in at.iter().enumerate() {
                let p = (logits.data[base + o] - lse.data[row]).exp();
                let hit = if Some(i) == label { 1.0 } else { 0.0 };
                out.data[base + o] = (p - hit) * dloss.data[row];
            }
        }
        Ok(vec![out])
    }
    primitive!();
}
