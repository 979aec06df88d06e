//! What the runtime reads of a configuration: the `run` section of a plan.

use serde::{Deserialize, Serialize};

/// Settings of a run; the compiler fills them from the checked configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Tokens per sequence.
    pub seq_length: usize,
    /// Rows of the embedding, padding included.
    pub padded_vocab_size: usize,
    /// Ids of the tokenizer; data must stay below it (below the padded size when unknown).
    pub vocab_size: Option<usize>,
    /// Sequences per micro-batch, of all groups together.
    pub micro_batch: usize,
    /// Groups of a micro-batch, each of which one rank has.
    #[serde(default = "one")]
    pub groups: usize,
    /// Micro-batches per step.
    pub grad_accum: usize,
    /// Steps.
    pub train_iters: u64,
    /// Seed of start values and sample order.
    pub seed: u32,
    /// Peak learning rate.
    pub lr: f64,
    /// Final learning rate.
    pub min_lr: f64,
    /// `constant`, `linear`, `cosine`, `exponential`.
    pub lr_decay_style: String,
    /// Iterations of decay.
    pub lr_decay_iters: u64,
    /// Part of them that warms up.
    pub warmup: f64,
    /// Steps between evaluations.
    pub eval_interval: u64,
    /// Batches per evaluation, each of as many sequences as a step.
    pub eval_iters: u64,
    /// Steps between log lines.
    pub log_interval: u64,
    /// Folder of checkpoints.
    pub save: Option<String>,
    /// Folder of checkpoints to go on from.
    #[serde(default)]
    pub load: Option<String>,
    /// Which of them, if not the newest.
    #[serde(default)]
    pub iteration: Option<u64>,
    /// Whether only their weights are taken, for a run that begins at step 0.
    #[serde(default)]
    pub finetune: bool,
    /// Steps between checkpoints, or growth factor.
    pub checkpoint_factor: Option<f64>,
    /// Whether checkpoints lie at growing distances.
    pub checkpoint_log: bool,
    /// Further steps to save at.
    pub extra_save_iters: Vec<u64>,
    /// Checkpoints to keep.
    pub keep_last: Option<usize>,
    /// One data set, divided by `split`.
    pub data_path: Option<String>,
    /// Training data.
    pub train_data: Option<String>,
    /// Validation data.
    pub valid_data: Option<String>,
    /// Parts of `data_path`.
    pub split: String,
    /// Kind of tokenizer.
    pub tokenizer_type: String,
    /// Its file.
    pub vocab_file: Option<String>,
    /// Its merges.
    pub merge_file: Option<String>,
    /// No loss on end-of-document tokens.
    pub eod_mask_loss: bool,
}

fn one() -> usize {
    1
}

impl Settings {
    /// Reads a plan's `run` section.
    pub fn of(plan: &neoxc_plan::Plan) -> Result<Settings, crate::RuntimeError> {
        serde_json::from_value(plan.tables.run.clone())
            .map_err(|e| crate::RuntimeError::Settings(format!("the plan's run settings: {e}")))
    }

    /// Sequences per optimizer step.
    pub fn global_batch(&self) -> u64 {
        (self.micro_batch * self.grad_accum) as u64
    }

    /// Whether a checkpoint is due after `step` steps.
    pub fn saves_at(&self, step: u64) -> bool {
        if self.extra_save_iters.contains(&step) || step == self.train_iters {
            return true;
        }
        let Some(factor) = self.checkpoint_factor else { return false };
        if !self.checkpoint_log {
            return step > 0 && (step as f64) % factor == 0.0;
        }
        // The whole parts of the factor's powers.
        let mut at = 1.0f64;
        while factor > 1.0 && (at as u64) < step {
            at *= factor;
        }
        at as u64 == step
    }
}

/// Settings for tests of what reads them.
#[cfg(test)]
pub(crate) mod testing {
    use super::Settings;

    /// A run of 100 steps at a constant rate.
    pub(crate) fn settings() -> Settings {
        let json = serde_json::json!({
            "seq_length": 1, "padded_vocab_size": 1, "vocab_size": 1, "micro_batch": 1,
            "grad_accum": 1, "train_iters": 100, "seed": 1, "lr": 1.0, "min_lr": 0.0,
            "lr_decay_style": "constant", "lr_decay_iters": 100,
            "warmup": 0.0, "eval_interval": 1, "eval_iters": 1, "log_interval": 1,
            "save": null, "checkpoint_factor": null, "checkpoint_log": false,
            "extra_save_iters": [], "keep_last": null, "data_path": null,
            "train_data": null, "valid_data": null, "split": "", "tokenizer_type": "",
            "vocab_file": null, "merge_file": null, "eod_mask_loss": false,
        });
        serde_json::from_value(json).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first two lists are GPT-NeoX's own examples for factors 20 and 2 of 100 steps.
    #[test]
    fn checkpoints_are_due_where_gpt_neox_saves() {
        let due = |log: bool, factor: Option<f64>, extra: &[u64]| {
            let s = Settings {
                checkpoint_log: log,
                checkpoint_factor: factor,
                extra_save_iters: extra.to_vec(),
                ..testing::settings()
            };
            (0..=100).filter(|step| s.saves_at(*step)).collect::<Vec<u64>>()
        };
        assert_eq!(due(false, Some(20.0), &[]), [20, 40, 60, 80, 100]);
        assert_eq!(due(true, Some(2.0), &[]), [1, 2, 4, 8, 16, 32, 64, 100]);
        assert_eq!(due(false, Some(12.5), &[]), [25, 50, 75, 100]);
        assert_eq!(due(true, Some(1.5), &[])[..9], [1, 2, 3, 5, 7, 11, 17, 25, 38]);
        assert_eq!(due(true, Some(2.5), &[])[..5], [1, 2, 6, 15, 39]);
        assert_eq!(due(true, Some(1.0), &[]), [1, 100]);
        assert_eq!(due(false, None, &[]), [100]);
        assert_eq!(due(false, Some(1000.0), &[0, 1, 7]), [0, 1, 7, 100]);
    }
}
