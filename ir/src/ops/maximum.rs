//! `neox.maximum`.

use super::prelude::*;

pointwise_op! {
    Maximum, "maximum", "Element-wise larger of `a` and `b`, broadcasting by dim name; NaN if either is; where they are equal the gradient goes to `b`.",
    ["a", "b"], flops 1.0, sums No,
    eval |x| super::pointwise::maximum(x[0], x[1]),
    grad |cx, dy| {
        let (a, b) = (cx.operand(0), cx.operand(1));
        let [left, right] = [a, b];
        let difference = cx.b.sub(left, right)?;
        let to_a = cx.b.unary(OpKind::Step, difference)?;
        let da_full = cx.b.mul(dy, to_a)?;
        let da = to_operand(cx, 0, da_full)?;
        let rest = cx.b.sub(dy, da_full)?;
        let db = to_operand(cx, 1, rest)?;
        grads(&[da, db])
    }
}
