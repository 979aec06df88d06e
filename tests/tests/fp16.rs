//! Training with fp16 from the configuration on: overflows are skipped by all ranks, the loss scale follows DeepSpeed's
//! rules, the schedule waits, and a run goes on from a checkpoint with the same bits.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::path::Path;

use common::{all_tensors, data, plan, run};
use neoxc_plan::Plan;
use neoxc_runtime::checkpoint;
use neoxc_runtime::train::{Options, StepReport, train};

/// Overflows at first: gradients of a fresh model are far above 65504 / 2^32.
const FP16: &str =
    "fp16={enabled: true, initial_scale_power: 32, loss_scale_window: 3, min_loss_scale: 1}";

fn key(r: &[StepReport]) -> Vec<(u32, u32, u64, bool)> {
    let of = |r: &StepReport| {
        (r.loss.to_bits(), r.grad_norm.to_bits(), r.loss_scale.to_bits(), r.skipped)
    };
    r.iter().map(of).collect()
}

/// The scales that DeepSpeed's rule without ZeRO makes of these overflows.
fn scales(skipped: &[bool], window: i64) -> Vec<f64> {
    let (mut scale, mut last) = (2f64.powi(32), -1i64);
    let mut all = vec![];
    for (i, skip) in (0i64..).zip(skipped) {
        all.push(scale);
        let stable = i - last - 1;
        if *skip {
            (scale, last) = ((scale / 2.0).max(1.0), i);
        } else if stable > 0 && stable % window == 0 {
            scale *= 2.0;
        }
    }
    all
}

fn weights(folder: &Path, step: u64) -> Vec<(String, Vec<u8>)> {
    all_tensors(&folder.join(format!("global_step{step}")))
}

#[test]
fn overflows_are_skipped_until_the_scale_fits_and_training_goes_on() {
    const STEPS: u64 = 36;
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let at = |name: &str| folder.path().join(name);
    let saves = ["extra_save_iters=[0, 2]", "train_iters=36"];
    let narrow = plan(folder.path(), &[&[FP16][..], &saves].concat());
    let got = run(&narrow, &at("narrow"), STEPS, 2, false);
    let skipped: Vec<bool> = got.iter().map(|r| r.skipped).collect();
    let first = skipped.iter().position(|s| !s).unwrap();
    assert!(first >= 3, "{skipped:?}");
    // The scale grows back to where gradients overflow, again and again.
    assert!(skipped[first..].iter().any(|s| *s), "{skipped:?}");
    let told: Vec<f64> = got.iter().map(|r| r.loss_scale).collect();
    assert_eq!(told, scales(&skipped, 3));
    for (n, r) in got.iter().enumerate() {
        assert_eq!(r.skipped, !r.grad_norm.is_finite() || !r.loss.is_finite(), "{n}");
        assert_eq!(r.skipped_steps, skipped[..=n].iter().filter(|s| **s).count() as u64);
    }
    // Nothing changed in the first two steps: neither weights nor optimizer state.
    assert_eq!(weights(&at("narrow"), 0), weights(&at("narrow"), 2));
    // Rates are those of a run that made only the steps that count.
    let wide = plan(folder.path(), &saves);
    let want = run(&wide, &at("wide"), STEPS, 2, false);
    let counted: Vec<&StepReport> = got.iter().filter(|r| !r.skipped).collect();
    for (a, b) in counted.iter().zip(&want) {
        assert_eq!(a.lr, b.lr);
    }
    // The data is consumed: a step reads what that of f32 reads, and its norm is that without the scale.
    for (a, b) in got.iter().zip(&want) {
        assert_eq!(a.samples, b.samples);
    }
    let (last, start) = (counted.last().unwrap(), counted[0]);
    assert!((start.loss - want[0].loss).abs() < 0.05, "{} {}", start.loss, want[0].loss);
    assert!(last.loss < start.loss - 1.0, "{} {}", start.loss, last.loss);
    // As often as one likes, on any number of threads, and from a checkpoint amid overflows.
    assert_eq!(key(&got), key(&run(&narrow, &at("threads"), STEPS, 3, false)));
    let mut parts = run(&narrow, &at("parts"), 2, 1, false);
    parts.extend(run(&narrow, &at("parts"), first as u64 + 5, 2, true));
    parts.extend(run(&narrow, &at("parts"), STEPS, 2, true));
    assert_eq!(key(&got), key(&parts));
    let saved = checkpoint::manifest(&at("parts/global_step36")).unwrap().scaling.unwrap();
    assert_eq!(saved.skipped, got[35].skipped_steps);
    // A line of the metrics file says all of it.
    let line = serde_json::to_value(&got[0]).unwrap();
    assert_eq!(line["loss_scale"], 2f64.powi(32));
    assert!(line["skipped"] == true && line["skipped_steps"] == 1, "{line}");
}

/// Ranks decide alike: the steps that one rank skips, all ranks of any layout do, and a run goes on under another one
/// where the scale was.
#[test]
fn all_ranks_skip_what_one_rank_does() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let at = |name: &str| folder.path().join(name);
    let base = [
        "fp16={enabled: true, initial_scale_power: 32, loss_scale_window: 3}",
        "num_layers=4",
        "num_attention_heads=4",
        "hidden_size=32",
        "seq_length=12",
    ];
    let made = |more: &[&str]| plan(folder.path(), &[&base[..], more].concat());
    let one = made(&[]);
    let want = run(&one, &at("one"), 24, 2, false);
    let zero = |n: usize| format!("zero_optimization.stage={n}");
    let (first, third) = (zero(1), zero(3));
    let layouts: [(&str, &[&str]); 5] = [
        ("tensor", &["world_size=2", "model_parallel_size=2", "sequence_parallel=true"]),
        ("data", &["world_size=2", "gradient_accumulation_steps=1"]),
        ("sharded", &["world_size=2", "gradient_accumulation_steps=1", &first]),
        ("divided", &["world_size=2", "gradient_accumulation_steps=1", &third]),
        ("stages", &["world_size=4", "pipe_parallel_size=2", "model_parallel_size=2"]),
    ];
    for (name, sets) in layouts {
        let many = made(sets);
        let got = run(&many, &at(name), 24, 2, false);
        // With ZeRO the first overflow leaves the scale as it is.
        let patience = usize::from(name == "sharded" || name == "divided");
        assert_eq!(got[1].loss_scale, 2f64.powi(if patience > 0 { 32 } else { 31 }), "{name}");
        let good = |r: &[StepReport]| r.iter().position(|r| !r.skipped).unwrap();
        let (a, b) = (good(&want), good(&got));
        // A scale at which the largest gradient is nearly too large may fit one layout and not another.
        assert!((a + patience).abs_diff(b) <= 1, "{name}: {a} {b}");
        let last = |r: &[StepReport]| r.iter().rev().find(|r| !r.skipped).unwrap().loss;
        assert!((last(&want) - last(&got)).abs() < 0.1 * last(&want), "{name}");
    }
    // From one rank to four and back, each time with the scale that the run had.
    let narrow = made(layouts[4].1);
    let mut parts = run(&one, &at("moved"), 6, 2, false);
    for (plan, to) in [(&narrow, 12), (&one, 18)] {
        parts.extend(run(plan, &at("moved"), to, 2, true));
    }
    let skipped: Vec<bool> = parts.iter().map(|r| r.skipped).collect();
    let told: Vec<f64> = parts.iter().map(|r| r.loss_scale).collect();
    assert_eq!(told, scales(&skipped, 3));
}

#[test]
fn experts_and_recomputation_train_with_fp16() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let at = |name: &str| folder.path().join(name);
    let experts = ["moe_num_experts=4", "moe_router_type=topk", "moe_top_k=2"];
    let ranks = ["world_size=2", "moe_expert_parallel_size=2", "train_micro_batch_size_per_gpu=1"];
    let again = ["checkpoint_activations=true", "hidden_dropout=0.1"];
    for (name, sets, more) in [
        ("experts", &experts[..], &[][..]),
        ("expert ranks", &experts, &ranks),
        ("again", &again, &[]),
    ] {
        let with = [sets, more, &["fp16={enabled: true, initial_scale_power: 10}"]].concat();
        let got = run(&plan(folder.path(), &with), &at(name), 3, 2, false);
        let want = run(&plan(folder.path(), sets), &at("wide"), 3, 2, false);
        for (a, b) in want.iter().zip(&got) {
            assert!(!b.skipped && b.loss_scale == 1024.0, "{name}");
            assert!((a.loss - b.loss).abs() < 0.01 * a.loss, "{name}: {} {}", a.loss, b.loss);
            assert!((a.grad_norm - b.grad_norm).abs() < 0.05 * a.grad_norm, "{name}: {a:?} {b:?}");
        }
    }
}

#[test]
fn an_overflow_at_the_least_scale_ends_a_run_with_zero_and_not_without() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let at = |name: &str| folder.path().join(name);
    let least = "fp16={enabled: true, initial_scale_power: 32, min_loss_scale: 4294967296}";
    let attempt = |plan: &Plan, name: &str| {
        let options =
            Options { steps: Some(6), threads: 2, save: Some(at(name)), ..Options::default() };
        let mut log = common::Log::default();
        (train(plan, &options, &mut log).map_err(|e| (e.code(), e.message())), log.0.len())
    };
    // The first overflow takes the patience, the second one ends it.
    let (ended, steps) =
        attempt(&plan(folder.path(), &[least, "zero_optimization.stage=1"]), "zero");
    let (code, message) = ended.unwrap_err();
    assert_eq!((code, steps), ("NXR0405", 1));
    assert!(message.contains("step 2") && message.contains("4294967296"), "{message}");
    let (ended, steps) = attempt(&plan(folder.path(), &[least]), "none");
    assert!(ended.is_ok());
    assert_eq!(steps, 6);
    // A fixed scale never moves.
    let fixed = plan(folder.path(), &["fp16={enabled: true, loss_scale: 512}"]);
    let got = run(&fixed, &at("fixed"), 4, 2, false);
    assert!(got.iter().all(|r| r.loss_scale == 512.0 && !r.skipped), "{got:?}");
}
