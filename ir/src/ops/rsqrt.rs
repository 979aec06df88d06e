//! `neox.rsqrt`.

use super::prelude::*;

pointwise_op! {
    Rsqrt, "rsqrt", "`1/√x`; derivative `-y³/2`.", ["x"], flops 8.0, sums No,
    eval |x| 1.0 / x[0].sqrt(),
    grad |cx, dy| {
        let y = cx.result(0);
        let square = cx.b.mul(y, y)?;
        let cube = cx.b.mul(square, y)?;
        let half = cx.b.scalar(-0.5)?;
        let slope = cx.b.mul(cube, half)?;
        let dx = cx.b.mul(dy, slope)?;
        grads(&[dx])
    }
}
