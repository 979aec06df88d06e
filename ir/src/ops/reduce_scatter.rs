//! `neox.reduce_scatter`: the sum of a value over the ranks, divided among them.

use super::collective;
use super::prelude::*;

/// The op of this file.
pub struct ReduceScatter;

impl OpDef for ReduceScatter {
    frame! {
        reduce_scatter(x) -> (y),
        "The sum of `x` over the `ranks` ranks that differ only along `axis`, in the order of the ranks, of which each gets its part along `dim`.",
        class Collective,
        // Summed in f32 over all ranks, and rounded once.
        precision WIDE,
        attrs collective::ATTRS,
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        collective::smaller(cx)
    }
    no_gradient!("collectives are inserted after differentiation");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::whole_along(cx, "dim")
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        collective::alone(cx)
    }
    primitive!();
}
