//! Whether a written folder computes what its checkpoint does: logits of both, the folder's read back as anybody's.

use std::path::Path;

use neoxc_frontend::Config;
use neoxc_frontend::config::{Parallel, Precision as Dtype};
use neoxc_plan::Values;
use neoxc_runtime::checkpoint::Reader;
use neoxc_runtime::ranks::Ranks;
use serde_json::{Map, Value, json};

use super::from_hf::Imported;
use super::to_hf::{dtype, rounded};
use super::{compile, refused};
use crate::Failure;
use crate::cli::Precision;
use crate::commands::threads;

/// Sequences that are tried.
const SEQUENCES: usize = 2;

/// Their length at most, tokens.
const LENGTH: usize = 32;

/// Difference of logits that is allowed, relative to the largest of them. Both are computed in f32 from the same
/// weights, those of the checkpoint rounded to the folder's dtype.
const TOLERANCE: f32 = 1e-5;

/// What was compared, and how far it is apart.
pub struct Proof {
    positions: usize,
    tokens: usize,
    largest: f32,
    apart: f32,
    /// The same for the checkpoint's own weights: what the folder's dtype costs.
    rounding: f32,
    precision: Precision,
    step: u64,
}

/// A configuration's model in f32 on one rank, for sequences of `seq` tokens.
fn small(config: &Config, seq: usize) -> Config {
    let mut c = config.clone();
    c.parallel = Parallel::default();
    c.model.precision = Dtype::F32;
    c.model.seq_length = seq;
    c.model.checkpoint = None;
    (c.model.hidden_dropout, c.model.attention_dropout) = (0.0, 0.0);
    (c.run.micro_batch, c.run.grad_accum) = (1, 1);
    c
}

/// The ids of a sequence: all different, and spread over the vocabulary.
fn ids(sequence: usize, seq: usize, vocab: usize) -> Vec<i32> {
    (0..seq).map(|i| ((i * 7919 + sequence * 104_729 + 13) % vocab) as i32).collect()
}

/// The logits at the first, the middle and the last position of each sequence, for weights by name.
fn logits(
    config: &Config,
    read: &dyn Fn(&str) -> Result<Vec<u8>, Failure>,
) -> Result<Vec<Vec<f32>>, Failure> {
    let plan = compile(config)?.plan;
    let mut ranks = Ranks::new(&plan, threads(None))?;
    for p in &plan.tables.parameters {
        for (layer, name) in p.names().iter().enumerate() {
            ranks.set_tensor(&Values::Weights, p, layer as u64, &read(name)?);
        }
    }
    let (seq, vocab) = (config.model.seq_length, config.model.padded_vocab_size);
    let mut out = vec![];
    let mut bytes = vec![0; vocab * 4];
    for sequence in 0..SEQUENCES {
        let row: Vec<u8> = ids(sequence, seq, vocab).iter().flat_map(|t| t.to_le_bytes()).collect();
        for last in [0, seq / 2, seq - 1] {
            ranks.put("logits", "tokens", &row)?;
            ranks.put("logits", "last", &(last as i32).to_le_bytes())?;
            ranks.run("logits")?;
            ranks.get("logits", "logits", &mut bytes)?;
            let numbers = bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c));
            out.push(numbers.collect());
        }
    }
    Ok(out)
}

/// The largest difference; infinite where anything is not finite.
fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let differences = pairs.map(|(x, y)| (x - y).abs());
    differences.fold(0.0, |m, d| if d.is_finite() { d.max(m) } else { f32::INFINITY })
}

/// Compares the logits of a checkpoint with those of the folder that was written of it.
///
/// # Errors
/// If they differ by more than rounding, or the folder cannot be read back.
pub fn prove(
    reader: &Reader,
    config: &Config,
    written: &Path,
    precision: Precision,
) -> Result<Proof, Failure> {
    let folder = Imported::open(written)?;
    let longest = config.model.seq_length.max(config.model.max_position_embeddings);
    let seq = longest.min(folder.config.model.seq_length).min(LENGTH);
    let read = |name: &str| -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![];
        reader.read(name, &mut bytes)?;
        Ok(bytes)
    };
    let ours = small(config, seq);
    let expected = logits(&ours, &|name| Ok(rounded(&read(name)?, precision)))?;
    let got = logits(&small(&folder.config, seq), &|name| folder.read(name))?;
    let size = expected.iter().flatten().fold(0f32, |m, x| m.max(x.abs()));
    let off = apart(&expected, &got);
    let same_shape = expected.len() == got.len() && expected[0].len() == got[0].len();
    if !same_shape || !size.is_finite() || off > TOLERANCE * size {
        let what = format!(
            "the written folder does not compute what the checkpoint does: logits up to {size:e} differ by {off:e}"
        );
        let hint = "`neoxc inspect checkpoint` shows whether its numbers are finite; if they are, this is a \
                    mistake of neoxc: please report it";
        return Err(refused(written, what, hint));
    }
    let rounding = match precision {
        Precision::Fp32 => 0.0,
        _ => apart(&logits(&ours, &read)?, &expected),
    };
    Ok(Proof {
        positions: expected.len(),
        tokens: SEQUENCES * seq,
        largest: size,
        apart: off,
        rounding,
        precision,
        step: reader.manifest.step,
    })
}

impl Proof {
    /// What is said on the command line.
    pub fn told(&self) -> String {
        format!(
            "logits differ by {:e} of {:e} at {} positions",
            self.apart, self.largest, self.positions
        )
    }

    /// What is written beside the folder.
    pub fn certificate(&self, checkpoint: &Path, config: &Map<String, Value>) -> Value {
        json!({
            "checkpoint": checkpoint.display().to_string(),
            "step": self.step,
            "architectures": config.get("architectures"),
            "torch_dtype": dtype(self.precision).1,
            "tokens": self.tokens,
            "positions": self.positions,
            "largest_logit": self.largest,
            "largest_difference": self.apart,
            "tolerance": TOLERANCE * self.largest,
            "largest_difference_by_rounding_to_dtype": self.rounding,
            "versions": {
                "neoxc": env!("CARGO_PKG_VERSION"),
                "plan": neoxc_plan::FORMAT,
            },
        })
    }
}
