//! `neoxc check --fix` writes the corrected file beside the user's own, which stays as it is.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::Path;
use std::process::{Command, Output};

/// As a user has it: a gated MLP that GPT-NeoX cannot run, numbers that YAML 1.1 reads as text, comments.
const MODEL: &str = "{
  \"num_layers\": 2, \"hidden_size\": 32, # small
  \"num_attention_heads\": 2,
  # the published width
  \"intermediate_size\": 26, \"activation\": \"swiglu\",
  \"seq_length\": 16, \"padded_vocab_size\": 64,
  \"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": 6e-4, \"betas\": [0.9, 0.95]}},
  \"train_iters\": 8,
}
";

fn neoxc(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_neoxc")).args(args).current_dir(folder).output().unwrap()
}

#[test]
fn what_has_one_answer_is_written_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    std::fs::write(f.join("model.yml"), MODEL).unwrap();
    std::fs::write(f.join("run.yml"), "train_micro_batch_size_per_gpu: 4\n").unwrap();
    assert_eq!(neoxc(f, &["check", "model", "run"]).status.code(), Some(3));

    let out = neoxc(f, &["check", "--fix", "model", "run"]);
    let (told, problems) = (String::from_utf8(out.stdout), String::from_utf8(out.stderr));
    let (told, problems) = (told.unwrap(), problems.unwrap());
    assert_eq!(out.status.code(), Some(0), "{told}{problems}");
    let want =
        "wrote model.fixed.yml, for model.yml\n  5:24: `26` → `78`\n  7:50: `6e-4` → `6.0e-4`\n";
    assert!(told.starts_with(want), "{told}");
    assert!(problems.contains("NX0107") && problems.contains("NX0102"), "{problems}");
    assert_eq!(std::fs::read_to_string(f.join("model.yml")).unwrap(), MODEL);
    let fixed = MODEL.replace("\"intermediate_size\": 26", "\"intermediate_size\": 78");
    let fixed = fixed.replace("6e-4", "6.0e-4");
    assert_eq!(std::fs::read_to_string(f.join("model.fixed.yml")).unwrap(), fixed);
    assert_eq!(neoxc(f, &["check", "model.fixed", "run"]).status.code(), Some(0));

    // What may be meant in two ways is not answered, and no file is written.
    std::fs::write(f.join("other.yml"), MODEL.replace("6e-4", "6.0e_4")).unwrap();
    let sets = ["--set", "intermediate_size=78"];
    let out = neoxc(f, &[&["check", "--fix", "other", "run"][..], &sets].concat());
    let problems = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(3), "{problems}");
    assert!(problems.contains("no file is written") && problems.contains("6.0e-4"), "{problems}");
    assert!(!f.join("other.fixed.yml").exists());
}
