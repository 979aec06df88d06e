//! `neox.sub`.

use super::prelude::*;

pointwise_op! {
    Sub, "sub", "Element-wise difference `a - b`, broadcasting by dim name.", ["a", "b"], flops 1.0, sums Together,
    eval |x| x[0] - x[1],
    grad |cx, dy| {
        let da = to_operand(cx, 0, dy)?;
        let minus = cx.b.unary(OpKind::Neg, dy)?;
        let db = to_operand(cx, 1, minus)?;
        grads(&[da, db])
    }
}
