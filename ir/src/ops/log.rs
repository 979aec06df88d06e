//! `neox.log`.

use super::prelude::*;

pointwise_op! {
    Log, "log", "Natural logarithm of `x`.", ["x"], flops 14.0, sums No,
    eval |x| x[0].ln(),
    grad |cx, dy| {
        let x = cx.operand(0);
        let dx = cx.b.div(dy, x)?;
        grads(&[dx])
    }
}
