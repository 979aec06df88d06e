//! Collectives beside compute change nothing that a run computes, to the bit, and are there in the plan's text.

#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{all_tensors, data, plan_with, run};
use neoxc_plan::{Instr, Plan};
use neoxc_runtime::train::StepReport;

const SETS: [&str; 7] = [
    "num_layers=4",
    "num_attention_heads=4",
    "hidden_size=32",
    "seq_length=16",
    "train_micro_batch_size_per_gpu=1",
    "gradient_accumulation_steps=2",
    "world_size=4",
];

fn waits(plan: &Plan) -> usize {
    let texts = plan.programs.iter().map(|p| plan.disassemble(p));
    texts.map(|t| t.lines().filter(|l| l.trim().starts_with("wait ")).count()).sum()
}

/// Events that iterations of loops leave to the next one.
fn left(plan: &Plan) -> usize {
    fn of(body: &[Instr], inside: bool, under_way: &mut Vec<usize>) -> usize {
        let (mut left, before) = (0, under_way.len());
        for instr in body {
            match instr {
                Instr::Collective { event: Some(e), .. } => under_way.push(*e),
                Instr::Wait { event } => under_way.retain(|e| e != event),
                Instr::Loop { body, .. } => left += of(body, true, under_way),
                _ => {}
            }
        }
        left + if inside { under_way.len() - before } else { 0 }
    }
    plan.programs.iter().map(|p| of(&p.body, false, &mut vec![])).sum()
}

fn bits(reports: &[StepReport]) -> Vec<(u32, u32)> {
    reports.iter().map(|r| (r.loss.to_bits(), r.grad_norm.to_bits())).collect()
}

#[test]
fn overlapping_changes_no_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    data(folder.path(), 0);
    // With how many gradients, at least, that are summed over ranks while the layers below are computed.
    for (layout, sums) in [
        (&["model_parallel_size=2", "gpt_j_residual=false"][..], 12),
        (&["zero_optimization={\"stage\": 1}", "gradient_accumulation_steps=1"], 12),
        (
            &[
                "pipe_parallel_size=2",
                "zero_optimization={\"stage\": 1}",
                "context_parallel_size=2",
            ],
            0,
        ),
        (
            &[
                "pipe_parallel_size=2",
                "zero_optimization={\"stage\": 1}",
                "virtual_pipeline_chunks=2",
                "pipe_schedule=interleaved",
            ],
            24,
        ),
        (&["zero_optimization={\"stage\": 3}", "checkpoint_activations=true"], 0),
        (
            &[
                "model_parallel_size=2",
                "zero_optimization={\"stage\": 2}",
                "sequence_parallel=true",
            ],
            0,
        ),
        (&["pipe_parallel_size=2", "zero_optimization={\"stage\": 3}"], 0),
    ] {
        let sets: Vec<&str> = SETS.iter().chain(layout).copied().collect();
        let beside = plan_with(folder.path(), &sets, true);
        let blocking = plan_with(folder.path(), &sets, false);
        assert!(waits(&beside) > 3, "{layout:?}: {}", waits(&beside));
        assert_eq!(waits(&blocking), 0);
        assert!(left(&beside) >= sums, "{layout:?}: {}", left(&beside));
        let at = folder.path().join("p");
        beside.write(&at).expect("it is valid");
        assert_eq!(Plan::open(&at).expect("it is whole").programs, beside.programs);
        // Fewer threads than ranks: some ranks are always late.
        let train = |plan: &Plan, name: &str| run(plan, &folder.path().join(name), 4, 2, false);
        let (one, two) = (train(&beside, "one"), train(&blocking, "two"));
        assert_eq!(bits(&one), bits(&two), "{layout:?}");
        let state = |name: &str| all_tensors(&folder.path().join(name).join("global_step4"));
        assert!(state("one") == state("two"), "{layout:?}");
    }
}
