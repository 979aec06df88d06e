//! The same training on every mesh of ranks: losses and weights equal one rank's to f32 rounding, runs
//! repeat to the bit, checkpoints do not know who wrote them.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::path::Path;

use common::{data, plan, run};
use neoxc_runtime::train::StepReport;

/// Four heads and an even MLP, so that up to four tensor ranks divide them; a learning rate at which
/// rounding is not blown up from step to step.
const SHAPE: [&str; 5] = [
    "num_attention_heads=4",
    "hidden_size=32",
    "train_batch_size=8",
    "seq_length=12",
    "optimizer.params.lr=0.003",
];

fn tensors(folder: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let floats =
        |b: &[u8]| b.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
    let mut all: Vec<(String, Vec<f32>)> =
        file.tensors().into_iter().map(|(n, v)| (n, floats(v.data()))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Settings of a mesh: a step has the same eight sequences on all of them.
fn mesh(data: usize, tensor: usize, stage: usize) -> Vec<String> {
    vec![
        format!("zero_optimization={{\"stage\": {stage}}}"),
        format!("world_size={}", data * tensor),
        format!("model_parallel_size={tensor}"),
        format!("gradient_accumulation_steps={}", 4 / data),
    ]
}

fn close(a: &[StepReport], b: &[StepReport], what: &str) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a.loss - b.loss).abs() < 2e-5, "{what} step {}: {} {}", a.step, a.loss, b.loss);
        assert!((a.grad_norm / b.grad_norm - 1.0).abs() < 1e-4, "{what} step {}", a.step);
        assert_eq!((&a.samples, a.tokens), (&b.samples, b.tokens), "{what}");
    }
}

#[test]
fn every_mesh_trains_the_same() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let variants: [&[&str]; 2] =
        [&[], &["gpt_j_residual=false", "no_weight_tying=false", "checkpoint_activations=true"]];
    for (v, variant) in variants.iter().enumerate() {
        let train = |d: usize, t: usize, stage: usize, name: &str| {
            let mut more = mesh(d, t, stage);
            more.push(format!("sequence_parallel={}", name == "sequence"));
            let sets: Vec<&str> = SHAPE
                .iter()
                .chain(*variant)
                .copied()
                .chain(more.iter().map(String::as_str))
                .collect();
            let made = plan(folder.path(), &sets);
            assert_eq!(made.ranks() as usize, d * t);
            let save = folder.path().join(format!("{v}-{name}"));
            let first = run(&made, &save, 6, 2, false);
            let again = run(&made, &folder.path().join("again"), 6, 2, false);
            let bits = |r: &[StepReport]| {
                r.iter().map(|r| (r.loss.to_bits(), r.grad_norm.to_bits())).collect::<Vec<_>>()
            };
            assert_eq!(bits(&first), bits(&again), "{d} × {t} ranks do not repeat");
            (first, save.join("global_step6"))
        };
        let (want, saved) = train(1, 1, 0, "one");
        for (d, t, stage, sequence) in [
            (2, 1, 0, false),
            (1, 2, 0, true),
            (2, 2, 3, false),
            (1, 4, 0, false),
            (2, 4, 2, true),
            (4, 1, 1, false),
        ] {
            let what = format!("{variant:?} on {d} data × {t} tensor ranks, ZeRO {stage}");
            let name = if sequence { "sequence" } else { "many" };
            let (got, folder) = train(d, t, stage, name);
            close(&got, &want, &what);
            for ((name, a), (_, b)) in tensors(&folder).iter().zip(&tensors(&saved)) {
                // Softmax does not see a constant added to all keys: the key's bias is noise.
                if name.contains("query_key_value.bias") {
                    continue;
                }
                let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
                assert!(worst < 2e-4, "{what}: {name} differs by {worst}");
            }
        }
    }
}

/// Settings of a pipeline over a mesh.
fn pipeline(pipe: usize, data: usize, tensor: usize, stage: usize, schedule: &str) -> Vec<String> {
    let mut sets = mesh(data, tensor, stage);
    sets[1] = format!("world_size={}", pipe * data * tensor);
    sets.push(format!("pipe_parallel_size={pipe}"));
    sets.push(format!("pipe_schedule={schedule}"));
    sets.push(format!("sequence_parallel={}", tensor > 1));
    sets
}

#[test]
fn every_pipeline_trains_the_same() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let variants: [&[&str]; 2] = [
        &["num_layers=4"],
        &["num_layers=4", "gpt_j_residual=false", "no_weight_tying=false", "pos_emb=learned"],
    ];
    for (v, variant) in variants.iter().enumerate() {
        let train = |more: Vec<String>, name: &str| {
            let sets: Vec<&str> = SHAPE
                .iter()
                .chain(*variant)
                .copied()
                .chain(more.iter().map(String::as_str))
                .collect();
            let made = plan(folder.path(), &sets);
            let save = folder.path().join(format!("{v}-{name}"));
            let first = run(&made, &save, 6, 2, false);
            let again = run(&made, &folder.path().join("again"), 6, 2, false);
            let bits = |r: &[StepReport]| {
                r.iter().map(|r| (r.loss.to_bits(), r.grad_norm.to_bits())).collect::<Vec<_>>()
            };
            assert_eq!(bits(&first), bits(&again), "{name} does not repeat");
            (first, save.join("global_step6"))
        };
        let (want, saved) = train(mesh(1, 1, 0), "one");
        for (p, d, t, stage, schedule) in [
            (2, 1, 1, 0, "1f1b"),
            (4, 1, 1, 0, "gpipe"),
            (4, 1, 1, 0, "1f1b"),
            (2, 2, 2, 3, "1f1b"),
            (2, 4, 1, 2, "gpipe"),
        ] {
            let what = format!("{variant:?}: {p} stages × {d} data × {t} tensor, {schedule}");
            let (got, folder) = train(pipeline(p, d, t, stage, schedule), "many");
            close(&got, &want, &what);
            for ((name, a), (_, b)) in tensors(&folder).iter().zip(&tensors(&saved)) {
                if name.contains("query_key_value.bias") {
                    continue;
                }
                let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
                assert!(worst < 2e-4, "{what}: {name} differs by {worst}");
            }
        }
    }
}

#[test]
fn a_checkpoint_goes_on_in_another_layout() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let made = |p: usize, d: usize, t: usize, stage: usize| {
        let more = pipeline(p, d, t, stage, "1f1b");
        let sets: Vec<&str> =
            SHAPE.iter().copied().chain(more.iter().map(String::as_str)).collect();
        plan(folder.path(), &sets)
    };
    let want = run(&made(1, 1, 1, 0), &folder.path().join("one"), 6, 2, false);
    let save = folder.path().join("moved");
    let mut got = run(&made(2, 1, 2, 0), &save, 2, 2, false);
    got.extend(run(&made(1, 2, 2, 3), &save, 4, 2, true));
    got.extend(run(&made(1, 1, 1, 0), &save, 6, 2, true));
    close(&got, &want, "moved from layout to layout");
}
