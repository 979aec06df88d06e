//! NXR0403: a number is not finite.

use crate::diag::{Diagnostic, Example, Kind};

/// NXR0403.
pub static KIND: Kind = Kind {
    code: "NXR0403",
    title: "a number is not finite",
    explanation: "\
A loss or a gradient norm came out infinite or NaN. The step changed no weights. The message names the
first weight, in the order of the model, that holds such a value; if there is none, the step was made
again and the message names the first kernel whose result is not finite, with its lines in the plan and
in the configuration, layer, micro-batch and weights; if all gradients are finite too, the largest of
them, of which the sum of squares was too large.

Weights and optimizer state are looked at when they are saved, too: a checkpoint that holds such a value is
not written, and those before it stay.

Resume from the last checkpoint with a lower learning rate, clipping, or other data.",
    example: Example::Session(
        "\
$ neoxc run --plan plan
error[NXR0403]: step 2: loss is NaN; first tensor that is not finite: result 1 of `matmul_14`
  = hint: lower the learning rate; nothing was saved",
    ),
    exit: 4,
};

/// At `step`, `what` (`loss` or `gradient norm`) has `value`; `tensor` is where that was first seen.
pub fn not_finite(step: u64, what: &str, value: f32, tensor: &str) -> Diagnostic {
    let message =
        format!("step {step}: {what} is {value}; first tensor that is not finite: {tensor}");
    Diagnostic::error(&KIND, message).hint("lower the learning rate; nothing was saved")
}

/// After `step` steps the weight or state `tensor` holds `value`, so that no checkpoint was written.
pub fn spoiled(step: u64, value: f32, tensor: &str) -> Diagnostic {
    let message = format!("after step {step}: {tensor} holds {value}; no checkpoint was written");
    Diagnostic::error(&KIND, message)
        .hint("resume from the checkpoint before with a lower learning rate; it was kept")
}
