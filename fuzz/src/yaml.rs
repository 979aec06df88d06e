//! Configurations: YAML as people and programs write it, damaged.

use std::path::PathBuf;

use arbitrary::{Result, Unstructured};

use crate::{Target, wreck};

/// A configuration with everything that YAML has: comments, anchors, merges, tags, blocks, both styles.
const TEXT: &str = r#"# a comment that may be damaged without consequence, and is long, so that it often is what is damaged:
# one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
{
  "num_layers": 2, "hidden-size": 8, "num_attention_heads": 2, "seq_length": 0x10, "padded_vocab_size": 64,
  "pos_emb": "rotary", "rotary_pct": 0.5, "no_weight_tying": yes, "gpt_j_residual": True,
  "optimizer": {"type": "Adam", "params": &params {"lr": !!float 1e-3, "betas": [0.9, 0.95], "eps": 1.0e-8}},
  "train_micro_batch_size_per_gpu": 4, "train_iters": 10, "checkpoint_factor": 5, "split": "969, 30, 1",
  "extra_save_iters": [1, 2], "attention_config": [[["flash"], 2]], "wandb": {<<: *params, "eps": 1},
}
"#;

/// Loads a damaged configuration.
pub struct YamlTarget {
    folder: tempfile::TempDir,
}

impl YamlTarget {
    /// Makes the folder for configurations.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { folder: tempfile::tempdir()? })
    }

    fn attempt(&self, u: &mut Unstructured) -> Result<bool> {
        let mut text = TEXT.as_bytes().to_vec();
        wreck::bytes(u, &mut text)?;
        // Words that YAML has a meaning for, where nobody expects them.
        if u.ratio(1, 4)? && !text.is_empty() {
            let words =
                ["&a ", "*params", "<<: ", "---\n", "!!int ", "- ", "? ", "|\n", "\t", "[[[[[["];
            let at = u.choose_index(text.len())?;
            text.splice(at..at, u.choose(&words)?.bytes());
        }
        let file: PathBuf = self.folder.path().join("a.yml");
        std::fs::write(&file, &text).expect("the folder can be written");
        let loaded = neoxc_frontend::load(&[file], None, &[]);
        // YAML takes a carriage return for the end of a line as well.
        let lines = text.split(|b| b"\r\n".contains(b)).count().max(1) as u32;
        for label in loaded.diagnostics.iter().flat_map(|d| &d.labels) {
            let s = &label.span;
            assert!(s.line >= 1 && s.line <= lines + 1 && s.column >= 1, "{s}: {}", label.text);
        }
        let Some(c) = loaded.config else {
            assert!(!loaded.diagnostics.is_empty(), "nothing is refused without a word");
            return Ok(false);
        };
        assert!(
            c.model.num_layers > 0
                && c.model.hidden_size.is_multiple_of(c.model.num_attention_heads)
        );
        assert!(c.optimizer.rate.lr >= 0.0 && c.optimizer.rate.lr.is_finite());
        assert!(c.run.micro_batch > 0 && c.run.grad_accum > 0 && c.run.eval_interval > 0);
        Ok(true)
    }
}

impl Target for YamlTarget {
    fn run(&self, choices: &[u8]) -> bool {
        self.attempt(&mut Unstructured::new(choices)).unwrap_or(false)
    }
}
