//! A run: batches, steps, the learning rate, data and checkpoints; and what a plan keeps of them.

use serde::{Deserialize, Serialize};

use crate::LossScaling;
use crate::data::{Packing, Source, sources};

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Decay {
    /// Not at all.
    Constant,
    /// Along a line towards 0.
    #[default]
    Linear,
    /// Along half a cosine.
    Cosine,
    /// It halves once.
    Exponential,
    /// Not at all until the last steps, and then to the least rate: warm-up, stable, decay (arXiv 2404.06395).
    Wsd,
    /// With the root of the steps (arXiv 1706.03762).
    InverseSqrt,
}

crate::words!(
    Decay: Constant = "constant",
    Linear = "linear",
    Cosine = "cosine",
    Exponential = "exponential",
    Wsd = "wsd",
    InverseSqrt = "inverse_sqrt",
);

/// How the learning rate falls in the last steps of [`Decay::Wsd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Cooldown {
    /// Along a line.
    #[default]
    Linear,
    /// Along half a cosine.
    Cosine,
    /// As 1 − √x (arXiv 2405.18392).
    OneMinusSqrt,
}

crate::words!(
    Cooldown: Linear = "linear",
    Cosine = "cosine",
    OneMinusSqrt = "1-sqrt",
);

/// The learning rate over the steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LearningRate {
    /// Peak.
    pub lr: f64,
    /// The least after the warm-up.
    pub min_lr: f64,
    /// How it falls.
    #[serde(rename = "lr_decay_style")]
    pub style: Decay,
    /// Steps over which it falls.
    #[serde(rename = "lr_decay_iters")]
    pub iters: u64,
    /// The fraction of them in which it rises.
    pub warmup: f64,
    /// The fraction of them, at their end, in which it falls with [`Decay::Wsd`].
    #[serde(default = "tenth", rename = "wsd_decay_ratio")]
    pub cooldown: f64,
    /// How it falls there.
    #[serde(default, rename = "wsd_decay_style")]
    pub cooldown_style: Cooldown,
}

/// The cooldown of schedules that were written before there was one.
fn tenth() -> f64 {
    0.1
}

/// Batches, steps, data and checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Sequences per micro-batch; in a plan those of all its groups together.
    pub micro_batch: usize,
    /// Micro-batches per step of a data-parallel rank; in a plan those of all such ranks together.
    pub grad_accum: usize,
    /// Steps.
    pub train_iters: u64,
    /// Seed of start values and sample order.
    pub seed: u32,
    /// Steps between evaluations.
    pub eval_interval: u64,
    /// Batches per evaluation.
    pub eval_iters: u64,
    /// Steps between log lines.
    pub log_interval: u64,
    /// Folder of checkpoints.
    pub save: Option<String>,
    /// Folder of checkpoints that a run goes on from.
    pub load: Option<String>,
    /// Which of them, if not the newest.
    #[serde(default)]
    pub iteration: Option<u64>,
    /// Whether the run takes their weights only, and begins at step 0.
    #[serde(default)]
    pub finetune: bool,
    /// Whether the run takes their weights and steps, and the optimizer begins anew.
    #[serde(default)]
    pub no_load_optim: bool,
    /// The run ends after a step that is a multiple of this.
    #[serde(default)]
    pub exit_interval: Option<u64>,
    /// Steps between checkpoints (or their growth factor, when `checkpoint_log`).
    pub checkpoint_factor: Option<f64>,
    /// Checkpoints at growing distances.
    pub checkpoint_log: bool,
    /// Further steps to save at.
    pub extra_save_iters: Vec<u64>,
    /// Checkpoints to keep.
    pub keep_last: Option<usize>,
    /// One data set, divided by `split`.
    pub data_path: Option<String>,
    /// Sources of training data, where they are not parts of `data_path`.
    #[serde(default, deserialize_with = "sources")]
    pub train_data: Vec<Source>,
    /// Sources of validation data.
    #[serde(default, deserialize_with = "sources")]
    pub valid_data: Vec<Source>,
    /// The exponent of sources' shares of all documents in `weight_by_num_documents`, if they say the weights.
    #[serde(default)]
    pub document_exponent: Option<f64>,
    /// How documents fill sequences.
    #[serde(default)]
    pub packing: Packing,
    /// Whether a document that is longer than a sequence is cut, rather than left out, where it is not [`Packing::Packed`].
    #[serde(default = "yes")]
    pub allow_chopped: bool,
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
    /// How the loss is scaled, in fp16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scaling: Option<LossScaling>,
}

/// The least factor by which the steps between checkpoints may grow: with it there is one at every step up to 1,000.
pub const LEAST_FACTOR: f64 = 1.001;

/// Samples that the order of a data set can number: ids have 32 bits, and the highest is left free.
pub const MOST_SAMPLES: u64 = u32::MAX as u64 - 1;

/// The parts of a data set that `split` asks for, for training, validation and test in any unit; none if the text is
/// no such list.
pub fn shares(split: &str) -> Option<[f64; 3]> {
    let separator = if split.contains(',') { ',' } else { '/' };
    let mut parts: Vec<f64> =
        split.split(separator).map(|p| p.trim().parse().ok()).collect::<Option<_>>()?;
    // GPT-NeoX looks at the first three.
    parts.resize(3, 0.0);
    let sum: f64 = parts.iter().sum();
    let fits = sum > 0.0 && sum.is_finite() && parts.iter().all(|p| *p >= 0.0);
    fits.then_some([parts[0], parts[1], parts[2]])
}

/// What a plan's ranks run with: the `run` section of a plan, which the compiler writes and the runtime reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Tokens per sequence.
    pub seq_length: usize,
    /// Rows of the embedding, padding included.
    pub padded_vocab_size: usize,
    /// Ids of the tokenizer; data must stay below it (below the padded size when unknown).
    pub vocab_size: Option<usize>,
    /// Groups of a micro-batch, each of which one rank has.
    #[serde(default = "one")]
    pub groups: usize,
    /// The learning rate.
    #[serde(flatten)]
    pub rate: LearningRate,
    /// The rest.
    #[serde(flatten)]
    pub run: Run,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl Settings {
    /// Sequences per optimizer step.
    pub fn global_batch(&self) -> u64 {
        (self.run.micro_batch * self.run.grad_accum) as u64
    }

    /// Whether `exit_interval` ends the run after `step` steps.
    pub fn exits_at(&self, step: u64) -> bool {
        self.run.exit_interval.is_some_and(|n| step.is_multiple_of(n))
    }

    /// Whether a checkpoint is due after `step` steps.
    pub fn saves_at(&self, step: u64) -> bool {
        if self.run.extra_save_iters.contains(&step) || step == self.run.train_iters {
            return true;
        }
        let Some(factor) = self.run.checkpoint_factor else { return false };
        if !self.run.checkpoint_log {
            return step > 0 && (step as f64) % factor == 0.0;
        }
        // The whole parts of the factor's powers. No configuration has a factor that hardly grows, with which this
        // would hardly end.
        let mut at = 1.0f64;
        while factor > 1.0 && (at as u64) < step {
            at *= factor.max(LEAST_FACTOR);
        }
        at as u64 == step
    }
}
