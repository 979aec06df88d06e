//! `neox.take_part`: a rank's part of a value that all ranks have.

use super::collective;
use super::prelude::*;

/// The op of this file.
pub struct TakePart;

impl OpDef for TakePart {
    frame! {
        take_part(x) -> (y),
        "Of `x`, which all `ranks` ranks along `axis` have, the rank's own part along `dim`. Nothing is sent.",
        class Collective,
        precision SAME,
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
