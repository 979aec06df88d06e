//! What a pass refuses is told with the line of the configuration, and is the user's: exit code 3.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::process::Command;

const MODULE: &str = r#"!w = tensor<4x2xf32, {dims = ["heads", "embed"]}>
module {
  func.func @train_step(%w: !w {neox.param = "w", neox.tensor = ["heads"]}) -> !w {
    %0 = "neox.add"(%w, %w) : (!w, !w) -> !w loc("14M.yml":2:1)
    return %0 : !w
  }
}
"#;

#[test]
fn a_refusal_shows_the_line_that_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("m.mlir"), MODULE).unwrap();
    std::fs::write(folder.path().join("14M.yml"), "num_layers: 2\nnum_attention_heads: 4\n")
        .unwrap();
    let opt = |tensor: &str| {
        let set = format!("tensor={tensor}");
        let args = ["opt", "m.mlir", "--passes", "assign-layouts", "--set", &set];
        let mut command = Command::new(env!("CARGO_BIN_EXE_neoxc"));
        command.args(args).current_dir(folder.path()).output().unwrap()
    };
    assert!(opt("2").status.success(), "{:?}", opt("2"));
    let out = opt("3");
    assert_eq!(out.status.code(), Some(3));
    let want = "\
error[NX0201]: 3 ranks of the `tensor` axis do not divide the 4 elements of `heads`
 --> 14M.yml:2:1
  |
2 | num_attention_heads: 4
  | ^ `heads` comes from here
  = hint: `model_parallel_size` must divide it
";
    assert_eq!(String::from_utf8(out.stderr).unwrap(), want);
}

/// What `neoxc` says of `args` in `folder`, and its exit code.
fn told(folder: &std::path::Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neoxc"));
    let out = command.args(args).current_dir(folder).output().unwrap();
    (out.status.code(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn every_refusal_of_a_module_or_a_folder_has_a_code_and_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    std::fs::write(f.join("m.mlir"), MODULE).unwrap();
    std::fs::write(f.join("cut.mlir"), "module {\n  func.func @f(").unwrap();
    std::fs::write(f.join("empty.mlir"), "module {\n}\n").unwrap();
    std::fs::write(f.join("twice.mlir"), MODULE.replace("add\"(%w, %w)", "add\"(%w)")).unwrap();
    let head = "module attributes {neox.settings = [\"tensor=none\"]} {\n}\n";
    std::fs::write(f.join("head.mlir"), head).unwrap();
    std::fs::create_dir(f.join("hf")).unwrap();
    let opt = |file, pass| vec!["opt", file, "--passes", pass];
    let list = "assign-layouts";
    for (args, exit, code, place) in [
        (opt("cut.mlir", list), 3, "NX0206", " --> cut.mlir:2:"),
        (opt("twice.mlir", list), 3, "NX0206", "twice.mlir"),
        (opt("head.mlir", list), 3, "NX0206", "head.mlir: `neox.settings`"),
        (opt("none.mlir", list), 5, "NXR0001", "cannot read none.mlir"),
        (opt("empty.mlir", "build-train-step"), 3, "NX0207", "@micro_step"),
        (opt("m.mlir", "fuse-kernel"), 2, "NX0208", "did you mean `fuse-kernels`?"),
        ([opt("m.mlir", list), vec!["--set", "tensor=x"]].concat(), 2, "NX0208", "tensor"),
        (vec!["compile", "--from", "cut.mlir", "-o", "p"], 3, "NX0206", " --> cut.mlir:2:"),
        (vec!["compile", "--from", "none.mlir", "-o", "p"], 5, "NXR0001", "cannot read none.mlir"),
        (vec!["convert", "hf-to-neox", "hf", "out"], 5, "NXR0001", "read hf/config.json"),
        (vec!["convert", "hf-to-neox", "hf", "hf"], 5, "NXR0002", "hf exists already"),
    ] {
        let (got, text) = told(f, &args);
        assert_eq!(got, Some(exit), "{args:?}: {text}");
        let first = format!("error[{code}]: ");
        assert!(text.starts_with(&first) && text.contains(place), "{args:?}: {text}");
        assert!(text.contains("  = hint: "), "{args:?}: {text}");
    }
    assert!(!f.join("p").exists() && !f.join("out").exists());
}

#[test]
fn every_command_tells_a_wrong_command_line_with_a_code() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    std::fs::write(f.join("empty.yml"), "").unwrap();
    for (line, exit, code) in [
        ("frobnicate", 2, "NX0211"),
        ("compile --nope", 2, "NX0211"),
        ("compile", 2, "NX0211"),
        ("compile empty -o p", 3, "NX0105"),
        ("compile none -o p", 3, "NX0110"),
        ("check", 2, "NX0211"),
        ("check empty --set", 2, "NX0211"),
        ("check none", 3, "NX0110"),
        ("run", 2, "NX0211"),
        ("run --plan none", 5, "NXR0001"),
        ("run --plan none --threads 0", 2, "NX0211"),
        ("dump --plan none --phase model", 5, "NXR0001"),
        ("explain NX9999", 2, "NX0208"),
        ("explain seq-lenght", 2, "NX0208"),
        ("explain --plan none @step", 5, "NXR0001"),
        ("opt none.mlir --passes none", 5, "NXR0001"),
        ("tokenizer train none.jsonl -o t.json --vocab-size 300", 5, "NXR0001"),
        ("data preprocess none.jsonl --vocab-file none.json -o d", 5, "NXR0001"),
        ("generate --prompt a", 2, "NX0211"),
        ("generate --plan none --prompt a", 5, "NXR0001"),
        ("generate --checkpoint none --prompt a", 5, "NXR0001"),
        ("generate --plan none --prompt a --temperature -1", 2, "NX0211"),
        ("convert neox-to-hf none out", 5, "NXR0001"),
        ("completions csh", 2, "NX0211"),
        ("inspect checkpoint none", 5, "NXR0001"),
        ("profile --plan none", 5, "NXR0001"),
        ("tune --plan none", 5, "NXR0001"),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let (got, text) = told(f, &args);
        assert!(text.starts_with(&format!("error[{code}]: ")), "{line}: {got:?} {text}");
        assert_eq!(got, Some(exit), "{line}: {text}");
        assert!(text.contains("hint: ") || text.contains("--help"), "{line}: {text}");
    }
    assert_eq!(std::fs::read_dir(f).unwrap().count(), 1, "something was written");
}

/// ZeRO divides along one dim: ranks that divide none of a parameter's keep its state whole, and are told of it.
#[test]
fn state_that_zero_leaves_whole_is_told_with_its_share() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let model = "{num_layers: 2, hidden_size: 12, num_attention_heads: 2, seq_length: 8, padded_vocab_size: 35, \
                 pos_emb: none, train_micro_batch_size_per_gpu: 1, train_iters: 1,\
                 optimizer: {type: Adam, params: {lr: 0.1}},\nzero_optimization: {stage: 1}}";
    std::fs::write(f.join("a.yml"), model).unwrap();
    let check = |ranks: &str| told(f, &["check", "a.yml", "--set", &format!("world_size={ranks}")]);
    for divided in ["1", "2", "3"] {
        let (code, text) = check(divided);
        assert!(code == Some(0) && !text.contains("NX0212"), "{divided}: {text}");
    }
    // Of 4,212 parameters 5 ranks divide the 420 of the vocabulary's table.
    let (code, text) = check("5");
    assert_eq!(code, Some(0), "{text}");
    let told = "warning[NX0212]: ZeRO leaves 90 % of the optimizer's state whole on each of 5 data ranks\n \
                --> a.yml:2:1";
    assert!(text.contains(told), "{text}");
    // Weights without state are not divided, whatever the number of ranks.
    let frozen = ["--set", "zero_optimization.stage=3", "--set", "freeze=[\"*.mlp.*\"]"];
    let check = [&["check", "a.yml", "--set", "world_size=2"], &frozen[..]].concat();
    let (code, text) = crate::told(f, &check);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("ZeRO leaves 58 % of the weights whole on each of 2"), "{text}");
}

#[test]
fn a_group_of_parameters_that_has_none_is_refused_and_another_is_in_the_dump() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let model = "num_layers: 1\nhidden_size: 8\nnum_attention_heads: 2\nseq_length: 8\npadded_vocab_size: 64\n\
        train_micro_batch_size_per_gpu: 1\ntrain_iters: 10\nlr: 0.001\n";
    let groups = |params: &str| format!("param_groups: [{{params: '{params}', lr_scale: 0.25}}]\n");
    std::fs::write(f.join("a.yml"), format!("{model}{}", groups("*.atention.*"))).unwrap();
    std::fs::write(f.join("b.yml"), format!("{model}{}", groups("*.attention.*"))).unwrap();
    let (code, text) = told(f, &["check", "a.yml"]);
    let first = "error[NX0210]: no parameter's name fits `*.atention.*`\n --> a.yml:9:1\n";
    assert!(code == Some(3) && text.starts_with(first) && text.contains("  = hint: "), "{text}");
    let compiled = told(f, &["compile", "b.yml", "-o", "p", "--cache", "c"]);
    assert_eq!(compiled.0, Some(0), "{}", compiled.1);
    let dump = |phase: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neoxc"));
        command.args(["dump", "--plan", "p", "--phase", phase]).current_dir(f);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(dump("model").contains("neox.rate = 0.25"), "the model does not say the rate");
    let grad = dump("grad");
    let own = |name: &str| grad.lines().any(|l| l.contains("map\"(") && l.contains(name));
    assert!(own("callee = @update_decayed_1,") && own("callee = @update_decayed,"));
}
