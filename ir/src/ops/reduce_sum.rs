//! `neox.reduce_sum`: sum over named dims.

use super::prelude::*;
use crate::eval::{advance, offset};

/// `neox.reduce_sum`.
pub struct ReduceSum;

impl OpDef for ReduceSum {
    frame! {
        reduce_sum(x) -> (sum),
        "Sum over the dims named by `dims`, which the result lacks.",
        class Reduction,
        precision WIDE,
        attrs &[required("dims", AttrKind::Strs, "dims that are summed")],
    }

    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let mut ty = cx.operands[0].clone();
        for dim in cx.strs("dims")? {
            if !ty.has(dim) {
                return Err(OpError::new(format!("{} has no dim `{dim}`", cx.operands[0])));
            }
            ty = ty.without(dim);
        }
        Ok(vec![ty])
    }

    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let ty = cx.b.ty(cx.operand(0)).clone();
        let zero = cx.b.fill(0.0, &ty)?;
        Ok(Gradient::Operands(vec![Some(cx.b.add(zero, dy)?)]))
    }

    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::by_dim(cx, |dim| match cx.results[0].has(dim) {
            true => ShardEffect::Parallel,
            false => ShardEffect::Partial,
        })
        .sums(Sums::Together)
    }

    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, cx.operands[0].elements() as f64)
    }

    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.operands[0];
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        let kept: Vec<usize> =
            (0..x.ty.dims.len()).filter(|i| out.ty.has(&x.ty.dims[*i].name)).collect();
        let mut index = vec![0; x.ty.dims.len()];
        for v in &x.data {
            let at: Vec<usize> = kept.iter().map(|i| index[*i]).collect();
            let at = offset(&out.ty, &at);
            out.data[at] += v;
            advance(&mut index, &x.ty);
        }
        Ok(vec![out])
    }

    fn decompose(
        &self,
        _b: &mut Builder<'_>,
        _operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        Ok(Decomposition::Primitive)
    }
}
