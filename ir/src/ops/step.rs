//! `neox.step`.

use super::prelude::*;

pointwise_op! {
    Step, "step", "1 where `x > 0`, else 0.", ["x"], flops 1.0, sums No,
    eval |x| if x[0] > 0.0 { 1.0 } else { 0.0 },
    grad |_cx, _dy| Ok(Gradient::None("a step has no useful derivative"))
}
