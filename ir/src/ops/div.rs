//! `neox.div`.

use super::prelude::*;

pointwise_op! {
    Div, "div", "Element-wise quotient `a / b`, broadcasting by dim name.", ["a", "b"], flops 4.0, sums No,
    eval |x| x[0] / x[1],
    grad |cx, dy| {
        let (b, y) = (cx.operand(1), cx.result(0));
        let da_full = cx.b.div(dy, b)?;
        let da = to_operand(cx, 0, da_full)?;
        // d(a/b)/db = -(a/b)/b
        let scaled = cx.b.mul(da_full, y)?;
        let minus = cx.b.unary(OpKind::Neg, scaled)?;
        let db = to_operand(cx, 1, minus)?;
        grads(&[da, db])
    }
}
