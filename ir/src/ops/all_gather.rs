//! `neox.all_gather`: every rank's part of a value, put together.

use super::collective;
use super::prelude::*;

/// The op of this file.
pub struct AllGather;

impl OpDef for AllGather {
    fn name(&self) -> &'static str {
        "all_gather"
    }
    fn doc(&self) -> &'static str {
        "The parts of `x` of the `ranks` ranks that differ only along `axis`, put together along `dim` in the order of the ranks; each of them gets all."
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
        Precision::SAME
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        collective::larger(cx)
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
