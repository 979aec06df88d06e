//! `neox.add`.

use super::prelude::*;

pointwise_op! {
    Add, "add", "Element-wise sum `a + b`, broadcasting by dim name.", ["a", "b"], flops 1.0, sums Together,
    eval |x| x[0] + x[1],
    grad |cx, dy| {
        let (da, db) = (to_operand(cx, 0, dy)?, to_operand(cx, 1, dy)?);
        grads(&[da, db])
    }
}
