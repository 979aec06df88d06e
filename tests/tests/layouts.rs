//! The same training on every layout: losses and weights equal one rank's to f32 rounding, runs repeat
//! to the bit, checkpoints do not know who wrote them.
//!
//! The full table (every world of 1, 2, 4 and 8 ranks over stages × data × tensor ranks × ZeRO stages ×
//! sequence parallelism × pipeline schedules) is `make layouts`; otherwise a sample of it is run that
//! changes with the commit. `NEOXC_LAYOUTS="context: 2"` runs those whose description has that text.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::path::Path;

use common::{all_tensors, data, far, floats, plan, run};
use neoxc_plan::Plan;
use neoxc_runtime::checkpoint;
use neoxc_runtime::ranks::Ranks;
use neoxc_runtime::train::StepReport;

/// Eight of everything, so that up to eight ranks divide it along any axis; a learning rate at which
/// rounding is not blown up from step to step.
const SHAPE: [&str; 8] = [
    "num_layers=8",
    "num_attention_heads=8",
    "hidden_size=32",
    "seq_length=16",
    "train_micro_batch_size_per_gpu=1",
    "train_batch_size=8",
    "optimizer.params.lr=0.002",
    // Adam divides by the gradient's size: without this a gradient that is all rounding moves a weight as
    // far as any other.
    "optimizer.params.eps=1.0e-5",
];

/// Models that differ in what ranks have to agree on.
const MODELS: [&[&str]; 6] = [
    &[],
    &["gpt_j_residual=false", "no_weight_tying=false", "pos_emb=learned"],
    &[
        "gpt_j_residual=false",
        "checkpoint_activations=true",
        "hidden_dropout=0.1",
        "attention_dropout=0.1",
    ],
    // Llama with a window of a few tokens: as many key-value heads as ranks, each with two query heads.
    &[
        "sliding_window_width=4",
        "norm=rmsnorm",
        "rms_norm_epsilon=1.0e-5",
        "activation=swiglu",
        "intermediate_size=192",
        "num_attention_heads=16",
        "num_kv_heads=8",
        "hidden_size=64",
        "rotary_pct=1.0",
        "gpt_j_residual=false",
        "use_bias_in_attn_linear=false",
        "use_bias_in_mlp=false",
    ],
    // Large start values, so that no choice of experts hangs on rounding.
    &[
        "moe_num_experts=8",
        "moe_top_k=2",
        "moe_router_type=topk",
        "moe_loss_coeff=0.01",
        "init_method_std=0.2",
        "init_method=normal",
    ],
    &[
        "moe_num_experts=8",
        "moe_token_dropping=true",
        "moe_train_capacity_factor=1.5",
        "init_method_std=0.2",
        "init_method=normal",
    ],
];
/// Of these, how many have no experts.
const DENSE: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Layout {
    pipe: usize,
    data: usize,
    expert: usize,
    context: usize,
    tensor: usize,
    zero: usize,
    sequence: bool,
    expert_tensor: bool,
    schedule: &'static str,
    /// How stages divide the layers.
    method: &'static str,
}

const EVEN: &str = "type:transformer|mlp";

const ONE: Layout = Layout {
    pipe: 1,
    data: 1,
    expert: 1,
    context: 1,
    tensor: 1,
    zero: 0,
    sequence: false,
    expert_tensor: false,
    schedule: "1f1b",
    method: EVEN,
};

impl Layout {
    fn ranks(self) -> usize {
        self.pipe * self.data * self.expert * self.context * self.tensor
    }

    fn sets(self) -> Vec<String> {
        let Layout { pipe, data, expert, context, tensor, zero, sequence, .. } = self;
        let Layout { expert_tensor, schedule, method, .. } = self;
        vec![
            format!("world_size={}", self.ranks()),
            format!("moe_expert_parallel_size={expert}"),
            format!("enable_expert_tensor_parallelism={expert_tensor}"),
            format!("context_parallel_size={context}"),
            format!("pipe_parallel_size={pipe}"),
            format!("model_parallel_size={tensor}"),
            format!("gradient_accumulation_steps={}", 8 / data / expert),
            format!("zero_optimization={{\"stage\": {zero}}}"),
            format!("sequence_parallel={sequence}"),
            format!("pipe_schedule={schedule}"),
            format!("pipe_partition_method={method}"),
            // One layer a chunk.
            format!(
                "virtual_pipeline_chunks={}",
                if schedule == "interleaved" { 8 / pipe } else { 1 }
            ),
        ]
    }
}

/// Every layout of at most eight ranks; with expert ranks, if there are `experts`.
fn table(experts: bool) -> Vec<Layout> {
    let sizes = [1, 2, 4, 8];
    let mut meshes = vec![];
    // Three stages do not divide eight layers.
    for pipe in [1, 2, 3, 4, 8] {
        for data in sizes {
            for expert in sizes.into_iter().take(if experts { 4 } else { 1 }) {
                for context in sizes {
                    let all =
                        sizes.map(|t| Layout { pipe, data, expert, context, tensor: t, ..ONE });
                    meshes.extend(all.into_iter().filter(|l| l.ranks() <= 8));
                }
            }
        }
    }
    let mut out = vec![];
    for mesh in meshes {
        for zero in 0..if mesh.data > 1 { 4 } else { mesh.expert.min(2) } {
            for sequence in [false, true] {
                for schedule in ["1f1b", "gpipe", "zb-h1", "interleaved"] {
                    let chunks = schedule == "interleaved";
                    if chunks && (mesh.pipe == 8 || mesh.pipe == 3) {
                        continue;
                    }
                    let method = match out.len() % 4 {
                        _ if chunks => EVEN,
                        0 => "balanced",
                        1 => "parameters",
                        // Of four or more stages of GPT-NeoX's modules the last has no layer.
                        2 if mesh.pipe < 4 => "uniform",
                        _ => EVEN,
                    };
                    if (!sequence || mesh.tensor > 1) && (mesh.pipe > 1 || schedule == ONE.schedule)
                    {
                        // As many layouts with experts divided as with whole ones.
                        let expert_tensor = experts && mesh.tensor > 1 && out.len() % 2 == 0;
                        out.push(Layout {
                            zero,
                            sequence,
                            schedule,
                            method,
                            expert_tensor,
                            ..mesh
                        });
                    }
                }
            }
        }
    }
    out
}

/// A number that changes with the commit.
fn commit() -> u64 {
    let head = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    let text = head.map(|o| o.stdout).unwrap_or_default();
    text.iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

fn made(folder: &Path, model: &[&str], layout: Layout) -> Plan {
    let more = layout.sets();
    let sets: Vec<&str> =
        SHAPE.iter().chain(model).copied().chain(more.iter().map(String::as_str)).collect();
    let plan = plan(folder, &sets);
    assert_eq!(plan.ranks() as usize, layout.ranks());
    plan
}

fn tensors(folder: &Path) -> Vec<(String, Vec<f64>)> {
    all_tensors(folder)
        .into_iter()
        .filter(|(name, _)| !name.starts_with("exp_avg"))
        .map(|(name, bytes)| (name, floats(&bytes)))
        .collect()
}

fn close(a: &[StepReport], b: &[StepReport], what: &str) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        let far = (a.loss - b.loss).abs() / b.loss;
        assert!(far < 2e-5, "{what} step {}: {} {}", a.step, a.loss, b.loss);
        assert!((a.grad_norm / b.grad_norm - 1.0).abs() < 1e-4, "{what} step {}", a.step);
        assert_eq!((&a.samples, a.tokens), (&b.samples, b.tokens), "{what}");
    }
}

#[test]
fn every_layout_trains_the_same() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let wanted = std::env::var("NEOXC_LAYOUTS").ok();
    let all = wanted.is_some();
    let seed = commit();
    for (v, model) in MODELS.iter().enumerate() {
        let table = table(v >= DENSE);
        let one = folder.path().join(format!("{v}-one"));
        let want = run(&made(folder.path(), model, ONE), &one, 10, 2, false);
        let want_tensors = tensors(&one.join("global_step10"));
        let chosen: Vec<Layout> = match wanted.as_deref() {
            Some("all") => table.clone(),
            Some(part) => {
                let named = |l: &&Layout| format!("{l:?}").contains(part);
                table.iter().filter(named).copied().collect()
            }
            // A stride that is prime to the length, so that all come by.
            None => (0..4)
                .map(|i| table[(seed as usize % 997 + v * 31 + i * 37) % table.len()])
                .collect(),
        };
        for (n, layout) in chosen.into_iter().enumerate() {
            let what = format!("{model:?} {layout:?}");
            let plan = made(folder.path(), model, layout);
            let save = folder.path().join("many");
            let got = run(&plan, &save, 10, 2, false);
            close(&got, &want, &what);
            let mut worst = (0f64, String::new());
            for ((name, a), (_, b)) in
                tensors(&save.join("global_step10")).iter().zip(&want_tensors)
            {
                // Softmax does not see a constant added to all keys: the key's bias is noise.
                if name.contains("query_key_value.bias") {
                    continue;
                }
                if far(a, b) > worst.0 {
                    worst = (far(a, b), name.clone());
                }
            }
            assert!(worst.0 < 2e-5, "{what}: {} is {:.1e} away", worst.1, worst.0);
            if all || n % 2 == 0 {
                let again = run(&plan, &folder.path().join("again"), 10, 2, false);
                let bits = |r: &[StepReport]| {
                    r.iter().map(|r| (r.loss.to_bits(), r.grad_norm.to_bits())).collect::<Vec<_>>()
                };
                assert_eq!(bits(&got), bits(&again), "{what} does not repeat");
            }
        }
    }
}

/// Ten layouts of 1, 2 and 4 ranks: what one wrote, every other one reads and writes again, byte for byte.
#[test]
fn every_layout_reads_what_every_other_one_wrote() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let layouts = [
        ONE,
        Layout { tensor: 2, ..ONE },
        Layout { tensor: 2, sequence: true, data: 2, ..ONE },
        Layout { pipe: 2, ..ONE },
        Layout { pipe: 2, tensor: 2, ..ONE },
        Layout { data: 2, zero: 1, ..ONE },
        Layout { data: 4, zero: 3, ..ONE },
        Layout { data: 2, context: 2, zero: 2, ..ONE },
        Layout { pipe: 4, schedule: "zb-h1", ..ONE },
        Layout { tensor: 4, ..ONE },
    ];
    let plans: Vec<Plan> = layouts.iter().map(|l| made(folder.path(), MODELS[0], *l)).collect();
    // Two steps, so that the optimizer's state is not zero.
    let written: Vec<_> = plans
        .iter()
        .enumerate()
        .map(|(n, plan)| {
            let save = folder.path().join(format!("from{n}"));
            run(plan, &save, 2, 2, false);
            let all = all_tensors(&save.join("global_step2"));
            (save, all)
        })
        .collect();
    for (from, (save, want)) in written.iter().enumerate() {
        for (to, plan) in plans.iter().enumerate() {
            let mut ranks = Ranks::new(plan, 1).unwrap();
            let parameter = |t: &checkpoint::Tensor| &plan.tables.parameters[t.parameter];
            let m = ranks.load(&save.join("global_step2")).unwrap();
            let out = folder.path().join("again");
            let settings = neoxc_runtime::train::settings(plan).unwrap();
            let get = |r, t: &checkpoint::Tensor| ranks.part(r, &t.values, parameter(t), t.layer);
            let again = checkpoint::save(&out, plan, &settings, m.step, m.samples, &get).unwrap();
            assert!(all_tensors(&again) == *want, "{:?} → {:?}", layouts[from], layouts[to]);
        }
    }
}

#[test]
fn a_checkpoint_goes_on_in_another_layout() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let made = |layout: Layout| made(folder.path(), MODELS[0], layout);
    let want = run(&made(ONE), &folder.path().join("one"), 8, 2, false);
    let save = folder.path().join("moved");
    let mut got =
        run(&made(Layout { pipe: 2, tensor: 2, sequence: true, ..ONE }), &save, 2, 2, false);
    got.extend(run(&made(Layout { pipe: 3, ..ONE }), &save, 3, 2, true));
    got.extend(run(&made(Layout { data: 2, tensor: 2, zero: 3, ..ONE }), &save, 4, 2, true));
    let interleaved = Layout { pipe: 2, schedule: "interleaved", ..ONE };
    got.extend(run(&made(Layout { data: 2, zero: 2, ..interleaved }), &save, 5, 2, true));
    got.extend(run(&made(Layout { data: 4, zero: 2, ..ONE }), &save, 6, 2, true));
    got.extend(run(&made(Layout { pipe: 4, ..interleaved }), &save, 7, 2, true));
    got.extend(run(&made(ONE), &save, 8, 2, true));
    close(&got, &want, "moved from layout to layout");
}

/// Embeddings are on the first stage and, tied, on the last: their gradient is summed between these two, and
/// counted once. What is in between has layers only.
#[test]
fn only_the_ends_have_what_is_outside_the_layers() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    for model in [MODELS[0], MODELS[1]] {
        let want = run(&made(folder.path(), model, ONE), &folder.path().join("one"), 3, 2, false);
        for layout in [
            Layout { pipe: 3, method: "balanced", ..ONE },
            Layout { pipe: 4, data: 2, zero: 2, ..ONE },
        ] {
            let plan = made(folder.path(), model, layout);
            let got = run(&plan, &folder.path().join("ends"), 3, 2, false);
            close(&got, &want, &format!("{model:?} {layout:?}"));
            for p in &plan.tables.parameters {
                let on = plan.stages_with(&p.weights);
                let last = layout.pipe as u64 - 1;
                let tied = model == MODELS[1] && p.name.contains("embed_in");
                let want = match &p.name {
                    n if n.contains("{layer}") => (0..=last).collect(),
                    _ if tied => vec![0, last],
                    n if n.contains("embed_in") || n.contains("embed_pos") => vec![0],
                    _ => vec![last],
                };
                assert_eq!(on, want, "{}", p.name);
            }
        }
    }
}

/// Every slice of a checkpoint damaged in turn: a rank refuses it by name if it needs any of it, and does not look at it
/// otherwise.
#[test]
fn a_rank_reads_what_it_needs_and_refuses_what_is_damaged_of_it() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let sets = [
        "world_size=4",
        "pipe_parallel_size=2",
        "model_parallel_size=2",
        "num_attention_heads=4",
        "rotary_pct=1",
    ];
    let plan = common::plan(folder.path(), &sets);
    let save = folder.path().join("ck");
    run(&plan, &save, 1, 4, false);
    let made = save.join("global_step1");
    let load = |rank: u64| {
        let mut bytes = 0;
        checkpoint::load(&made, &plan, &[rank], &mut |_, _, _, part| bytes += part.len())
            .map(|_| bytes)
    };
    let whole: Vec<usize> = (0..4).map(|rank| load(rank).unwrap()).collect();
    let of: Vec<checkpoint::Tensor> = checkpoint::tensors(&plan);
    let (mut refused, mut ignored) = (0, 0);
    for (name, entry) in checkpoint::manifest(&made).unwrap().tensors {
        let t = of.iter().find(|t| t.name == name).unwrap();
        for s in entry.slices {
            let path = made.join(&s.file);
            let good = std::fs::read(&path).unwrap();
            let (head, header) = safetensors::SafeTensors::read_metadata(&good).unwrap();
            let mut bad = good.clone();
            bad[8 + head + header.info(&name).unwrap().data_offsets.1 - 1] ^= 1;
            std::fs::write(&path, bad).unwrap();
            for rank in 0..4 {
                let part = t.block(&plan, rank);
                // Dims of a tensor are cut at the same places, or not at all.
                let far = |i: usize| {
                    let (a, b) = (part.start[i], s.block.start[i]);
                    a + part.size[i] <= b || b + s.block.size[i] <= a
                };
                let needed = t.is_on(&plan, rank) && !(0..part.start.len()).any(far);
                let done = load(rank);
                if needed {
                    let told = done.unwrap_err().to_string();
                    assert!(told.contains(&s.file) && told.contains(&name), "{told}");
                    refused += 1;
                } else {
                    assert_eq!(done.unwrap(), whole[rank as usize], "{name}, rank {rank}");
                    ignored += 1;
                }
            }
            std::fs::write(&path, good).unwrap();
        }
    }
    assert!(refused > 0 && ignored > refused, "{refused} {ignored}");
}
