//! `neox.reduce_max`.

use super::prelude::*;
use crate::eval::{advance, offset};

/// The op of this file.
pub struct ReduceMax;

impl OpDef for ReduceMax {
    frame! {
        reduce_max(x) -> (max),
        "Maximum over the dims named by `dims`, which the result lacks; NaN if any element is.",
        class Reduction,
        precision WIDE,
        attrs &[required("dims", AttrKind::Strs, "dims that are reduced")],
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
    no_gradient!(
        "a maximum over dims only steadies exponentials, whose value does not depend on it"
    );
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::by_dim(cx, |dim| match cx.results[0].has(dim) {
            true => ShardEffect::Parallel,
            false => ShardEffect::Whole,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.operands[0];
        let mut out = Tensor::fill(cx.rule.results[0].clone(), f64::NEG_INFINITY);
        let kept: Vec<usize> =
            (0..x.ty.dims.len()).filter(|i| out.ty.has(&x.ty.dims[*i].name)).collect();
        let mut index = vec![0; x.ty.dims.len()];
        for v in &x.data {
            let at: Vec<usize> = kept.iter().map(|i| index[*i]).collect();
            let at = offset(&out.ty, &at);
            out.data[at] = super::pointwise::maximum(out.data[at], *v);
            advance(&mut index, &x.ty);
        }
        Ok(vec![out])
    }
    primitive!();
}
