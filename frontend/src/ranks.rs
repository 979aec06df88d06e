//! How many ranks there are along each axis of the mesh, by GPT-NeoX's arguments.

use crate::check::Reader;
use crate::config::{Model, Parallel};

impl Reader<'_> {
    /// Degrees of parallelism; what does not divide is a conflict with both sides shown.
    pub(crate) fn parallel(&mut self, model: Option<&Model>) -> Parallel {
        let tensor = self.int("model_parallel_size", 0, 1 << 16).unwrap_or(1).max(1);
        let world = self.int("world_size", 1, 1 << 20).unwrap_or(tensor);
        if !world.is_multiple_of(tensor) {
            let message = format!("{world} ranks are not a multiple of {tensor} tensor ranks");
            self.both(
                message,
                "world_size",
                "model_parallel_size",
                "world_size = data-parallel size × model_parallel_size",
            );
            return Parallel::default();
        }
        if let Some(m) = model {
            for (key, size, what) in [
                ("num_attention_heads", m.num_attention_heads, "attention heads"),
                ("intermediate_size", m.intermediate_size, "columns of the MLP"),
            ] {
                if !size.is_multiple_of(tensor) {
                    let message = format!("{tensor} tensor ranks do not divide {size} {what}");
                    let hint = "choose a divisor";
                    self.both(message, "model_parallel_size", key, hint);
                }
            }
        }
        Parallel { data: world / tensor, tensor }
    }

    /// `train_batch_size` must be what the other numbers make.
    pub(crate) fn batch_arithmetic(&mut self, p: Parallel) {
        let probe = |n: &str| self.given(n);
        let (global, micro, accum) = (
            probe("train_batch_size"),
            probe("train_micro_batch_size_per_gpu"),
            probe("gradient_accumulation_steps"),
        );
        let data = p.data as f64;
        if let (Some(g), Some(m)) = (global, micro)
            && m > 0.0
        {
            let steps = accum.unwrap_or(g / m / data);
            if m * steps * data != g || steps.fract() != 0.0 {
                let ranks = match p.data {
                    1 => "one rank".to_string(),
                    n => format!("{n} data-parallel ranks"),
                };
                let message = format!("{g} sequences are not {m} × {steps} on {ranks}");
                self.both(
                    message,
                    "train_batch_size",
                    "train_micro_batch_size_per_gpu",
                    "train_batch_size = micro-batch × accumulation steps × data-parallel size",
                );
            }
        }
    }
}
