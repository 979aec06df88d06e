//! `neox.tanh`.

use super::prelude::*;

pointwise_op! {
    Tanh, "tanh", "Hyperbolic tangent of `x`; derivative `1 - y²`.", ["x"], flops 20.0, sums No,
    eval |x| x[0].tanh(),
    grad |cx, dy| {
        let y = cx.result(0);
        let square = cx.b.mul(y, y)?;
        let part = cx.b.mul(dy, square)?;
        let dx = cx.b.sub(dy, part)?;
        grads(&[dx])
    }
}
