//! Every optimizer under layouts and ZeRO stages: losses and weights equal one rank's to f32 rounding, and a run goes on
//! from a checkpoint of another layout. Their updates are held to independent formulas in `optimizers/tests`.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::path::Path;

use common::{all_tensors, data, far, floats, plan, run};
use neoxc_plan::Plan;
use neoxc_runtime::checkpoint::Reader;
use neoxc_runtime::train::{Options, train};

/// Four of everything that ranks divide. Lion steps by signs: only a blend that is all rounding may have another one.
const SHAPE: [&str; 5] = [
    "num_layers=4",
    "num_attention_heads=4",
    "hidden_size=16",
    "train_micro_batch_size_per_gpu=1",
    "train_batch_size=4",
];

const SGD: &str =
    "optimizer={type: SGD, params: {lr: 0.05, momentum: 0.9, dampening: 0.1, nesterov: false}}";
const LION: &str = "optimizer={type: Lion, params: {lr: 0.001, betas: [0.9, 0.99]}}";

/// One rank, and a sample with each axis that divides state and each ZeRO stage.
const LAYOUTS: [&[&str]; 6] = [
    &["world_size=1", "gradient_accumulation_steps=4"],
    &["world_size=2", "gradient_accumulation_steps=2", "zero_optimization={stage: 1}"],
    &[
        "world_size=4",
        "gradient_accumulation_steps=2",
        "model_parallel_size=2",
        "zero_optimization={stage: 2}",
    ],
    &["world_size=2", "gradient_accumulation_steps=2", "zero_optimization={stage: 3}"],
    &["world_size=2", "gradient_accumulation_steps=4", "pipe_parallel_size=2"],
    &[
        "world_size=4",
        "gradient_accumulation_steps=2",
        "pipe_parallel_size=2",
        "zero_optimization={stage: 1}",
    ],
];

fn made(folder: &Path, optimizer: &str, layout: &[&str]) -> Plan {
    plan(folder, &[&SHAPE[..], &[optimizer], layout].concat())
}

fn weights(folder: &Path) -> Vec<(String, Vec<f64>)> {
    let reader = Reader::open(folder).unwrap();
    let state = |name: &str| reader.manifest.state_of(name).is_some();
    let all = all_tensors(folder).into_iter().filter(|(name, _)| !state(name));
    all.map(|(name, bytes)| (name, floats(&bytes))).collect()
}

#[test]
fn other_optimizers_train_the_same_on_every_layout() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    for (optimizer, slots) in [(SGD, &["momentum_buffer"][..]), (LION, &["exp_avg"])] {
        let plans: Vec<Plan> = LAYOUTS.iter().map(|l| made(folder.path(), optimizer, l)).collect();
        assert!(plans.iter().all(|p| p.slots() == slots), "{optimizer}");
        let mut one = vec![];
        for (layout, plan) in LAYOUTS.iter().zip(&plans) {
            let save = folder.path().join("run");
            let got = run(plan, &save, 8, 2, false);
            let losses: Vec<f64> = got.iter().map(|r| f64::from(r.loss)).collect();
            let end = weights(&save.join("global_step8"));
            if one.is_empty() {
                assert!(losses[7] < losses[0], "{optimizer} does not learn: {losses:?}");
                one.push((losses, end));
                continue;
            }
            let what = format!("{optimizer} {layout:?}");
            assert!(far(&losses, &one[0].0) < 1e-4, "{what}: {losses:?} {:?}", one[0].0);
            for ((name, a), (_, b)) in end.iter().zip(&one[0].1) {
                // The key's bias has a gradient that is all rounding.
                let noise = name.contains("query_key_value.bias");
                // A sign that differs moves a weight by two steps; few may.
                let off = a.iter().zip(b).filter(|(a, b)| (*a - *b).abs() > 2e-5).count();
                assert!(noise || off * 100 <= a.len(), "{what}: {off} of {} of {name}", a.len());
            }
        }
        // From layout to layout, with the state that each has left.
        let save = folder.path().join("moved");
        let mut moved = vec![];
        for (n, plan) in plans.iter().enumerate() {
            moved.extend(run(plan, &save, n as u64 + 1, 2, n > 0));
        }
        let losses: Vec<f64> = moved.iter().map(|r| f64::from(r.loss)).collect();
        assert!(far(&losses, &one[0].0[..losses.len()]) < 1e-4, "{optimizer} moved: {losses:?}");
    }
    // A checkpoint of another optimizer is refused by what it holds.
    let lion = made(folder.path(), SGD, LAYOUTS[0]);
    let options = Options {
        steps: Some(9),
        threads: 2,
        save: Some(folder.path().join("run")),
        resume: true,
        allow_changes: true,
        ..Options::default()
    };
    let told = train(&lion, &options, &mut common::Log::default()).unwrap_err().to_string();
    assert!(
        told.contains("has the state exp_avg, the plan's optimizer keeps momentum_buffer"),
        "{told}"
    );
}
