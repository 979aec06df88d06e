//! `neox.reduce_scatter`: the sum of a value over the ranks, divided among them.

use super::collective;
use super::prelude::*;

/// The op of this file.
pub struct ReduceScatter;

impl OpDef for ReduceScatter {
    fn name(&self) -> &'static str {
        "reduce_scatter"
    }
    fn doc(&self) -> &'static str {
        "The sum of `x` over the `ranks` ranks that differ only along `axis`, in the order of the ranks, of which each gets its part along `dim`."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[("x", Arity::One)],
            results: &[("y", Arity::One)],
            attrs: collective::ATTRS,
        }
    }
    fn class(&self) -> Class {
        Class::Collective
    }
    fn precision(&self) -> Precision {
        // Summed in f32 over all ranks, and rounded once.
        Precision::WIDE
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        collective::smaller(cx)
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::None("collectives are inserted after differentiation"))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let along = cx.attrs.str("dim").unwrap_or_default();
        ShardRule::by_dim(cx, |dim| match dim == along {
            true => ShardEffect::Whole,
            false => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        collective::alone(cx)
    }
    primitive!();
}
