//! Damaged plans, checkpoints and data sets by the thousand. `NEOXC_FUZZ=1000000` makes as many of each
//! (make fuzz); `fuzz/README.md` tells of the guided search.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_fuzz::{CheckpointTarget, DataTarget, GreetingTarget, PlanTarget, Target, YamlTarget};

mod common;

use common::{data, plan};

fn count() -> u64 {
    std::env::var("NEOXC_FUZZ").map_or(1_000, |n| n.parse().unwrap())
}

/// Random choices, from a number that a failure prints; some of what they make must be accepted, and most not.
fn feed(name: &str, target: &dyn Target) {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let mut state = now | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (all, mut accepted) = (count(), 0);
    for n in 0..all {
        let bytes: Vec<u8> = (0..24).flat_map(|_| next().to_le_bytes()).collect();
        let run = std::panic::AssertUnwindSafe(|| target.run(&bytes));
        match std::panic::catch_unwind(run) {
            Ok(good) => accepted += u64::from(good),
            Err(_) => panic!("{name}, run {n}: {bytes:?}"),
        }
    }
    eprintln!("{name}: {accepted} of {all} accepted");
    assert!(accepted > 0 && accepted < all * 3 / 4, "{name}: {accepted} of {all}");
}

#[test]
fn damaged_data_sets() {
    feed("data", &DataTarget::new().unwrap());
}

#[test]
fn damaged_configurations() {
    feed("yaml", &YamlTarget::new().unwrap());
}

#[test]
fn strangers_greetings() {
    feed("greeting", &GreetingTarget::new());
}

#[test]
fn damaged_plans() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let sets = ["world_size=2", "pipe_parallel_size=2", "num_layers=2"];
    for sets in [&sets[..], &["num_layers=1"]] {
        feed("plan", &PlanTarget::new(plan(folder.path(), sets)));
    }
}

#[test]
fn damaged_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let sets = ["world_size=2", "model_parallel_size=2", "num_layers=1", "num_attention_heads=2"];
    feed("checkpoint", &CheckpointTarget::new(plan(folder.path(), &sets)).unwrap());
}
