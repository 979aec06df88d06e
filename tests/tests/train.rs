//! The whole road in small: configuration → plan → training → checkpoint → resume, on real kernels.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::Path;

use neoxc_plan::Plan;
use neoxc_runtime::RuntimeError;
use neoxc_runtime::checkpoint;
use neoxc_runtime::ranks::Ranks;
use neoxc_runtime::train::{self, StepReport, train};

mod common;

use common::{Log, data, plan, run};

fn key(r: &[StepReport]) -> Vec<(u64, u32, u32, Vec<u32>)> {
    r.iter().map(|r| (r.step, r.loss.to_bits(), r.grad_norm.to_bits(), r.samples.clone())).collect()
}

#[test]
fn training_repeats_to_the_bit_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let plan = plan(folder.path(), &[]);
    let at = |name: &str| folder.path().join(name);
    let whole = run(&plan, &at("whole"), 6, 2, false);
    assert_eq!(whole.len(), 6);
    assert!((whole[0].loss - (64f32).ln()).abs() < 0.3, "{}", whole[0].loss);
    assert!(whole[5].loss < whole[0].loss - 0.3);
    assert_eq!(key(&whole), key(&run(&plan, &at("threads"), 6, 3, false)));
    let mut halves = run(&plan, &at("parts"), 2, 1, false);
    halves.extend(run(&plan, &at("parts"), 6, 2, true));
    assert_eq!(key(&whole), key(&halves));
    for file in ["manifest.json", "rank-00000.safetensors"] {
        let read = |run: &str| std::fs::read(at(run).join("global_step6").join(file)).unwrap();
        assert_eq!(read("whole"), read("parts"), "{file}");
    }
}

/// As in GPT-NeoX without a checkpoint, unless one is due.
#[test]
fn a_run_ends_at_its_exit_interval() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let plan =
        plan(folder.path(), &["num_layers=1", "train_iters=8", "eval_iters=0", "exit_interval=3"]);
    let save = folder.path().join("saved");
    assert_eq!(run(&plan, &save, 3, 1, false).len(), 3);
    let resumed = run(&plan, &save, 8, 1, true);
    assert_eq!(resumed.iter().map(|r| r.step).collect::<Vec<_>>(), [4, 5, 6]);
    assert!(save.join("global_step3").exists() && !save.join("global_step6").exists());
}

/// Ended and gone on after each of 50 steps, beyond the last epoch's end: the same samples, the same bits. A step
/// of another size goes on with the sample that is next.
#[test]
fn a_run_can_stop_after_any_step() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    // Both draw 80 samples, and so in the same order.
    let plans = [("1", "40"), ("4", "10")].map(|(accum, iters)| {
        let (accum, iters) =
            (format!("gradient_accumulation_steps={accum}"), format!("train_iters={iters}"));
        let keep = "keep_last_n_checkpoints=1";
        plan(folder.path(), &["num_layers=1", keep, "eval_iters=0", &accum, &iters])
    });
    let mut wholes = vec![];
    for (n, made) in plans.iter().enumerate() {
        let at = |name: &str| folder.path().join(format!("{name}{n}"));
        let whole = run(made, &at("whole"), 50, 1, false);
        let mut drawn: Vec<u32> = whole.iter().flat_map(|r| r.samples.clone()).collect();
        assert_eq!(drawn.len(), 100 * (1 + 3 * n));
        drawn.sort_unstable();
        drawn.dedup();
        assert!((80..100).contains(&drawn.len()), "{}", drawn.len());
        let steps: Vec<StepReport> =
            (1..=50).flat_map(|step| run(made, &at("steps"), step, 1, step > 1)).collect();
        assert_eq!(key(&whole), key(&steps));
        wholes.push(whole);
    }
    let save = folder.path().join("mixed");
    run(&plans[0], &save, 4, 1, false);
    assert_eq!(run(&plans[1], &save, 5, 1, true)[0].samples, wholes[1][1].samples);
    assert_eq!(run(&plans[0], &save, 6, 1, true)[0].samples, wholes[0][8].samples);
}

/// Masks depend on seed and sample alone: not on threads, on stopping in between, on recomputation, on how a
/// step is divided into micro-batches; and evaluation knows nothing of them.
#[test]
fn dropout_repeats_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let drop = ["hidden_dropout=0.2", "attention_dropout=0.3", "num_layers=4"];
    let made = |more: &[&str]| plan(folder.path(), &[&drop[..], more].concat());
    let at = |name: &str| folder.path().join(name);
    let (one, none) = (made(&[]), plan(folder.path(), &["num_layers=4"]));
    let whole = run(&one, &at("whole"), 6, 2, false);
    assert_eq!(key(&whole), key(&run(&one, &at("threads"), 6, 3, false)));
    let mut halves = run(&one, &at("parts"), 2, 1, false);
    halves.extend(run(&one, &at("parts"), 6, 2, true));
    assert_eq!(key(&whole), key(&halves));
    let again = made(&["checkpoint_activations=true"]);
    assert_eq!(key(&whole), key(&run(&again, &at("again"), 6, 2, false)));
    let groups = made(&["checkpoint_activations=true", "checkpoint_num_layers=2"]);
    assert_eq!(key(&whole), key(&run(&groups, &at("groups"), 6, 2, false)));
    // Sums over a step have another order, and each micro-batch's mean counts alike.
    let micro = ["train_micro_batch_size_per_gpu=1", "gradient_accumulation_steps=4"];
    for (a, b) in run(&made(&micro), &at("micro"), 6, 2, false).iter().zip(&whole) {
        assert!((a.loss - b.loss).abs() < 2e-5 * b.loss, "{} {}", a.loss, b.loss);
    }
    // It is a regulariser: it changes the loss, and another seed changes it otherwise.
    let plain = run(&none, &at("plain"), 6, 2, false);
    assert_eq!(plain[0].samples, whole[0].samples);
    assert!((plain[0].loss - whole[0].loss).abs() > 1e-4);
    assert!(whole[5].loss < whole[0].loss - 0.2, "{} {}", whole[0].loss, whole[5].loss);
    // Weights that stay as they start: validation gives the same bits with dropout and without.
    let valid = |more: &[&str]| {
        let still =
            plan(folder.path(), &[&["num_layers=4", "optimizer.params.lr=1.0e-30"], more].concat());
        let options = train::Options { steps: Some(1), threads: 2, ..train::Options::default() };
        let mut log = Log::default();
        let summary = train(&still, &options, &mut log).unwrap();
        (summary.valid_loss.map(f64::to_bits), log.0[0].loss)
    };
    let (with, without) = (valid(&drop), valid(&[]));
    assert!(with.0.is_some());
    assert_eq!(with.0, without.0);
    assert!((with.1 - without.1).abs() > 1e-4);
}

#[test]
fn plans_survive_the_disk_and_layouts_of_the_residual_train() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let variants: [&[&str]; 3] = [
        &["gpt_j_residual=false", "no_weight_tying=false", "bias_gelu_fusion=true"],
        &["pos_emb=learned", "checkpoint_activations=true"],
        &["pos_emb=none", "use_bias_in_mlp=false", "gradient_accumulation_steps=1"],
    ];
    for (i, sets) in variants.iter().enumerate() {
        let made = plan(folder.path(), sets);
        let path = folder.path().join(format!("plan{i}"));
        made.write(&path).unwrap();
        let opened = Plan::open(&path).unwrap();
        assert!(made.programs == opened.programs && made.files == opened.files);
        let r = run(&opened, &folder.path().join(format!("save{i}")), 5, 2, false);
        assert!(r[4].loss < r[0].loss - 0.3, "{sets:?}: {} {}", r[0].loss, r[4].loss);
    }
}

/// Recomputing layers, alone or in groups, costs no accuracy and takes less memory.
#[test]
fn recomputation_changes_memory_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let results: Vec<(u64, Vec<f64>)> = [None, Some("1"), Some("2")]
        .into_iter()
        .enumerate()
        .map(|(i, group)| {
            let group = group.map(|g| format!("checkpoint_num_layers={g}"));
            let mut sets = vec!["num_layers=4"];
            sets.extend(group.as_deref());
            sets.extend(group.is_some().then_some("checkpoint_activations=true"));
            let made = plan(folder.path(), &sets);
            let r = run(&made, &folder.path().join(format!("r{i}")), 4, 2, false);
            (made.tables.memory.activations, r.iter().map(|r| f64::from(r.loss)).collect())
        })
        .collect();
    let (kept, all) = &results[0];
    for (bytes, losses) in &results[1..] {
        assert!(bytes < kept, "{bytes} {kept}");
        for (a, b) in all.iter().zip(losses) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

#[test]
fn bad_input_has_a_name() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let plan = plan(folder.path(), &[]);
    let save = folder.path().join("save");
    run(&plan, &save, 2, 1, false);
    let attempt = |plan: &Plan, save: &Path, resume| {
        let options = train::Options {
            steps: Some(6),
            threads: 1,
            save: Some(save.to_path_buf()),
            resume,
            ..train::Options::default()
        };
        train(plan, &options, &mut Log::default()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    // A checkpoint of another model.
    let other = self::plan(folder.path(), &["num_layers=3"]);
    let told = attempt(&other, &save, true);
    assert!(told.contains("another model") && told.contains("layers.2"), "{told}");
    // A flipped byte.
    for name in ["rank-00000.safetensors", "manifest.json"] {
        let file = save.join("global_step2").join(name);
        let whole = std::fs::read(&file).unwrap();
        for at in [3, 20, whole.len() / 3, whole.len() / 2, whole.len() - 2] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&file, &bytes).unwrap();
            let told = attempt(&plan, &save, true);
            assert!(told.contains(name), "byte {at}: {told}");
        }
        std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert!(attempt(&plan, &save, true).contains(name));
        std::fs::write(&file, &whole).unwrap();
    }
    assert_eq!(attempt(&plan, &save, true), "");
    // A token outside the vocabulary.
    data(folder.path(), 100);
    let told = attempt(&plan, &folder.path().join("x"), false);
    assert!(told.contains("outside the vocabulary of 64") && told.contains("d.bin"), "{told}");
    // Missing data, and a folder that cannot be made.
    std::fs::remove_file(folder.path().join("d.idx")).unwrap();
    assert!(attempt(&plan, &folder.path().join("y"), false).contains("d.idx"));
    std::fs::write(folder.path().join("file"), b"").unwrap();
    assert!(attempt(&plan, &folder.path().join("file/z"), false).contains("file/z"));
}

/// What would draw other samples, or drop others, is another run: refused by name, unless that is meant.
#[test]
fn a_run_goes_on_with_the_samples_it_was_drawing() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    data(f, 0);
    let save = f.join("save");
    let dropout = "hidden_dropout=0.1";
    run(&plan(f, &[dropout]), &save, 2, 1, false);
    let go_on = |sets: &[&str], allow_changes| {
        // A copy for each: the last one saves.
        let own = tempfile::tempdir().unwrap();
        let step = own.path().join("global_step2");
        std::fs::create_dir(&step).unwrap();
        for name in ["manifest.json", "rank-00000.safetensors"] {
            std::fs::copy(save.join("global_step2").join(name), step.join(name)).unwrap();
        }
        let options = train::Options {
            steps: Some(3),
            threads: 1,
            save: Some(own.path().to_path_buf()),
            resume: true,
            allow_changes,
            ..train::Options::default()
        };
        let mut log = Log::default();
        let done = train(&plan(f, sets), &options, &mut log);
        (done.err().map(|e| (e.code(), e.to_string())), log.1)
    };
    assert_eq!(go_on(&[dropout], false), (None, vec![]));
    // Neither learning rate nor batch change what is drawn, as long as there is enough in as many epochs.
    let other = ["optimizer.params.lr=0.001", "gradient_accumulation_steps=1"];
    assert_eq!(go_on(&[&other[..], &[dropout]].concat(), false), (None, vec![]));
    for (set, told) in [
        ("seed=7", "seed: 7, it was 1234"),
        ("seq_length=12", "seq_length: 12, it was 13"),
        ("hidden_dropout=0.2", "hidden_dropout: 0.2, it was 0.1"),
        ("split=\"70,30,0\"", "split: documents 0..7, it was documents 0..8"),
        ("train_iters=40", "train_iters: 6 epochs, it was 1 epochs"),
    ] {
        let sets: &[&str] = if set.starts_with("hidden") { &[set] } else { &[dropout, set] };
        let (error, warnings) = go_on(sets, false);
        let (code, text) = error.unwrap_or_else(|| panic!("{set} is accepted"));
        assert!(code == "NXR0302" && text.contains(told) && warnings.is_empty(), "{set}: {text}");
        let (error, warnings) = go_on(sets, true);
        assert!(error.is_none() && warnings.len() == 1, "{set}: {error:?} {warnings:?}");
        assert!(warnings[0].contains(told), "{warnings:?}");
    }
    data(f, 1);
    let (error, _) = go_on(&[dropout], false);
    assert!(error.is_some_and(|(_, text)| text.contains("other training data")));
}

#[test]
fn a_loss_that_is_not_finite_names_its_tensor() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let plan = plan(folder.path(), &["optimizer.params.lr=1.0e+30", "gradient_clipping=0"]);
    let save = folder.path().join("save");
    let options = train::Options {
        steps: Some(6),
        threads: 1,
        save: Some(save.clone()),
        ..train::Options::default()
    };
    let e = train(&plan, &options, &mut Log::default()).unwrap_err();
    assert!(matches!(e, RuntimeError::NotFinite { .. }), "{e}");
    // The weights are finite, and what the forward pass makes of them is not: the first launch with such a result.
    let e = (e.to_string(), e.exit_code());
    assert!(e.0.starts_with("step 2: loss is NaN") && e.1 == 4, "{e:?}");
    let told =
        "micro-batch 0, layer 0), which reads gpt_neox.layers.0.mlp.dense_h_to_4h.weight and ";
    let place = "(programs/train_step.txt:";
    assert!([told, place, "model.yml:", "result"].iter().all(|t| e.0.contains(t)), "{e:?}");
    assert!(!save.join("latest").exists());
}

/// Weights of a checkpoint are made bad; the next step says which, and leaves nothing behind.
#[test]
fn the_first_tensor_that_is_not_finite_is_named() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let layouts: [(&[&str], &str); 3] = [
        (&[], "(programs/train_step.txt:"),
        (
            &[
                "world_size=4",
                "pipe_parallel_size=2",
                "model_parallel_size=2",
                "num_attention_heads=4",
                "rotary_pct=1",
            ],
            "(programs/train_head_1.txt:",
        ),
        (&["world_size=2", "zero_optimization.stage=3"], ", layer 1), on rank 0"),
    ];
    for (n, (sets, overflow)) in layouts.iter().enumerate() {
        let wild = ["optimizer.params.lr=3.0e+38", "optimizer.params.weight_decay=100.0"];
        let spoils = plan(folder.path(), &[sets, &wild[..], &["warmup=0.0"]].concat());
        let plan = plan(folder.path(), sets);
        let save = folder.path().join(format!("save{n}"));
        run(&plan, &save, 2, 1, false);
        let good: std::collections::BTreeMap<_, _> =
            common::all_tensors(&save.join("global_step2")).into_iter().collect();
        let parameters = &plan.tables.parameters;
        let attempt = |changes: &[(&str, f32)], told: &str| {
            let mut tensors = good.clone();
            for (name, value) in changes {
                let weights = |n: &str| n.ends_with(name) && !n.starts_with("exp_avg");
                for (_, bytes) in tensors.iter_mut().filter(|(n, _)| weights(n)) {
                    for (i, c) in bytes.chunks_exact_mut(4).enumerate() {
                        let sign = if i * i % 7 < 3 { 1.0 } else { -1.0 };
                        c.copy_from_slice(&(value * sign).to_le_bytes());
                    }
                }
            }
            // Each rank's part of each tensor.
            let mut parts = std::collections::BTreeMap::new();
            for t in checkpoint::tensors(&plan) {
                let dims = &parameters[t.parameter].dims;
                for rank in 0..plan.ranks() {
                    let block = t.block(&plan, rank);
                    let mut part = vec![0; block.elements() as usize * 4];
                    for run in block.runs(dims) {
                        let (to, from, n) = (run.local * 4, run.whole * 4, run.elements * 4);
                        part[to..to + n].copy_from_slice(&tensors[&t.name][from..from + n]);
                    }
                    parts.insert((rank, t.name.clone()), part);
                }
            }
            let get = |rank, t: &checkpoint::Tensor| &parts[&(rank, t.name.clone())][..];
            let settings = train::settings(&plan).unwrap();
            let bad = folder.path().join("bad");
            let _ = std::fs::remove_dir_all(&bad);
            let saved = checkpoint::save(&bad, &plan, &settings, 2, 8, &get);
            if changes.iter().any(|(_, value)| !value.is_finite()) {
                // Such weights are no checkpoint.
                let e = saved.unwrap_err().to_string();
                assert!(e.starts_with("after step 2: ") && e.contains(told), "{changes:?}: {e}");
                assert!(std::fs::read_dir(&bad).unwrap().next().is_none());
                return;
            }
            saved.unwrap();
            let options = train::Options {
                steps: Some(4),
                threads: 1,
                save: Some(bad.clone()),
                resume: true,
                ..train::Options::default()
            };
            let e = train(&plan, &options, &mut Log::default()).unwrap_err().to_string();
            assert!(e.starts_with("step 3: ") && e.contains(told), "{sets:?}, {changes:?}: {e}");
            assert!(!bad.join("global_step3").exists());
        };
        let weight = "gpt_neox.layers.1.attention.dense.weight";
        attempt(&[(weight, f32::NAN)], weight);
        attempt(&[("embed_in.weight", f32::INFINITY)], "gpt_neox.embed_in.weight");
        // Weights that an update has spoiled are named by the step after it, the first one in the order of the model.
        let options = train::Options { steps: Some(4), threads: 1, ..train::Options::default() };
        let e = train(&spoils, &options, &mut Log::default()).unwrap_err().to_string();
        let first = "parameter gpt_neox.embed_in.weight";
        assert!(e.starts_with("step 2: ") && e.contains(first), "{sets:?}: {e}");
        // The last norm divides by next to nothing, and only in the backward pass is that too much.
        let small = [
            ("embed_in.weight", 1e-12),
            ("attention.dense.weight", 0.0),
            ("attention.dense.bias", 0.0),
            ("dense_4h_to_h.weight", 0.0),
            ("dense_4h_to_h.bias", 0.0),
        ];
        let head = |value| [&small[..], &[("embed_out.weight", value)]].concat();
        attempt(&head(3e37), overflow);
        // Every gradient is finite, and the sum of their squares is not.
        attempt(&head(1e25), "none, but ");
    }
}

/// What healthy steps compute is finite, whatever a kernel keeps for itself: what is found in a bad one is bad.
#[test]
fn nothing_in_a_healthy_step_counts_as_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let cases: [&[&str]; 4] = [
        &["hidden_dropout=0.1", "attention_dropout=0.1"],
        &["precision=\"bfloat16\"", "no_weight_tying=false"],
        &[
            "world_size=4",
            "pipe_parallel_size=2",
            "model_parallel_size=2",
            "num_attention_heads=4",
            "rotary_pct=1",
        ],
        &["world_size=2", "moe_num_experts=4", "moe_expert_parallel_size=2"],
    ];
    for (n, sets) in cases.iter().enumerate() {
        let plan = plan(folder.path(), sets);
        let save = folder.path().join(format!("healthy{n}"));
        run(&plan, &save, 1, 1, false);
        let mut ranks = Ranks::new(&plan, 1).unwrap();
        ranks.load(&save.join("global_step1")).unwrap();
        let steps = plan.programs.iter().filter(|p| p.name.starts_with("train_step"));
        for port in steps.flat_map(|p| &p.inputs).filter(|p| p.name != "layers") {
            let count = plan.whole_dims(port).iter().product::<u64>() as usize;
            let one = if port.dtype == "i32" { 1i32.to_le_bytes() } else { 1f32.to_le_bytes() };
            ranks.put("train_step", &port.name, &one.repeat(count)).unwrap();
        }
        ranks.put_layers("train_step").unwrap();
        let found = ranks.check("train_step").unwrap();
        assert!(found.iter().all(|(_, f)| f.is_none()), "{sets:?}: {found:?}");
        let loss = ranks.scalar("train_step", "loss").unwrap();
        assert!(loss.is_finite() && loss > 0.0, "{sets:?}: {loss}");
    }
}
