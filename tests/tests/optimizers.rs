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

/// An optimizer under test.
struct Row {
    /// What the configuration says of it.
    optimizer: &'static str,
    /// The state that it keeps.
    slots: &'static [&'static str],
    /// Which of [`LAYOUTS`] `make test` trains it under, beside one rank: `NEOXC_LAYOUTS=all` takes all of them.
    layouts: &'static [usize],
}

const SGD: &str =
    "optimizer={type: SGD, params: {lr: 0.05, momentum: 0.9, dampening: 0.1, nesterov: false}}";

const ROWS: [Row; 5] = [
    Row { optimizer: SGD, slots: &["momentum_buffer"], layouts: &[1, 3, 4] },
    Row {
        optimizer: "optimizer={type: Lion, params: {lr: 0.001, betas: [0.9, 0.99]}}",
        slots: &["exp_avg"],
        layouts: &[1, 2, 3, 4, 5],
    },
    Row {
        optimizer: "optimizer={type: cpu_adam, params: {lr: 0.002, betas: [0.9, 0.95], eps: 1.0e-6, adam_w_mode: false}}",
        slots: &["exp_avg", "exp_avg_sq"],
        layouts: &[2],
    },
    Row {
        optimizer: "optimizer={type: madgrad_wd, params: {lr: 0.002, eps: 1.0e-4}}",
        slots: &["grad_sum", "grad_sum_sq", "first_weights"],
        layouts: &[3],
    },
    Row {
        optimizer: "optimizer={type: Muon, params: {lr: 0.01, momentum: 0.9, adjust_lr_fn: match_rms_adamw, betas: [0.9, 0.95]}}",
        slots: &["momentum_buffer", "exp_avg", "exp_avg_sq"],
        layouts: &[2, 5],
    },
];

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

/// One optimizer under its layouts, and from layout to layout with the state that each has left.
fn same_on_every_layout(folder: &Path, row: &Row) {
    let optimizer = row.optimizer;
    let all = std::env::var("NEOXC_LAYOUTS").is_ok_and(|v| v == "all");
    let taken = |n: &usize| all || *n == 0 || row.layouts.contains(n);
    let layouts: Vec<&[&str]> = (0..LAYOUTS.len()).filter(taken).map(|n| LAYOUTS[n]).collect();
    let plans: Vec<Plan> = layouts.iter().map(|l| made(folder, optimizer, l)).collect();
    assert!(plans.iter().all(|p| p.slots() == row.slots), "{optimizer}");
    let mut one = vec![];
    for (layout, plan) in layouts.iter().zip(&plans) {
        let save = folder.join("run");
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
    let save = folder.join("moved");
    let mut moved = vec![];
    for (n, plan) in plans.iter().enumerate() {
        moved.extend(run(plan, &save, n as u64 + 1, 2, n > 0));
    }
    let losses: Vec<f64> = moved.iter().map(|r| f64::from(r.loss)).collect();
    assert!(far(&losses, &one[0].0[..losses.len()]) < 1e-4, "{optimizer} moved: {losses:?}");
}

#[test]
fn optimizers_train_the_same_on_every_layout() {
    let only = std::env::var("NEOXC_OPTIMIZER").unwrap_or_default();
    for row in ROWS.iter().filter(|r| r.optimizer.contains(&only)) {
        let folder = tempfile::tempdir().unwrap();
        data(folder.path(), 0);
        same_on_every_layout(folder.path(), row);
    }
}

#[test]
fn a_checkpoint_of_another_optimizer_is_refused_by_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let save = folder.path().join("run");
    run(&made(folder.path(), ROWS[1].optimizer, LAYOUTS[0]), &save, 1, 2, false);
    let sgd = made(folder.path(), SGD, LAYOUTS[0]);
    let options = Options {
        steps: Some(9),
        threads: 2,
        save: Some(save),
        resume: true,
        allow_changes: true,
        ..Options::default()
    };
    let told = train(&sgd, &options, &mut common::Log::default()).unwrap_err().to_string();
    assert!(
        told.contains("has the state exp_avg, the plan's optimizer keeps momentum_buffer"),
        "{told}"
    );
}

/// Parameters of a group take steps of its rate and decay, and all others the steps that they took without.
#[test]
fn groups_of_parameters_have_their_own_rate_and_decay() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let after = |groups: &str| {
        let groups = format!("param_groups={groups}");
        let sgd = "optimizer={type: SGD, params: {lr: 0.05}}";
        let more = [sgd, groups.as_str(), "weight_decay=0.5", "gradient_clipping=0", "warmup=0"];
        let plan = plan(folder.path(), &[&SHAPE[..], &more, LAYOUTS[3]].concat());
        let save = folder.path().join("groups");
        run(&plan, &save, 1, 2, false);
        weights(&save.join("global_step1"))
    };
    let start = after("[{params: '*', lr_scale: 0.0}]");
    let usual = after("[]");
    let grouped = after(
        "[{params: '*.attention.dense.*', lr_scale: 0.5, weight_decay: 0.25}, {params: '*.attention.*', lr_scale: 2}]",
    );
    for (((name, w), (_, usual)), (_, grouped)) in start.iter().zip(&usual).zip(&grouped) {
        let (rate, decay) = match () {
            () if name.contains(".attention.dense.") => (0.5, 0.25),
            () if name.contains(".attention.") => (2.0, 0.5),
            () => (1.0, 0.5),
        };
        let decays = name.ends_with(".weight") && !name.contains("norm");
        let of = |decay: f64| if decays { 0.05 * decay } else { 0.0 };
        for ((w, usual), grouped) in w.iter().zip(usual).zip(grouped) {
            let gradient = w - usual - of(0.5) * w;
            let want = w - rate * (gradient + of(decay) * w);
            assert!((grouped - want).abs() < 1e-6, "{name}: {grouped} {want}");
            assert!(rate == 1.0 || gradient == 0.0 || grouped != usual, "{name} has no group");
        }
    }
}
