//! Overlapping changes the order of ops and nothing else: every rank's results stay the same to the bit, and
//! on the way there is something to be seen.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::fmt::Write;

use common::{Random, arch, inputs};
use neoxc_ir::cluster::{Link, Machine};
use neoxc_ir::eval::Tensor;
use neoxc_ir::eval_ranks::run_ranks;
use neoxc_ir::op::Class;
use neoxc_ir::target::Target;
use neoxc_ir::{Function, Module, OpKind, text, verify};
use neoxc_models::arch::{Arch, Positions};
use neoxc_passes::PassCx;
use neoxc_passes::entries::entries;
use neoxc_passes::overlap_collectives::{self, Times};
use neoxc_passes::pass::Degrees;
use neoxc_passes::pipeline::{Phase, run_pass, run_phase};
use neoxc_passes::prefetch_gathers;

/// A machine on which collectives of small values take about as long as small kernels.
fn machine() -> Machine {
    let mut m = Machine::of(Target::X86V4);
    m.rates.launch_seconds = 1e-7;
    m.within = Link { bandwidth: 2e9, latency: 1e-7 };
    m
}

fn fused(a: &Arch, cx: &PassCx, clip: f64) -> Module {
    let mut m = common::build_with(a, common::OPTIMIZER, clip).unwrap();
    for phase in [Phase::Rewritten, Phase::Grad, Phase::Sharded, Phase::Fused] {
        run_phase(&mut m, phase, cx).unwrap_or_else(|e| panic!("{e}\n{a:?}"));
    }
    m
}

/// What ops a function has, whatever their order, waits aside.
fn counted(f: &Function) -> Vec<String> {
    let name = |op: &neoxc_ir::Op| format!("{:?} {:?}", op.kind, op.attrs);
    let mut all: Vec<String> = f.ops.iter().filter(|o| o.kind != OpKind::Wait).map(name).collect();
    all.sort();
    all
}

#[test]
fn results_stay_the_same_to_the_bit() {
    // Gathers moved in loops that go backwards.
    let (mut waits, mut moved) = (0, 0);
    for seed in 0..10 {
        let mut r = Random(seed + 40);
        let mut pick = |n: u64| (r.next() % n) as usize;
        let a = Arch {
            grad_accum: 4,
            heads: 4,
            seq: 8,
            head_dim: 2,
            embed: 8,
            ffn: [8, 16][pick(2)],
            layers: 4,
            checkpoint: [None, Some(1), Some(2)][pick(3)],
            positions: [Positions::None, Positions::Rotary { dims: 2, base: 1e4, scaling: None }]
                [pick(2)],
            parallel_residual: pick(2) == 0,
            tied: pick(2) == 0,
            ..arch()
        };
        let (pipe, data, context, tensor) =
            [(1, 2, 1, 2), (1, 4, 1, 1), (1, 1, 1, 4), (1, 2, 2, 1), (2, 2, 1, 1), (2, 1, 1, 2)]
                [seed as usize % 6];
        let mut machine = machine();
        if seed % 2 == 1 {
            // Nothing hides what a layer needs first, whichever way the loop goes.
            machine.within.bandwidth = 2e7;
        }
        let cx = PassCx {
            machine,
            degrees: Degrees { pipe, data, context, tensor, ..Degrees::ONE },
            zero_stage: (seed / 2 % 4) as u8,
            sequence_parallel: seed % 2 == 1 && context == 1,
            ..PassCx::new(Target::X86V4)
        };
        let what = format!("{cx:?}\n{a:?}");
        let plain = fused(&a, &cx, [0.0, 0.5][pick(2)]);
        let mut before = plain.clone();
        let report = run_pass(&mut before, &prefetch_gathers::PASS, &cx)
            .unwrap_or_else(|e| panic!("{e} {what}"));
        if cx.zero_stage == 3 && data > 1 {
            assert!(!report.notes[0].starts_with("0 "), "{what}");
            let loops = before.functions.iter().flat_map(|f| &f.ops);
            let ahead = loops.filter(|op| op.attrs.get("next").is_some());
            let reverse = ahead.filter(|op| op.attrs.flag("reverse")).count();
            moved += reverse;
        }
        let mut after = before.clone();
        run_pass(&mut after, &overlap_collectives::PASS, &cx)
            .unwrap_or_else(|e| panic!("{e} {what}"));
        verify(&after).unwrap();
        assert!(text::parse(&text::print(&after)).unwrap() == after);
        for f in &before.functions {
            let g = after.function(&f.name).unwrap();
            assert_eq!(counted(f), counted(g), "{what}");
            waits += g.ops.iter().filter(|o| o.kind == OpKind::Wait).count();
        }
        let axes: Vec<(String, usize)> =
            cx.degrees.axes().iter().map(|(n, s)| (n.to_string(), *s)).collect();
        for entry in &entries(&before) {
            let x: Vec<Vec<Tensor>> =
                (0..cx.degrees.ranks()).map(|_| inputs(&before, entry, &mut r)).collect();
            let want = run_ranks(&plain, entry, &axes, &x).unwrap();
            let got = run_ranks(&after, entry, &axes, &x).unwrap();
            for (rank, (want, got)) in want.iter().zip(&got).enumerate() {
                for (want, got) in want.iter().zip(got) {
                    let bits = |t: &Tensor| t.data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert!(bits(want) == bits(got), "{entry} rank {rank} {what}");
                }
            }
        }
        // The place for every value, checked with collectives on their way.
        run_phase(&mut after, Phase::Scheduled, &cx).unwrap_or_else(|e| panic!("{e} {what}"));
    }
    assert!(waits > 100 && moved > 0, "{waits} collectives overlapped, {moved}");
}

/// Kernels by family, collectives, waits: 1, 2, … are collectives on their way; those that a loop's body leaves on
/// their way are waited for behind the loop.
fn outline(f: &Function) -> String {
    let mut out = format!("@{}\n", f.name);
    let waited = |v| f.ops.iter().any(|o| o.kind == OpKind::Wait && o.operands[0] == v);
    let mut names = vec![];
    for op in &f.ops {
        let callee = op.attrs.symbol("callee").unwrap_or_default();
        let line = match op.kind.def().class() {
            Class::Collective => {
                let axis = op.attrs.str("axis").unwrap_or_default();
                let dims = &f.ty(op.results[0]).dims;
                let dims: Vec<String> =
                    dims.iter().map(|d| format!("{} {}", d.name, d.size)).collect();
                let mut line = format!("{} {axis} [{}]", op.kind.name(), dims.join(", "));
                if waited(op.results[0]) {
                    names.push(op.results[0]);
                    line = format!("start {line} {}", names.len());
                } else if f.results.contains(&op.results[0]) {
                    line = format!("leave {line}");
                }
                line
            }
            Class::View if op.kind == OpKind::Wait => {
                match names.iter().position(|n| *n == op.operands[0]) {
                    Some(at) => format!("wait {}", at + 1),
                    None => "wait for what the loop left".into(),
                }
            }
            Class::View => continue,
            _ if op.kind == OpKind::Repeat => format!("repeat @{callee}"),
            _ => callee.split('_').next().unwrap().to_string(),
        };
        writeln!(out, "  {line}").unwrap();
    }
    out
}

fn overlapped(cx: &PassCx) -> Module {
    let sizes = Arch {
        grad_accum: 4,
        seq: 8,
        embed: 8,
        heads: 4,
        head_dim: 2,
        ffn: 16,
        layers: 4,
        ..arch()
    };
    let mut m = fused(&sizes, cx, 0.5);
    run_pass(&mut m, &prefetch_gathers::PASS, cx).unwrap();
    run_pass(&mut m, &overlap_collectives::PASS, cx).unwrap();
    m
}

fn outlines(m: &Module, names: &[&str]) -> String {
    names.iter().map(|n| outline(m.function(n).unwrap())).collect::<Vec<_>>().join("")
}

#[test]
fn tensor_ranks_sum_beside_the_gradients_of_weights() {
    let cx = PassCx {
        machine: machine(),
        degrees: Degrees { tensor: 2, ..Degrees::ONE },
        ..PassCx::new(Target::X86V4)
    };
    let m = overlapped(&cx);
    insta::assert_snapshot!(outlines(&m, &["train_step.block.fwd", "train_step.block.bwd"]));
}

#[test]
fn zero_3_gathers_ahead_and_scatters_behind() {
    let cx = PassCx {
        machine: machine(),
        degrees: Degrees { data: 2, ..Degrees::ONE },
        zero_stage: 3,
        ..PassCx::new(Target::X86V4)
    };
    let m = overlapped(&cx);
    let names = [
        "train_step.micro_step",
        "train_step.block.fwd.first",
        "train_step.block.fwd",
        "train_step.block.bwd",
    ];
    insta::assert_snapshot!(outlines(&m, &names));
}

#[test]
fn gradients_are_summed_beside_the_layers_below() {
    for zero_stage in [0, 1] {
        let cx = PassCx {
            machine: machine(),
            degrees: Degrees { data: 2, ..Degrees::ONE },
            zero_stage,
            ..PassCx::new(Target::X86V4)
        };
        let m = overlapped(&cx);
        let names = ["train_step.micro_step.last", "train_step.block.bwd.last"];
        insta::assert_snapshot!(format!("sums_zero_{zero_stage}"), outlines(&m, &names));
    }
}

#[test]
fn stages_sum_in_a_program_for_the_last_micro_batch() {
    let degrees = Degrees { data: 2, pipe: 2, ..Degrees::ONE };
    let cx = PassCx { machine: machine(), degrees, zero_stage: 1, ..PassCx::new(Target::X86V4) };
    let m = overlapped(&cx);
    let names = ["train_backward", "train_backward_last", "train_backward_last.block.bwd.last"];
    insta::assert_snapshot!(outlines(&m, &names));
    // What has to wait: the sums of the head, of embeddings, and small ones, each of all layers.
    let finish = m.function("train_finish_1").unwrap();
    let scatters = finish.ops.iter().filter(|op| op.kind == OpKind::ReduceScatter).count();
    let sums = finish.param_attrs.iter().filter(|a| a.str("neox.role") == Some("sum")).count();
    assert!(scatters > 0 && sums > 0 && scatters + sums > 12, "{scatters} {sums}");
}

/// A machine without latency whose links are fast finds less to gain than one with slow links.
#[test]
fn shorter_by_the_rates_that_it_was_given() {
    let degrees = Degrees { data: 2, tensor: 2, ..Degrees::ONE };
    let cx = PassCx { machine: machine(), degrees, zero_stage: 3, ..PassCx::new(Target::X86V4) };
    let m = fused(
        &Arch { grad_accum: 4, seq: 8, embed: 8, heads: 4, head_dim: 2, ffn: 16, ..arch() },
        &cx,
        0.5,
    );
    let blocking = Times::new(&cx).blocking(&m, "train_step");
    let mut same = m.clone();
    let report = run_pass(&mut same, &overlap_collectives::PASS, &cx).unwrap();
    assert!(report.notes[0].contains("shorter"), "{:?}", report.notes);
    assert!(blocking > 0.0);
    let one = PassCx { degrees: Degrees::ONE, ..cx };
    let mut alone = m.clone();
    run_pass(&mut alone, &overlap_collectives::PASS, &one).unwrap();
    assert!(alone.functions == m.functions, "one rank has nothing to overlap");
}

/// The next weights are on their way beside a kernel that takes longer than they do, not asked for behind it.
#[test]
fn weights_are_gathered_beside_a_long_kernel() {
    let mut machine = machine();
    // A matmul of 16 rows takes 6.6 us, what it needs next 2 us.
    machine.rates.flops = 1e10;
    machine.within = Link { bandwidth: 2e9, latency: 0.0 };
    let degrees = Degrees { data: 2, ..Degrees::ONE };
    let cx = PassCx { machine, degrees, zero_stage: 3, ..PassCx::new(Target::X86V4) };
    let sizes = Arch { seq: 8, embed: 32, heads: 4, head_dim: 8, ffn: 64, layers: 2, ..arch() };
    let mut m = fused(&Arch { grad_accum: 2, ..sizes }, &cx, 0.5);
    run_pass(&mut m, &overlap_collectives::PASS, &cx).unwrap();
    let text = outline(m.function("train_step.block.fwd").unwrap());
    let line = |what: &str| text.lines().position(|l| l.trim_start().starts_with(what)).unwrap();
    assert!(line("start all_gather data [embed 32, ffn 64]") < line("matmul"), "{text}");
}
