//! `neox.exp`.

use super::prelude::*;

pointwise_op! {
    Exp, "exp", "`e^x`.", ["x"], flops 12.0, sums No,
    eval |x| x[0].exp(),
    grad |cx, dy| {
        let y = cx.result(0);
        let dx = cx.b.mul(dy, y)?;
        grads(&[dx])
    }
}
