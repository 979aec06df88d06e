//! `neox.all_gather`: every rank's part of a value, put together.

use super::collective;
use super::prelude::*;

/// The op of this file.
pub struct AllGather;

impl OpDef for AllGather {
    frame! {
        all_gather(x) -> (y),
        "The parts of `x` of the `ranks` ranks that differ only along `axis`, put together along `dim` in the order of the ranks; each of them gets all.",
        class Collective,
        precision SAME,
        attrs collective::ATTRS,
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        collective::larger(cx)
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
