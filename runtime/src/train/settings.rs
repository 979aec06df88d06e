//! What the runtime reads of a configuration: the `run` section of a plan.

pub use neoxc_config::Settings;
use neoxc_plan::Plan;

use crate::RuntimeError;

/// Reads a plan's `run` section.
pub fn settings(plan: &Plan) -> Result<Settings, RuntimeError> {
    serde_json::from_value(plan.tables.run.clone())
        .map_err(|e| RuntimeError::Settings(format!("the plan's run settings: {e}")))
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
