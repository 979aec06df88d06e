//! `neox.cross_entropy_grad`: gradient of the logits.

use super::prelude::*;
use super::rows::{index, rows};

/// The op of this file.
pub struct CrossEntropyGrad;

impl OpDef for CrossEntropyGrad {
    fn name(&self) -> &'static str {
        "cross_entropy_grad"
    }
    fn doc(&self) -> &'static str {
        "`(exp(logits - lse) - onehot(label))·dloss`."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[
                ("logits", Arity::One),
                ("labels", Arity::One),
                ("lse", Arity::One),
                ("dloss", Arity::One),
            ],
            results: &[("dlogits", Arity::One)],
            attrs: const { &[required("dim", AttrKind::Str, "the dim of the classes")] },
        }
    }
    fn class(&self) -> Class {
        Class::Special
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let dim = cx.str("dim")?;
        let (logits, labels) = (&cx.operands[0], &cx.operands[1]);
        let row = logits.without(dim);
        let labels_fit = labels.dims == row.dims && labels.dtype == DType::I32;
        if !logits.has(dim) || !labels_fit || cx.operands[2..].iter().any(|t| *t != row) {
            return Err(OpError::new("operands are not those of a cross-entropy"));
        }
        Ok(vec![logits.clone()])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::None("second derivatives are not needed for training"))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let along = cx.attrs.str("dim").unwrap_or_default();
        ShardRule::by_dim(cx, |dim| match dim == along {
            true => ShardEffect::Whole,
            false => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 15.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let [logits, labels, lse, dloss] = cx.operands[..] else {
            return Err(OpError::new("takes four operands"));
        };
        let (bases, at) = rows(&logits.ty, cx.rule.str("dim")?)?;
        let mut out = logits.clone();
        for (row, base) in bases.into_iter().enumerate() {
            let label = index(labels.data[row], at.len(), "label")?;
            for (i, o) in at.iter().enumerate() {
                let p = (logits.data[base + o] - lse.data[row]).exp();
                let hit = if i == label { 1.0 } else { 0.0 };
                out.data[base + o] = (p - hit) * dloss.data[row];
            }
        }
        Ok(vec![out])
    }
    primitive!();
}
