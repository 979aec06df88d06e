//! `neox.cross_entropy`: loss of each row of logits.

use super::prelude::*;
use super::rows::{index, rows};

/// The op of this file.
pub struct CrossEntropy;

impl OpDef for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn doc(&self) -> &'static str {
        "`lse - logits[label]` for each row along `dim`, and the log-sum-exp `lse` itself."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[("logits", Arity::One), ("labels", Arity::One)],
            results: &[("loss", Arity::One), ("lse", Arity::One)],
            attrs: const { &[required("dim", AttrKind::Str, "the dim of the classes")] },
        }
    }
    fn class(&self) -> Class {
        Class::Special
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (logits, labels) = (&cx.operands[0], &cx.operands[1]);
        let dim = cx.str("dim")?;
        let row = logits.without(dim);
        if !logits.has(dim) || labels.dims != row.dims || labels.dtype != DType::I32 {
            return Err(OpError::new(format!("labels {labels} do not fit {logits}")));
        }
        Ok(vec![row.clone(), row])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        if cx.cotangents[1].is_some() {
            return Ok(Gradient::None("the log-sum-exp is only for the backward pass"));
        }
        let dy = cx.dy()?;
        let operands = [cx.operand(0), cx.operand(1), cx.result(1), dy];
        let d = cx.b.one("cross_entropy_grad", &operands, cx.op.attrs.clone())?;
        Ok(Gradient::Operands(vec![Some(d), None]))
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
        let (logits, labels) = (cx.operands[0], cx.operands[1]);
        let (bases, at) = rows(&logits.ty, cx.rule.str("dim")?)?;
        let (mut losses, mut lses) = (vec![], vec![]);
        for (row, base) in bases.into_iter().enumerate() {
            let x = |i: usize| logits.data[base + at[i]];
            let max = (0..at.len()).map(x).fold(f64::NEG_INFINITY, f64::max);
            let lse = max + (0..at.len()).map(|i| (x(i) - max).exp()).sum::<f64>().ln();
            let label = index(labels.data[row], at.len(), "label")?;
            losses.push(lse - x(label));
            lses.push(lse);
        }
        let ty = &cx.rule.results[0];
        Ok(vec![Tensor::new(ty.clone(), losses), Tensor::new(ty.clone(), lses)])
    }
    primitive!();
}
