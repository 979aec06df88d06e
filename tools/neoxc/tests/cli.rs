//! The command line as a user meets it: the whole road in small, and what bad input is told.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::Path;
use std::process::{Command, Output};

use neoxc_runtime::checkpoint::Manifest;

fn neoxc(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_neoxc"))
        .args(args)
        .current_dir(folder)
        .env("NEOXC_CACHE", folder.join("cache"))
        .output()
        .unwrap()
}

/// stdout of a command that must succeed.
fn ok(folder: &Path, args: &[&str]) -> String {
    let out = neoxc(folder, args);
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {text}");
    String::from_utf8(out.stdout).unwrap()
}

/// stderr of a command that must fail with `code`.
fn fails(folder: &Path, code: i32, args: &[&str]) -> String {
    let out = neoxc(folder, args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

const MODEL: &str = r#"{
  "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 32,
  "pos_emb": "rotary", "rotary_pct": 0.5, "no_weight_tying": true, "gpt_j_residual": true,
  "optimizer": {"type": "Adam", "params": {"lr": 0.01}},
}"#;

const RUN: &str = r#"{
  "seq_length": 16, "train_micro_batch_size_per_gpu": 4, "train_iters": 8, "eval_interval": 4,
  "eval_iters": 1, "data_path": "d_text_document", "split": "80,20,0", "save": "ck",
  "tokenizer_type": "HFTokenizer", "vocab_file": "t.json", "make_vocab_size_divisible_by": 64,
}"#;

fn prepare(folder: &Path) {
    std::fs::write(folder.join("model.yml"), MODEL).unwrap();
    std::fs::write(folder.join("run.yml"), RUN).unwrap();
    let line = |i: usize| {
        let text = format!(
            "The {i} quick brown foxes jump over {} lazy dogs, and so do {i} cats. ",
            i * 7
        );
        format!("{{\"text\": \"{}\"}}\n", text.repeat(20))
    };
    std::fs::write(folder.join("d.jsonl"), (0..20).map(line).collect::<String>()).unwrap();
}

/// Measuring keeps cuts that the next compile uses; what is computed keeps its bits.
fn tune(f: &Path) {
    let losses = |plan: &str| {
        let metrics = format!("{plan}.jsonl");
        let run = ["run", "--plan", plan, "--synthetic", "--steps", "2", "--save", plan];
        ok(f, &[&run[..], &["--metrics", &metrics]].concat());
        let text = std::fs::read_to_string(f.join(metrics)).unwrap();
        let rows = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        rows.map(|r| r["loss"].as_f64().unwrap().to_bits()).collect::<Vec<_>>()
    };
    // Wide enough that matmuls have several cuts.
    let wide = [
        "--set",
        "hidden_size=256",
        "--set",
        "seq_length=128",
        "--set",
        "max_position_embeddings=128",
    ];
    ok(f, &[&["compile", "model", "run", "-o", "wide"][..], &wide].concat());
    let tuned: serde_json::Value =
        serde_json::from_str(&ok(f, &["tune", "--plan", "wide", "--json"])).unwrap();
    let matmuls = tuned["matmuls"].as_array().unwrap();
    assert!(!matmuls.is_empty(), "{tuned}");
    ok(f, &[&["compile", "model", "run", "-o", "tuned"][..], &wide].concat());
    assert_eq!(losses("tuned"), losses("wide"));
    for p in matmuls {
        let kernel = format!("@{}", p["kernel"].as_str().unwrap());
        let told = ok(f, &["explain", "--plan", "tuned", &kernel]);
        let (rows, columns) = (&p["chosen"][0], &p["chosen"][1]);
        assert!(told.contains(&format!("tasks of {rows} x {columns}")), "{told}");
        let changed = p["chosen"] != p["model"];
        assert_eq!(told.contains("as measured by neoxc tune"), changed, "{told}");
    }
    ok(f, &["compile", "model", "run", "--target", "x86-64-v3", "-o", "v3"]);
    assert!(fails(f, 3, &["tune", "--plan", "v3"]).contains("x86-64-native"));
    // What was measured is kept, or the command fails.
    assert!(
        fails(f, 5, &["tune", "--plan", "wide", "--cache", "model.yml"]).contains("cannot write")
    );
}

/// fp16: the log and the metrics say what was skipped, a run goes on where the scale was, and one that no scale helps
/// ends with a code.
#[test]
fn fp16_is_told_of_from_the_check_to_the_log() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let fp16 = |keys: &str| format!("fp16={{enabled: true, initial_scale_power: 32{keys}}}");
    let compile = |keys: &str, zero: &str| {
        let (fp16, zero) = (fp16(keys), format!("zero_optimization.stage={zero}"));
        let sets = ["padded_vocab_size=64", "num_layers=1", &fp16, &zero];
        let sets: Vec<&str> = sets.iter().flat_map(|s| ["--set", s]).collect();
        ok(f, &[&["compile", "model", "run", "-o", "plan"][..], &sets].concat());
    };
    compile("", "0");
    let run = ["run", "--plan", "plan", "--synthetic", "--metrics", "m.jsonl", "--steps"];
    let lines = |steps: &str, more: &[&str]| {
        let out = neoxc(f, &[&run[..], &[steps], more].concat());
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{told}");
        told
    };
    let told = lines("3", &[]);
    assert!(told.contains("loss scale 4294967296 (1 steps skipped)"), "{told}");
    lines("24", &["--resume"]);
    let metrics = std::fs::read_to_string(f.join("m.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> =
        metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), 24);
    for (n, pair) in rows.windows(2).enumerate() {
        // Each overflow halves the scale, also where the run went on.
        let factor = if pair[0]["skipped"] == true { 0.5 } else { 1.0 };
        let scale = |r: &serde_json::Value| r["loss_scale"].as_f64().unwrap();
        assert_eq!(scale(&pair[1]), factor * scale(&pair[0]), "step {}", n + 1);
    }
    assert_eq!((&rows[0]["skipped"], &rows[23]["skipped"]), (&true.into(), &false.into()));
    compile(", min_loss_scale: 4294967296", "1");
    let told = fails(f, 4, &["run", "--plan", "plan", "--synthetic", "--force"]);
    assert!(told.contains("NXR0405") && told.contains("step 2"), "{told}");
    let both = ["--set", "precision=fp16", "--set", "bf16.enabled=true"];
    let told = fails(f, 3, &[&["check", "model", "run"][..], &both].concat());
    assert!(told.contains("NX0107") && told.contains("`precision` is fp16"), "{told}");
}

/// What `freeze` names is the same to the bit after training, and everything else is not.
#[test]
fn frozen_parameters_are_those_of_the_first_checkpoint() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let with = |command: &[&'static str], patterns: &str| {
        let mut sets = vec!["padded_vocab_size=64".to_string(), format!("freeze={patterns}")];
        sets.extend(["num_layers=1", "train_iters=3", "extra_save_iters=[0]"].map(String::from));
        let sets = sets.into_iter().flat_map(|s| ["--set".to_string(), s]);
        let words = [command, &["model", "run"]].concat();
        words.iter().map(|w| w.to_string()).chain(sets).collect::<Vec<_>>()
    };
    let refused = |patterns: &str, words: [&str; 3]| {
        let args = with(&["check"], patterns);
        let told = fails(f, 3, &args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(words.iter().all(|w| told.contains(w)) && told.contains("--set freeze="), "{told}");
    };
    let near = "`gpt_neox.embed_in.weight`; `*` stands";
    refused("[gpt_neox.embedin.weight]", ["error[NX0210]", "`gpt_neox.embedin.weight`", near]);
    refused("['*']", ["error[NX0106]", "`freeze` has all of the", "  = hint: leave out a pattern"]);
    let args = with(&["compile", "-o", "plan"], "[gpt_neox.embed_in.weight, '*.attention.*']");
    ok(f, &args.iter().map(String::as_str).collect::<Vec<_>>());
    ok(f, &["run", "--plan", "plan", "--synthetic"]);
    let first = Manifest::read(&f.join("ck/global_step0")).unwrap();
    let still = |name: &str| name.contains(".attention.") || name.contains("embed_in");
    let weights: Vec<&String> = first.tensors.keys().filter(|n| still(n)).collect();
    assert!(
        weights.len() == 5 && weights.iter().all(|n| n.starts_with("gpt_neox.")),
        "{weights:?}"
    );
    let told = ok(f, &["inspect", "checkpoint", "ck/global_step0", "--diff", "ck/global_step3"]);
    assert!(!told.lines().any(|l| l.contains(": differs") && still(l)), "{told}");
    assert!(told.contains("\n5 tensors are equal to the bit"), "{told}");
}

/// A model with experts: trained, sampled from, gone on with; no other format knows it.
#[test]
fn experts_from_text_to_a_sample() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    ok(f, &["tokenizer", "train", "d.jsonl", "--vocab-size", "300", "-o", "t.json"]);
    ok(f, &["data", "preprocess", "d.jsonl", "--vocab-file", "t.json", "--append-eod", "-o", "d"]);
    let experts = [
        "--set",
        "moe_num_experts=4",
        "--set",
        "moe_expert_interval=2",
        "--set",
        "moe_token_dropping=true",
        "--set",
        "moe_eval_capacity_factor=4.0",
    ];
    let compile = [&["compile", "model", "run", "-o", "plan"][..], &experts].concat();
    assert!(ok(f, &compile).contains("parameters"));
    let told = fails(f, 3, &["generate", "--plan", "plan", "--prompt", "The"]);
    assert!(told.contains("no checkpoint in ck,") && told.contains("--checkpoint"), "{told}");
    ok(f, &["run", "--plan", "plan", "--metrics", "m.jsonl"]);
    let metrics = std::fs::read_to_string(f.join("m.jsonl")).unwrap();
    let loss = |line: &str| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        json["loss"].as_f64().unwrap()
    };
    let losses: Vec<f64> = metrics.lines().map(loss).collect();
    assert!(losses[7] < losses[0] - 0.3, "{losses:?}");
    let sample = ["--prompt", "The", "--max-tokens", "8", "--seed", "3"];
    let a = ok(f, &[&["generate", "--plan", "plan"][..], &sample].concat());
    let from = ["generate", "--checkpoint", "ck/global_step8"];
    let b = ok(f, &[&from[..], &sample].concat());
    assert!(a.starts_with("The") && a == b, "{a:?} {b:?}");
    let tree = ok(f, &["inspect", "checkpoint", "ck/global_step8"]);
    assert!(tree.contains("experts"), "{tree}");
    let told = fails(f, 3, &["convert", "neox-to-hf", "ck/global_step8", "hf"]);
    assert!(told.contains("has no experts"), "{told}");
    let told = fails(
        f,
        3,
        &["check", "model", "run", "--set", "moe_num_experts=2", "--set", "moe_top_k=3"],
    );
    assert!(told.contains("a token cannot go to 3 experts of 2"), "{told}");
}

#[test]
fn from_text_to_a_sample() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    ok(f, &["tokenizer", "train", "d.jsonl", "--vocab-size", "300", "-o", "t.json"]);
    let told = fails(f, 5, &["tokenizer", "train", "d.jsonl", "-o", "t.json"]);
    assert!(told.contains("exists already"), "{told}");
    ok(f, &["data", "preprocess", "d.jsonl", "--vocab-file", "t.json", "--append-eod", "-o", "d"]);
    assert!(ok(f, &["check", "model", "run"]).starts_with("ok: 2 layers"));

    let json = ok(f, &["compile", "model", "run", "-o", "plan", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["world_size"], &json["tokens_per_step"]), (&1.into(), &64.into()));
    assert!(json["kernels"]["distinct"].as_u64() > Some(20), "{json}");
    let memory = |k: &str| json["memory"][k].as_u64().unwrap();
    let parts = ["parameters", "gradients", "optimizer", "activations", "workspace"].map(memory);
    assert_eq!(parts.iter().sum::<u64>(), memory("peak"));

    let out = ok(f, &["run", "--plan", "plan", "--metrics", "m.jsonl", "--threads", "2"]);
    assert!(out.contains("validation loss") && out.contains("unigram entropy"), "{out}");
    let metrics = std::fs::read_to_string(f.join("m.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    for key in [
        "step",
        "loss",
        "lr",
        "grad_norm",
        "tokens",
        "step_seconds",
        "tokens_per_second",
        "loss_scale",
        "samples",
    ] {
        assert!(!first[key].is_null(), "{key}");
    }
    assert_eq!(metrics.lines().count(), 8);

    // More tokens than the model's context has, so that it moves on.
    let sample = ["--prompt", "The", "--max-tokens", "24", "--seed", "3"];
    let a = ok(f, &[&["generate", "--plan", "plan"][..], &sample].concat());
    let from = ["generate", "--checkpoint", "ck/global_step8"];
    let b = ok(f, &[&from[..], &sample].concat());
    assert!(a.starts_with("The") && a == b, "{a:?} {b:?}");
    // Ranks that have parts of the layers, the heads and the vocabulary go on from the same weights. They compute every
    // text whole, where one rank keeps keys and values.
    let many = ["--set", "model_parallel_size=2", "--set", "pipe_parallel_size=2"];
    ok(f, &[&["compile", "model", "run", "-o", "many"][..], &many].concat());
    let from = ["generate", "--plan", "many", "--checkpoint", "ck/global_step8"];
    // Tensor ranks pad the vocabulary, as in GPT-NeoX, and the answer says how many rows the checkpoint has.
    let told = fails(f, 3, &[&from[..], &sample].concat());
    let rows = "padded_vocab_size=320";
    assert!(told.contains(&format!("compile the plan with `--set {rows}`")), "{told}");
    let many = [&many[..], &["--set", rows]].concat();
    ok(f, &[&["compile", "model", "run", "-o", "many"][..], &many].concat());
    assert_eq!(ok(f, &[&from[..], &sample].concat()), a);

    // What passes were given stands at the head of a dump: they do on it what they did in the compiler.
    let dump = |phase: &str| ok(f, &["dump", "--plan", "many", "--phase", phase]);
    std::fs::write(f.join("grad.mlir"), dump("grad")).unwrap();
    let passes = "select-entries,cut-stages,assign-layouts,partition-program,divide-state,lower-precision,\
                  keep-weights,peel-last-step";
    assert_eq!(ok(f, &["opt", "grad.mlir", "--passes", passes]), dump("sharded"));
    let other = ok(f, &["opt", "grad.mlir", "--passes", "select-entries", "--set", "tensor=4"]);
    assert!(other.contains("\"pipe=2\"") && other.contains("\"tensor=4\""), "{other}");
    ok(f, &["compile", "--from", "grad.mlir", "-o", "again"]);
    for part in ["plan.json", "consts.bin", "programs/train_step.txt", "ir/scheduled.mlir"] {
        let read = |plan: &str| std::fs::read(f.join(plan).join(part)).ok();
        assert!(read("again") == read("many"), "{part} differs");
    }
    std::fs::write(f.join("x.mlir"), "module {\n}\n").unwrap();
    let told = fails(f, 3, &["compile", "--from", "x.mlir", "-o", "again"]);
    assert!(told.contains("neox.config"), "{told}");

    let ir = ok(f, &["dump", "--plan", "plan", "--phase", "rewritten", "--function", "block"]);
    assert!(ir.contains("neox.attention") && ir.contains("loc(\"model.yml\":"), "{ir}");
    let scheduled = ok(f, &["dump", "--plan", "plan", "--phase", "scheduled"]);
    std::fs::write(f.join("s.mlir"), &scheduled).unwrap();
    assert_eq!(ok(f, &["opt", "s.mlir", "--passes", "assign-layouts"]), scheduled);
    let told = ok(f, &["explain", "--plan", "plan", "@train_step%0"]);
    assert!(told.contains("bytes at grads+0"), "{told}");
    for (args, near) in [
        (&["explain", "--plan", "plan", "@train_stop"][..], "did you mean `train_step`?"),
        (&["explain", "--plan", "plan", "@train_step%x"], "its values are %0 to %"),
        (&["explain", "--plan", "plan", "%99999"], "its values are %0 to %"),
        (&["dump", "--plan", "plan", "--phase", "model", "--function", "los"], "`loss`?"),
        (&["dump", "--plan", "plan", "--phase", "kernels", "--function", "nothing"], "there are "),
    ] {
        let told = fails(f, 2, args);
        assert!(told.starts_with("error[NX0208]: ") && told.contains(near), "{args:?}: {told}");
    }
    assert!(ok(f, &["dump", "--plan", "plan", "--phase", "kernels"]).contains("llvm.intr.fma"));

    // Every launch of a step is in the trace of the last one, and counted.
    let profile = ["profile", "--plan", "plan", "--steps", "2", "--json", "--trace", "trace.json"];
    let profile: serde_json::Value = serde_json::from_str(&ok(f, &profile)).unwrap();
    let trace = std::fs::read_to_string(f.join("trace.json")).unwrap();
    let trace: Vec<serde_json::Value> = serde_json::from_str(&trace).unwrap();
    let rows = profile["rows"].as_array().unwrap();
    let launches = |r: &serde_json::Value| r["launches"].as_f64().unwrap();
    assert!(rows.len() > 20, "{profile}");
    assert_eq!(rows.iter().map(launches).sum::<f64>(), trace.len() as f64);
    let matmul = rows.iter().find(|r| r["name"].as_str().unwrap().starts_with("matmul")).unwrap();
    assert!(matmul["line"].as_str().unwrap().starts_with("model.yml:"), "{matmul}");
    assert!(matmul["gflops"].as_f64() > Some(0.0), "{matmul}");
    fails(f, 5, &["profile", "--plan", "plan", "--trace", "no/t.json"]);
    tune(f);

    ok(f, &["convert", "neox-to-hf", "ck/global_step8", "hf"]);
    ok(f, &["convert", "hf-to-neox", "hf", "back"]);
    let tree = ok(f, &["inspect", "checkpoint", "back/global_step0"]);
    assert!(tree.contains("embed_out\n  weight") && tree.contains("step 0"), "{tree}");
    // The weights come back as they were; the moments do not.
    let diff = ok(f, &["inspect", "checkpoint", "ck/global_step8", "--diff", "back/global_step0"]);
    let differs = |l: &&str| l.contains("differs");
    assert!(diff.lines().filter(differs).all(|l| l.contains("exp_avg")), "{diff}");
    assert!(diff.lines().any(|l| differs(&l)), "{diff}");
    // Either side may be the one whose moments are zero.
    let back = ok(f, &["inspect", "checkpoint", "back/global_step0", "--diff", "ck/global_step8"]);
    for text in [diff, back] {
        let whole = |l: &str| l.ends_with("1.000e0 of the larger norm");
        assert!(text.lines().filter(differs).all(whole), "{text}");
    }

    // A manifest that was sealed again, but lacks tensors or has more than its files or its model.
    let at = f.join("ck/global_step8/manifest.json");
    let whole = std::fs::read(&at).unwrap();
    let norm = "gpt_neox.layers.1.input_layernorm.weight";
    let remove = |m: &mut Manifest, name: &str| drop(m.tensors.remove(name));
    let add = |m: &mut Manifest, name: &str| {
        m.tensors.insert(name.into(), m.tensors[norm].clone());
    };
    type Change<'a> = &'a dyn Fn(&mut Manifest);
    let changes: [(Change<'_>, &str); 6] = [
        (
            &|m| {
                ["", "exp_avg.", "exp_avg_sq."]
                    .iter()
                    .for_each(|p| remove(m, &format!("{p}{norm}")))
            },
            &format!(
                "rank-00000.safetensors: has a part of exp_avg.{norm}, which the manifest does not list"
            ),
        ),
        (&|m| remove(m, norm), &format!("has exp_avg.{norm}, but no {norm}")),
        (
            &|m| remove(m, &format!("exp_avg_sq.{norm}")),
            &format!("has a part of exp_avg_sq.{norm}, which the manifest does not list"),
        ),
        (&|m| add(m, "extra.weight"), "its part of extra.weight is missing"),
        (&|m| m.config["model"]["num_layers"] = 3.into(), "has no gpt_neox.layers.2."),
        (&|m| m.config["model"]["num_layers"] = 1.into(), "has gpt_neox.layers.1."),
    ];
    for (change, told) in changes {
        let mut manifest: Manifest = serde_json::from_slice(&whole).unwrap();
        change(&mut manifest);
        std::fs::write(&at, serde_json::to_vec(&manifest.sealed().unwrap()).unwrap()).unwrap();
        for command in [
            &["inspect", "checkpoint", "ck/global_step8"][..],
            &["convert", "neox-to-hf", "ck/global_step8", "no"],
        ] {
            let said = fails(f, 3, command);
            assert!(said.contains(told) && said.contains("NXR0301"), "{told}: {said}");
        }
    }
    assert!(!f.join("no").exists());
    std::fs::write(&at, whole).unwrap();

    // A flipped byte anywhere in the plan is refused by name.
    let so = f.join("plan/kernels/x86-64-native.so");
    let mut bytes = std::fs::read(&so).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&so, bytes).unwrap();
    let told = fails(f, 3, &["run", "--plan", "plan"]);
    assert!(told.contains("x86-64-native.so") && told.contains("changed"), "{told}");

    // Plans that cannot be read or written, and folders that are none.
    let told = fails(f, 5, &["run", "--plan", "none"]);
    assert!(
        told.contains("[NXR0001]: cannot read none/") && told.contains("neoxc compile"),
        "{told}"
    );
    let told = fails(f, 5, &["compile", "model", "run", "-o", "model.yml/plan"]);
    assert!(told.contains("[NXR0001]: cannot write model.yml") && !told.contains("hint"), "{told}");
    let told = fails(f, 3, &["compile", "model", "run", "-o", "ck"]);
    assert!(told.contains("not a plan") && told.contains("another folder"), "{told}");
}

#[test]
fn bad_input_is_told_what_is_wrong() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    fails(f, 2, &["compile", "model", "--target", "z80"]);
    // A reader that has seen enough.
    let pipe = format!("{} dialect | true", env!("CARGO_BIN_EXE_neoxc"));
    let quiet = Command::new("sh").args(["-c", &pipe]).output().unwrap();
    assert!(quiet.stderr.is_empty(), "{quiet:?}");
    fails(f, 2, &["explain", "NX9999"]);
    assert!(ok(f, &["explain", "nx0103"]).contains("given twice"));
    let told =
        fails(f, 3, &["check", "model", "run", "--set", "num_layer=3", "--set", "seq_length=x"]);
    assert!(
        told.contains("NX0101") && told.contains("NX0102") && told.contains("did you mean"),
        "{told}"
    );
    let told = fails(f, 3, &["check", "model", "model"]);
    assert!(told.contains("NX0103") && told.contains(":::"), "{told}");
    fails(f, 5, &["run", "--plan", "nowhere"]);
    let sets = ["--set", "padded_vocab_size=64", "--set", "vocab_file=null"];
    let told = fails(f, 5, &[&["run", "model", "run"][..], &sets].concat());
    assert!(told.contains("d_text_document"), "{told}");
    std::fs::create_dir(f.join("full")).unwrap();
    std::fs::write(f.join("full/letter"), b"dear").unwrap();
    let told = fails(f, 3, &[&["compile", "model", "run", "-o", "full"][..], &sets].concat());
    assert!(told.contains("not a plan"), "{told}");
    assert_eq!(std::fs::read(f.join("full/letter")).unwrap(), b"dear");
    std::fs::write(f.join("x.mlir"), "module { func.func @f(").unwrap();
    fails(f, 3, &["opt", "x.mlir", "--passes", "fuse-kernels"]);
    // A pass on a module that is not ready for it.
    std::fs::write(f.join("empty.mlir"), "module {\n}\n").unwrap();
    let told = fails(f, 3, &["opt", "empty.mlir", "--passes", "build-train-step"]);
    assert!(told.contains("@micro_step") && told.contains("requires"), "{told}");
    // More memory than there is: refused before anything is allocated.
    let huge = ["--set", "padded_vocab_size=60000000", "--set", "hidden_size=512", "--synthetic"];
    let more = ["--set", "vocab_file=null", "--set", "save=null"];
    let told = fails(f, 4, &[&["run", "model", "run"][..], &huge, &more].concat());
    assert!(told.contains("NXR0404") && told.contains("available"), "{told}");
}

/// Settings that compile without data or tokenizer.
const BARE: [&str; 6] =
    ["--set", "vocab_file=null", "--set", "padded_vocab_size=64", "--set", "train_iters=4"];

#[test]
fn a_cluster_is_told_what_a_plan_asks_of_it() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    prepare(folder);
    let clusters = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/clusters");
    fn compile<'a>(cluster: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["compile", "model.yml", "run.yml", "--cluster", cluster][..], &BARE, more].concat()
    }
    let mesh = [
        "--json",
        "--set",
        "world_size=8",
        "--set",
        "pipe_parallel_size=2",
        "--set",
        "model_parallel_size=2",
        "--set",
        "gradient_accumulation_steps=3",
    ];
    let path = format!("{clusters}/local-cpu.yml");
    let text = ok(folder, &compile(&path, &mesh));
    let v: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(v["world_size"], 8);
    // (p − 1) / (m + p − 1), published for 1F1B.
    assert!((v["cluster"]["bubble"].as_f64().unwrap() - 0.25).abs() < 1e-9);
    let classes = v["cluster"]["rank_classes"].as_array().unwrap();
    assert_eq!(classes.len(), 2);
    let bytes = |class: usize, axis: &str| {
        let all = classes[class]["traffic"].as_array().unwrap();
        all.iter().find(|t| t["axis"] == axis).map(|t| t["bytes"].as_u64().unwrap()).unwrap()
    };
    // One activation (4 × 16 × 32 floats) a micro-batch, and the two numbers that all stages share.
    assert!(bytes(0, "pipe") > 3 * 4 * 16 * 32 * 4);
    assert!(bytes(0, "data") > 0 && bytes(1, "tensor") > 0);
    for t in classes.iter().flat_map(|c| c["traffic"].as_array().unwrap()) {
        let (seconds, hidden) = (t["seconds"].as_f64().unwrap(), t["hidden"].as_f64().unwrap());
        assert!(seconds > 0.0 && (0.0..=seconds).contains(&hidden), "{t}");
        // Tensor ranks sum beside the gradients of weights.
        assert!(t["axis"] != "tensor" || hidden > 0.0, "{t}");
    }
    let peak = v["memory"]["peak"].as_u64().unwrap();
    let peaks = classes.iter().map(|c| c["memory"]["peak"].as_u64().unwrap());
    assert_eq!(peaks.max(), Some(peak));
    // The first stage has the embedding, the last one the head and the final norm.
    let weights = |n: usize| classes[n]["memory"]["parameters"].as_u64().unwrap();
    assert!(weights(0) != weights(1), "{classes:?}");

    let small = std::fs::read_to_string(&path).unwrap();
    let small = small.replace("memory_gib: null", "memory_gib: 0.0001").replace("64\n", "4\n");
    std::fs::write(folder.join("small.yml"), &small).unwrap();
    let text = fails(folder, 3, &compile("small.yml", &[]));
    assert!(text.contains("NX0112") && text.contains("memory_gib: 0.0001"), "{text}");
    let text = fails(folder, 3, &compile("small.yml", &mesh[1..]));
    assert!(
        text.contains("wants 8 ranks, and the cluster has 4") && text.contains("world_size=8"),
        "{text}"
    );

    let wrong = small
        .replace("nodes: 1", "nodes: -2")
        .replace("cpu", "7")
        .replace("gb_per_s: 10", "speed: 10");
    std::fs::write(folder.join("wrong.yml"), wrong + "colour: red\n").unwrap();
    let text = fails(folder, 3, &compile("wrong.yml", &[]));
    for part in ["`nodes` is -2", "`accelerator`", "no gb_per_s", "`colour`"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    fails(folder, 3, &compile("missing.yml", &[]));
}

#[test]
fn degrees_that_do_not_divide_are_shown_with_both_sides() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    prepare(folder);
    for (set, parts) in [
        ("pipe_parallel_size=3", ["3 stages cannot divide 2 layers", "num_layers"]),
        ("world_size=3", ["3 ranks are not a multiple of 2", "model_parallel_size"]),
        (
            "virtual_pipeline_chunks=2",
            ["chunks of layers are for an interleaved schedule", "virtual_pipeline_chunks=2"],
        ),
        ("zero_optimization={\"stage\": 7}", ["zero_optimization.stage` is 7", "from 0 to 3"]),
        ("zero_optimization={\"stages\": 1}", ["zero_optimization.stages", "unknown key"]),
        ("zero_optimization={\"cpu_offload\": true}", ["cpu_offload", "not supported yet"]),
    ] {
        let mut args = vec!["check", "model.yml", "run.yml"];
        args.extend(BARE);
        args.extend(["--set", "model_parallel_size=2", "--set", set]);
        let text = fails(folder, 3, &args);
        assert!(parts.iter().all(|p| text.contains(p)), "{set}: {text}");
    }
    // Interleaving wants chunks of equal numbers of layers, and full groups of micro-batches.
    for (set, parts) in [
        ("num_layers=6", ["2 stages × 2 chunks do not divide 6 layers", "num_layers=6"]),
        (
            "gradient_accumulation_steps=3",
            ["a multiple of 2 micro-batches, not 3", "gradient_accumulation_steps=3"],
        ),
    ] {
        let mut args = vec!["check", "model.yml", "run.yml"];
        args.extend(BARE);
        let interleaved =
            ["pipe_parallel_size=2", "pipe_schedule=interleaved", "num_layers=4", set];
        args.extend(interleaved.iter().flat_map(|set| ["--set", set]));
        let text = fails(folder, 3, &args);
        assert!(parts.iter().all(|p| text.contains(p)), "{set}: {text}");
    }
}

/// A run that is asked to end saves after the step it is at; resumed, it is as if nothing had happened.
#[test]
fn a_stopped_run_goes_on() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    ok(f, &["tokenizer", "train", "d.jsonl", "--vocab-size", "300", "-o", "t.json"]);
    ok(f, &["data", "preprocess", "d.jsonl", "--vocab-file", "t.json", "--append-eod", "-o", "d"]);
    let many = ["--set", "train_iters=1000000", "--set", "eval_interval=1000000"];
    ok(f, &[&["compile", "model", "run", "-o", "plan"], &many[..]].concat());
    let lines = |name: &str| -> Vec<(u64, u64)> {
        let text = std::fs::read_to_string(f.join(name)).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let read = |line: &str| -> (u64, u64) {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            (json["step"].as_u64().unwrap(), json["loss"].as_f64().unwrap().to_bits())
        };
        whole.lines().map(read).collect()
    };
    for signal in ["TERM", "USR1"] {
        let folder = format!("ck-{signal}");
        let run = ["run", "--plan", "plan", "--save", &folder, "--metrics", signal];
        let mut child = Command::new(env!("CARGO_BIN_EXE_neoxc"))
            .args(run)
            .current_dir(f)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        while lines(signal).len() < 3 {
            assert_eq!(child.try_wait().unwrap(), None, "it ended before it was asked to");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let ask = format!("kill -s {signal} {}", child.id());
        let asked = Command::new("sh").args(["-c", &ask]).status();
        assert!(asked.unwrap().success());
        let out = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(6), "{told}");
        let step = lines(signal).len();
        assert!(told.contains(&format!("after step {step}: go on with --resume")), "{told}");

        let end = (step + 2).to_string();
        ok(f, &[&run[..], &["--resume", "--steps", &end]].concat());
        let name = format!("{signal}.whole");
        let whole = ["run", "--plan", "plan", "--save", "whole", "--force", "--metrics", &name];
        ok(f, &[&whole[..], &["--steps", &end]].concat());
        assert_eq!(lines(signal), lines(&name));
    }
}
