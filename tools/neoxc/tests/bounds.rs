//! Commands meet plans, checkpoints and data that are not what they should be: each answers at once, by name.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use neoxc_plan::Plan;
use neoxc_runtime::data::IndexedWriter;
use neoxc_runtime::data::idx::TokenType;

const NEOXC: &str = env!("CARGO_BIN_EXE_neoxc");

const MODEL: &str = r#"{
  "num_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "seq_length": 16, "padded_vocab_size": 512,
  "pos_emb": "none", "no_weight_tying": true, "train_micro_batch_size_per_gpu": 2, "train_iters": 2,
  "eval_interval": 2, "eval_iters": 1, "data_path": "d", "split": "80,20,0", "save": "ck",
  "tokenizer_type": "CharLevelTokenizer", "optimizer": {"type": "Adam", "params": {"lr": 0.01}},
}"#;

/// A command that must end within half a minute.
fn neoxc(folder: &Path, args: &[&str]) -> Output {
    let kernels = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "30", NEOXC]).args(args).current_dir(folder);
    command.env("NEOXC_CACHE", kernels).output().unwrap()
}

fn ok(folder: &Path, args: &[&str]) {
    let out = neoxc(folder, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// The command ends with `code` and says `why`.
fn fails(folder: &Path, code: i32, why: &str, args: &[&str]) {
    let out = neoxc(folder, args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
    assert!(text.contains(why) && !text.contains("panicked"), "{args:?}: {text}");
}

/// A trained model: plan, data, checkpoint.
fn prepare(folder: &Path) {
    std::fs::write(folder.join("model.yml"), MODEL).unwrap();
    let mut data = IndexedWriter::create(&folder.join("d"), TokenType::U16, true).unwrap();
    for n in 0..10 {
        data.document(&(0..40 + n).map(|i| (i * 3 + n) % 8).collect::<Vec<u32>>()).unwrap();
    }
    data.finish().unwrap();
    ok(folder, &["compile", "model", "-o", "plan"]);
    ok(folder, &["run", "--plan", "plan", "--threads", "1"]);
}

fn pipe(path: &Path) {
    std::fs::remove_file(path).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn what_is_not_what_it_should_be_is_refused_by_name() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    plans_for_other_processors(f);
    damaged_plans(f);
    pipes(f);
    checkpoints_that_are_not_there(f);
    let most = "it must be a whole number from 1 to ";
    fails(f, 2, most, &["run", "--plan", "plan", "--threads", "3000"]);
    fails(f, 2, most, &["profile", "--plan", "plan", "--threads", "0"]);
}

/// Exit code 4 before the first instruction, whoever runs it.
fn plans_for_other_processors(f: &Path) {
    let mut plan = Plan::open(&f.join("plan")).unwrap();
    assert!(neoxc_base::processor::missing(&plan.tables.features).is_empty());
    plan.tables.features.push("tails".into());
    plan.write(&f.join("other")).unwrap();
    let why = "error[NXR0401]: kernels: the plan was compiled for a processor with tails";
    for command in
        [&["run", "--save", "new"][..], &["profile"], &["tune"], &["generate", "--prompt", "a"]]
    {
        fails(f, 4, why, &[command, &["--plan", "other"]].concat());
    }
    assert!(!f.join("new").exists());
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["-n", "1", "--oversubscribe", NEOXC, "run", "--plan", "other", "--save", "new"]);
    mpirun.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    match mpirun.current_dir(f).output() {
        Err(_) => eprintln!("skipped: there is no mpirun"),
        Ok(out) => {
            assert_eq!(out.status.code(), Some(4));
            assert!(String::from_utf8_lossy(&out.stderr).contains(why));
        }
    }
}

/// What is told of a change to a plan, and the change.
type Change = (&'static str, fn(&mut Plan));

/// Seals are those of what was written: only what is in it is wrong.
fn damaged_plans(f: &Path) {
    let run = ["run", "--plan", "damaged", "--save", "new", "--steps", "1", "--threads", "1"];
    let changes: &[Change] = &[
        ("the table of kernels is not the one", |p| p.tables.kernels[0].tasks *= 1000),
        ("the table of kernels is not the one", |p| {
            p.tables.kernels[0].args.iter_mut().for_each(|n| *n /= 2);
        }),
        ("run settings: seq_length is 0", |p| p.tables.run["seq_length"] = 0.into()),
        ("impossibly many tokens", |p| p.tables.run["micro_batch"] = (1u64 << 39).into()),
        ("a step has 32 tokens, and its parts make 64", |p| p.tables.run["grad_accum"] = 2.into()),
        ("the plan's step reads 32 tokens, its settings have 64", |p| {
            p.tables.run["grad_accum"] = 2.into();
            p.tables.tokens_per_step = 64;
        }),
        ("has another size", |p| {
            let step = p.programs.iter_mut().find(|q| q.name == "train_step").unwrap();
            step.inputs.iter_mut().find(|q| q.name == "labels").unwrap().dtype = "bf16".into();
        }),
    ];
    for (why, change) in changes.iter().copied() {
        let mut plan = Plan::open(&f.join("plan")).unwrap();
        change(&mut plan);
        plan.write(&f.join("damaged")).unwrap();
        fails(f, 3, why, &run);
    }
    // Such plans are not even written.
    let changes: &[Change] = &[
        ("it has no programs", |p| p.programs.clear()),
        (" is not aligned", |p| p.programs[0].inputs[0].offset += 2),
        ("reads numbers that no input has", |p| {
            p.programs.iter_mut().for_each(|q| q.inputs.iter_mut().for_each(|i| i.offset += 64));
        }),
        ("lies over another", |p| {
            let first = p.programs[0].inputs[0].offset;
            p.programs[0].inputs[1].offset = first;
        }),
        ("is not aligned", |p| {
            let eval = p.programs.iter_mut().find(|q| q.name == "eval_step").unwrap();
            let first = eval.body.iter_mut().find_map(|i| match i {
                neoxc_plan::Instr::Launch { args, .. } => args.iter_mut().find(|a| a.segment > 3),
                _ => None,
            });
            first.unwrap().offset += 1;
        }),
        ("has the dtype \"f64\"", |p| p.programs[0].inputs[0].dtype = "f64".into()),
    ];
    for (why, change) in changes.iter().copied() {
        let mut plan = Plan::open(&f.join("plan")).unwrap();
        change(&mut plan);
        let told = plan.check().unwrap_err().to_string();
        assert!(told.contains(why), "{told}");
    }
}

/// A named pipe in the place of a file holds nobody up.
fn pipes(f: &Path) {
    let copy = |from: &str, to: &str| -> PathBuf {
        let made = Command::new("cp").arg("-r").args([from, to]).current_dir(f).status().unwrap();
        assert!(made.success());
        f.join(to)
    };
    let why = "it is a named pipe, not a file";
    copy("plan", "piped");
    pipe(&f.join("piped/manifest.json"));
    fails(f, 5, why, &["run", "--plan", "piped"]);
    fails(f, 5, why, &["dump", "--plan", "piped", "--phase", "model"]);
    for name in ["latest", "global_step2/rank-00000.safetensors"] {
        let folder = copy("ck", "ck-piped");
        pipe(&folder.join(name));
        fails(f, 5, why, &["run", "--plan", "plan", "--save", "ck-piped", "--resume"]);
        std::fs::remove_dir_all(folder).unwrap();
    }
    assert!(Command::new("mkfifo").arg(f.join("pipe")).status().unwrap().success());
    fails(f, 5, why, &["run", "--plan", "plan", "--save", "new", "--metrics", "pipe"]);
    fails(f, 5, why, &["opt", "pipe", "--passes", "list-nothing"]);
    fails(f, 3, "cannot read pipe", &["check", "pipe"]);
    for end in [".bin", ".idx"] {
        copy(&format!("d{end}"), "kept");
        pipe(&f.join(format!("d{end}")));
        fails(f, 5, why, &["run", "--plan", "plan", "--save", "new"]);
        std::fs::remove_file(f.join(format!("d{end}"))).unwrap();
        std::fs::rename(f.join("kept"), f.join(format!("d{end}"))).unwrap();
    }
}

/// `latest` is how one chooses: what it names is taken, or nothing is.
fn checkpoints_that_are_not_there(f: &Path) {
    let resume = ["run", "--plan", "plan", "--resume"];
    std::fs::write(f.join("ck/latest"), "global_step85").unwrap();
    fails(f, 3, "names \"global_step85\", which is no checkpoint of this folder", &resume);
    fails(
        f,
        3,
        "global_step2 is the newest complete one",
        &["generate", "--plan", "plan", "--prompt", "a"],
    );
    std::fs::remove_file(f.join("ck/global_step2/manifest.json")).unwrap();
    std::fs::write(f.join("ck/latest"), "global_step2").unwrap();
    fails(f, 3, "names \"global_step2\", which has no manifest.json", &resume);
}
