//! NXR0405: overflows that no loss scale helps against.

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0405.
pub static KIND: Kind = Kind {
    code: "NXR0405",
    title: "fp16 overflows, and the loss scale cannot fall any further",
    explanation: "\
In fp16 a step whose gradients are not finite is skipped, and the loss scale is halved. With ZeRO 1 to 3
the run ends, as with DeepSpeed, at an overflow whose loss scale is `min_loss_scale` already; with any
stage it ends after 50 skipped steps in a row. Then it is not the scale that makes numbers too large for
fp16, but the model's own values: weights or activations have grown beyond 65504, or are NaN.

Resume from the last checkpoint with a lower learning rate or clipping, or train in bfloat16, which has
the range of f32.",
    example: Example::Session(
        "\
$ neoxc run --plan plan
error[NXR0405]: step 41: a gradient overflows at the least loss scale, 1
  = hint: lower the learning rate, or compile with `--set precision=bfloat16`; weights are unchanged",
    ),
    exit: 4,
};

/// At `step` a gradient was not finite at this loss scale: the least, or the last of `in_a_row` steps that were skipped.
pub fn loss_scale(step: u64, scale: f64, in_a_row: Option<u64>) -> Diagnostic {
    let message = match in_a_row {
        None => format!("step {step}: a gradient overflows at the least loss scale, {scale}"),
        Some(n) => {
            format!("step {step}: {n} steps in a row were skipped, the last at the loss scale {scale}")
        }
    };
    Diagnostic::error(&KIND, message).hint(
        "lower the learning rate, or compile with `--set precision=bfloat16`; weights are unchanged",
    )
}
