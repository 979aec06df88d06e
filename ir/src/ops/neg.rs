//! `neox.neg`.

use super::prelude::*;

pointwise_op! {
    Neg, "neg", "`-x`.", ["x"], flops 1.0, sums Together,
    eval |x| -x[0],
    grad |cx, dy| {
        let dx = cx.b.unary(OpKind::Neg, dy)?;
        grads(&[dx])
    }
}
