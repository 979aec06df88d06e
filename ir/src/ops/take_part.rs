//! `neox.take_part`: a rank's part of a value that all ranks have.

use super::collective;
use super::prelude::*;

/// The op of this file.
pub struct TakePart;

impl OpDef for TakePart {
    fn name(&self) -> &'static str {
        "take_part"
    }
    fn doc(&self) -> &'static str {
        "Of `x`, which all `ranks` ranks along `axis` have, the rank's own part along `dim`. Nothing is sent."
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
