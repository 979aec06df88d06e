//! `neox.wait`: a value that a collective makes, once it is there.

use super::prelude::*;

/// The op of this file.
pub struct Wait;

impl OpDef for Wait {
    fn name(&self) -> &'static str {
        "wait"
    }
    fn doc(&self) -> &'static str {
        "The value of `x`, once it is there: `x` is the result of a collective of the same function, which goes on beside the ops between the two. These may not use `x`."
    }
    fn signature(&self) -> Signature {
        Signature { operands: &[("x", Arity::One)], results: &[("y", Arity::One)], attrs: &[] }
    }
    fn class(&self) -> Class {
        Class::View
    }
    fn precision(&self) -> Precision {
        Precision::SAME
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        Ok(vec![cx.operands[0].clone()])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::None("collectives are inserted after differentiation"))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx)
    }
    fn cost(&self, _cx: &RuleCx<'_>) -> Cost {
        Cost::free()
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![cx.operands[0].clone()])
    }
    primitive!();
}
