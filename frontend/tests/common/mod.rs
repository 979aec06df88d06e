//! A small configuration, and what a variant of it is told.

use std::path::PathBuf;

use neoxc_frontend::{Loaded, load};

pub fn from_text(texts: &[&str], sets: &[&str]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = texts
        .iter()
        .enumerate()
        .map(|(i, t)| {
            let p = folder.path().join(format!("{}.yml", (b'a' + i as u8) as char));
            std::fs::write(&p, t).unwrap();
            p
        })
        .collect();
    load(&files, None, &sets.iter().map(|s| s.to_string()).collect::<Vec<_>>())
}

/// `code line:column message` of each problem; lints, which every other configuration gives, have their own test.
pub fn told(l: &Loaded) -> Vec<String> {
    l.diagnostics
        .iter()
        .filter(|d| d.kind.code != "NX0115")
        .map(|d| {
            let places: Vec<String> =
                d.labels.iter().map(|l| format!("{}:{}", l.span.line, l.span.column)).collect();
            format!("{} {} {}", d.kind.code, places.join(","), d.message)
        })
        .collect()
}

pub const GOOD: &str = r#"{
  # comment
  "num-layers": 2, "hidden_size": 8, "num_attention_heads": 2,
  "seq_length": 16, "padded_vocab_size": 64, "pos-emb": "rotary", "rotary_pct": 0.5,
  "gpt-j-residual": True, "no-weight-tying": true,
  "optimizer": {"type": "Adam", "params": {"lr": 0.001, "betas": [0.9, 0.95], "eps": 1.0e-8}},
  "train_micro_batch_size_per_gpu": 4, "train_iters": 10,
}"#;
