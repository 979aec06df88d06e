//! `neox.sqrt`.

use super::prelude::*;

pointwise_op! {
    Sqrt, "sqrt", "Square root of `x`.", ["x"], flops 4.0, sums No,
    eval |x| x[0].sqrt(),
    grad |cx, dy| {
        let y = cx.result(0);
        let two = cx.b.scalar(2.0)?;
        let twice = cx.b.mul(y, two)?;
        let dx = cx.b.div(dy, twice)?;
        grads(&[dx])
    }
}
