//! `neoxc-run`: the runtime alone, as it is taken to a machine without a compiler.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::process::Command;

mod common;

use common::{data, plan, runtime};

#[test]
fn a_plan_trains_without_a_compiler() {
    let binary = runtime();
    // It links no compiler and no MPI: the names of their libraries are nowhere in the file.
    let bytes = std::fs::read(&binary).unwrap();
    for name in ["libLLVM", "libMLIR", "LLVMContextCreate", "mlirContextCreate", "libmpi"] {
        assert!(!bytes.windows(name.len()).any(|w| w == name.as_bytes()), "{name} is linked");
    }
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let made = plan(folder.path(), &[]);
    let path = folder.path().join("plan");
    made.write(&path).unwrap();
    let run = |steps: &str, more: &[&str]| {
        Command::new(&binary)
            .args(["--plan", path.to_str().unwrap(), "--steps", steps, "--threads", "2"])
            .arg("--save")
            .arg(folder.path().join("save"))
            .arg("--metrics")
            .arg(folder.path().join("metrics.jsonl"))
            .args(more)
            .output()
            .unwrap()
    };
    let out = run("2", &[]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let out = run("4", &["--resume"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("step 4: training loss "));
    let lines = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let losses: Vec<f32> = lines
        .lines()
        .map(|l| {
            serde_json::from_str::<serde_json::Value>(l).unwrap()["loss"].as_f64().unwrap() as f32
        })
        .collect();
    // The same numbers as the runtime called as a library.
    let direct: Vec<f32> = common::run(&made, &folder.path().join("direct"), 4, 1, false)
        .iter()
        .map(|r| r.loss)
        .collect();
    assert_eq!(losses, direct);
    // Started by mpirun, it says what it lacks.
    let mut command = Command::new(&binary);
    command.args(["--plan", path.to_str().unwrap()]).env("OMPI_COMM_WORLD_RANK", "0");
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("built without MPI"));
    // Damage is named, and nothing is run.
    let program = path.join("programs/train_step.txt");
    let mut text = std::fs::read(&program).unwrap();
    text[10] ^= 1;
    std::fs::write(&program, text).unwrap();
    let out = run("4", &[]);
    assert_eq!(out.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&out.stderr).contains("train_step.txt"));
}
