//! `neox.wait`: a value that a collective makes, once it is there.

use super::prelude::*;

/// The op of this file.
pub struct Wait;

impl OpDef for Wait {
    frame! {
        wait(x) -> (y),
        "The value of `x`, once it is there: `x` is the result of a collective of the same function, which goes on beside the ops between the two. These may not use `x`.",
        class View,
        precision SAME,
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        Ok(vec![cx.operands[0].clone()])
    }
    no_gradient!("collectives are inserted after differentiation");
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
