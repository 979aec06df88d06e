//! What the runtime reads of a configuration: the `run` section of a plan.

pub use neoxc_config::Settings;
use neoxc_plan::Plan;

use crate::RuntimeError;

/// Reads a plan's `run` section.
///
/// # Errors
/// It is none, or one of its counts makes no sense: no configuration gives such a plan.
pub fn settings(plan: &Plan) -> Result<Settings, RuntimeError> {
    let wrong = |e: String| RuntimeError::Settings(format!("the plan's run settings: {e}"));
    let s: Settings =
        serde_json::from_value(plan.tables.run.clone()).map_err(|e| wrong(e.to_string()))?;
    let counts = [
        ("seq_length", s.seq_length as u64),
        ("padded_vocab_size", s.padded_vocab_size as u64),
        ("groups", s.groups as u64),
        ("micro_batch", s.run.micro_batch as u64),
        ("grad_accum", s.run.grad_accum as u64),
        ("eval_interval", s.run.eval_interval),
    ];
    if let Some((name, n)) = counts.iter().find(|(_, n)| !(1..=MOST).contains(n)) {
        return Err(wrong(format!("{name} is {n}")));
    }
    let tokens =
        counts[..1].iter().chain(&counts[3..5]).try_fold(1u64, |a, (_, n)| a.checked_mul(*n));
    // Plans of tests may not say how many tokens a step has.
    let meant = plan.tables.tokens_per_step;
    match tokens {
        Some(n) if n <= MOST && (meant == 0 || meant == n) => Ok(s),
        Some(n) if n <= MOST => {
            Err(wrong(format!("a step has {meant} tokens, and its parts make {n}")))
        }
        _ => Err(wrong("a step has impossibly many tokens".into())),
    }
}

/// The most that any of these counts may be, and the tokens of a step.
const MOST: u64 = 1 << 40;

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
            let mut s = testing::settings();
            s.run.checkpoint_log = log;
            s.run.checkpoint_factor = factor;
            s.run.extra_save_iters = extra.to_vec();
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
