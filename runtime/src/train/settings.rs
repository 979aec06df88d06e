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
    /// AdamW's decay rates.
    pub betas: (f64, f64),
    /// `constant`, `linear`, `cosine`, `exponential`.
    pub lr_decay_style: String,
    /// Iterations of decay.
    pub lr_decay_iters: u64,
    /// Part of them that warms up.
    pub warmup: f64,
    /// Steps between evaluations.
    pub eval_interval: u64,
    /// Batches per evaluation.
    pub eval_iters: u64,
    /// Steps between log lines.
    pub log_interval: u64,
    /// Folder of checkpoints.
    pub save: Option<String>,
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
            return step > 0 && factor >= 1.0 && step.is_multiple_of(factor as u64);
        }
        let mut at = 1.0f64;
        while factor > 1.0 && at <= step as f64 {
            if at as u64 == step {
                return true;
            }
            at *= factor;
        }
        false
    }
}
