//! `neox.logistic`.

use super::prelude::*;

pointwise_op! {
    Logistic, "logistic", "Logistic function `1/(1 + e⁻ˣ)`; derivative `y·(1 - y)`.", ["x"], flops 16.0, sums No,
    eval |x| 1.0 / (1.0 + (-x[0]).exp()),
    grad |cx, dy| {
        let y = cx.result(0);
        let one = cx.b.scalar(1.0)?;
        let rest = cx.b.sub(one, y)?;
        let slope = cx.b.mul(y, rest)?;
        let dx = cx.b.mul(dy, slope)?;
        grads(&[dx])
    }
}
