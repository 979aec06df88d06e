//! A small model, data that it can learn, and the way through compiler and runtime.
#![allow(dead_code)] // each test uses its part

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use neoxc_driver::{Options, compile};
use neoxc_ir::cluster::Machine;
use neoxc_ir::target::Target;
use neoxc_plan::Plan;
use neoxc_runtime::checkpoint::Reader;
use neoxc_runtime::data::IndexedWriter;
use neoxc_runtime::data::idx::TokenType;
use neoxc_runtime::train::{self, Observer, StepReport, train};

pub const MODEL: &str = r#"{
  "num_layers": 2, "hidden_size": 24, "num_attention_heads": 3, "seq_length": 13,
  "max_position_embeddings": 16, "padded_vocab_size": 64, "pos_emb": "rotary", "rotary_pct": 0.5,
  "no_weight_tying": true, "gpt_j_residual": true, "train_micro_batch_size_per_gpu": 2,
  "gradient_accumulation_steps": 2, "train_iters": 6, "eval_interval": 3, "eval_iters": 2,
  "split": "80,20,0", "warmup": 0.1, "lr_decay_style": "cosine",
  "optimizer": {"type": "Adam", "params": {"lr": 0.01, "betas": [0.9, 0.95]}},
}"#;

/// Where kernels of all tests are kept: models and layouts share most of them, and most of a test's time is LLVM's.
/// (`tools/neoxc/tests/processes.rs` has the same place.)
pub fn kernels() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels")
}

pub fn plan(folder: &Path, extra: &[&str]) -> Plan {
    plan_with(folder, extra, true)
}

pub fn plan_with(folder: &Path, extra: &[&str], overlap: bool) -> Plan {
    let file = folder.join("model.yml");
    std::fs::write(&file, MODEL).unwrap();
    let mut sets = vec![format!("data_path={}", folder.join("d").display())];
    sets.extend(extra.iter().map(|s| s.to_string()));
    let loaded = neoxc_frontend::load(&[file], None, &sets);
    let config = loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
    let cache = Some(kernels());
    let targets = vec![Target::X86Native];
    // Links without latency: the collectives of these models are as worthwhile as those of large ones.
    let mut machine = Machine::of(Target::X86Native);
    machine.within.latency = 0.0;
    let options = Options { targets, cache, threads: 2, machine: Some(machine), overlap };
    compile(&config, &options).unwrap().plan
}

/// Ten documents of ids `first .. first + 8`: something to learn in a few steps.
pub fn data(folder: &Path, first: u32) {
    let mut w = IndexedWriter::create(&folder.join("d"), TokenType::U16, true).unwrap();
    for n in 0..10 {
        let tokens: Vec<u32> = (0..40 + n).map(|i| first + (i * 3 + n) % 8).collect();
        w.document(&tokens).unwrap();
    }
    w.finish().unwrap();
}

#[derive(Default)]
pub struct Log(pub Vec<StepReport>, pub Vec<String>);

impl Observer for Log {
    fn start(&mut self, _step: u64, _steps: u64) {}
    fn step(&mut self, report: &StepReport, _steps: u64) {
        self.0.push(report.clone());
    }
    fn evaluated(&mut self, _step: u64, loss: f64) {
        assert!(loss.is_finite());
    }
    fn saved(&mut self, _path: &Path) {}
    fn warn(&mut self, message: &str) {
        self.1.push(message.to_string());
    }
}

pub fn run(plan: &Plan, save: &Path, steps: u64, threads: usize, resume: bool) -> Vec<StepReport> {
    let mut log = Log::default();
    let options = train::Options {
        steps: Some(steps),
        threads,
        save: Some(save.to_path_buf()),
        resume,
        // A test's folders are its own: some begin anew in one.
        force: true,
        ..train::Options::default()
    };
    train(plan, &options, &mut log).unwrap();
    log.0
}

/// Every tensor of a checkpoint, whole, by name.
pub fn all_tensors(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let reader = Reader::open(folder).unwrap();
    let names = reader.manifest.tensors.keys();
    names
        .map(|name| {
            let mut whole = vec![];
            reader.read(name, &mut whole).unwrap();
            (name.clone(), whole)
        })
        .collect()
}

/// The numbers of a tensor of f32.
pub fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap()))).collect()
}

/// How far a tensor is from another one at most: an element's distance, of the element itself where that
/// is above 1.
pub fn far(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max)
}

/// `neoxc-run`, built beside the tests, without MPI; once for all tests of a process, which run side by side.
pub fn runtime() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build_runtime).clone()
}

fn build_runtime() -> PathBuf {
    // target/debug/deps/TEST-…
    let deps = std::env::current_exe().unwrap();
    let folder = deps.parent().and_then(Path::parent).unwrap().to_path_buf();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "neoxc-runtime", "--bin", "neoxc-run"])
        .arg("--no-default-features")
        .arg("--target-dir")
        .arg(folder.parent().unwrap())
        .args((folder.file_name().unwrap() == "release").then_some("--release"))
        .status()
        .unwrap();
    assert!(built.success());
    // Whoever builds it next with MPI gives it the same name.
    let (own, new) = (folder.join("neoxc-run-alone"), folder.join("neoxc-run-alone.new"));
    std::fs::copy(folder.join("neoxc-run"), &new).unwrap();
    std::fs::rename(new, &own).unwrap();
    own
}
