//! `neox.mul`.

use super::prelude::*;

pointwise_op! {
    Mul, "mul", "Element-wise product `a * b`, broadcasting by dim name.", ["a", "b"], flops 1.0, sums Each,
    eval |x| x[0] * x[1],
    grad |cx, dy| {
        let (a, b) = (cx.operand(0), cx.operand(1));
        let da = cx.b.mul(dy, b)?;
        let da = to_operand(cx, 0, da)?;
        let db = cx.b.mul(dy, a)?;
        let db = to_operand(cx, 1, db)?;
        grads(&[da, db])
    }
}
