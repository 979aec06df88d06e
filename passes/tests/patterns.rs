//! What partitioning makes of a layer, as snapshots: Megatron's column and row pattern, sequence
//! parallelism, the stages of ZeRO, a pipeline's programs.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::fmt::Write;

use common::arch;
use neoxc_ir::op::Class;
use neoxc_ir::target::Target;
use neoxc_ir::{Function, Module, TensorType};
use neoxc_models::arch::Arch;
use neoxc_passes::PassCx;
use neoxc_passes::pass::Degrees;
use neoxc_passes::pipeline::{Phase, run_phase};

fn sharded(cx: PassCx) -> Module {
    let sizes = Arch {
        seq: 8,
        embed: 8,
        heads: 4,
        head_dim: 2,
        ffn: 16,
        layers: 4,
        grad_accum: 4,
        ..arch()
    };
    let mut m = neoxc_models::build(&sizes).unwrap();
    for phase in [Phase::Rewritten, Phase::Grad, Phase::Sharded] {
        run_phase(&mut m, phase, &cx).unwrap();
    }
    m
}

fn short(ty: &TensorType) -> String {
    ty.dims.iter().map(|d| format!("{} {}", d.name, d.size)).collect::<Vec<_>>().join(", ")
}

/// Products and exchanges of a function with the sizes of one rank's values.
fn outline(f: &Function) -> String {
    let mut out = format!("@{}\n", f.name);
    for op in &f.ops {
        let exchange = op.kind.0.class() == Class::Collective;
        if !exchange && !["matmul", "repeat", "adamw"].contains(&op.kind.name()) {
            continue;
        }
        let mut words = vec![op.kind.name().to_string()];
        for key in ["axis", "from", "dim", "contract"] {
            words.extend(op.attrs.str(key).map(str::to_string));
        }
        words.extend(op.attrs.symbol("callee").map(|c| format!("@{c}")));
        words.extend(op.attrs.int("count").map(|n| format!("× {n}")));
        if !op.kind.is("repeat") {
            let (x, y) = (f.ty(op.operands[0]), f.ty(op.results[0]));
            words.push(format!("[{}] → [{}]", short(x), short(y)));
        }
        writeln!(out, "  {}", words.join(" ")).unwrap();
    }
    out
}

fn outlines(m: &Module, names: &[&str]) -> String {
    names.iter().map(|n| outline(m.function(n).unwrap())).collect()
}

fn cx(degrees: Degrees) -> PassCx {
    PassCx { degrees, ..PassCx::new(Target::X86V4) }
}

#[test]
fn megatron_columns_and_rows() {
    let m = sharded(cx(Degrees { tensor: 2, ..Degrees::ONE }));
    insta::assert_snapshot!(outlines(&m, &["block.fwd", "block.bwd"]));
}

#[test]
fn sequence_parallelism() {
    let m =
        sharded(PassCx { sequence_parallel: true, ..cx(Degrees { tensor: 2, ..Degrees::ONE }) });
    insta::assert_snapshot!(outlines(&m, &["block.fwd", "block.bwd"]));
}

#[test]
fn data_ranks_sum_once_a_step() {
    let m = sharded(cx(Degrees { data: 2, ..Degrees::ONE }));
    insta::assert_snapshot!(outlines(&m, &["micro_step", "train_step"]));
}

#[test]
fn zero_1_scatters_gradients_and_gathers_weights() {
    let m = sharded(PassCx { zero_stage: 1, ..cx(Degrees { data: 2, ..Degrees::ONE }) });
    insta::assert_snapshot!(outlines(&m, &["block.bwd", "train_step"]));
}

#[test]
fn zero_3_works_layer_by_layer() {
    let m = sharded(PassCx { zero_stage: 3, ..cx(Degrees { data: 2, ..Degrees::ONE }) });
    insta::assert_snapshot!(outlines(&m, &["block.fwd", "block.bwd", "train_step"]));
}

#[test]
fn stages_of_a_pipeline() {
    let m = sharded(cx(Degrees { pipe: 2, data: 2, ..Degrees::ONE }));
    let names = ["train_enter", "train_forward", "train_head", "train_backward", "train_leave"];
    let schedule = m.attrs.strs("neox.schedule_train").unwrap().join("\n");
    insta::assert_snapshot!(format!("{schedule}\n{}", outlines(&m, &names)));
}

/// Between products the sequence is divided, in attention the heads: all-to-alls change one for the other.
#[test]
fn context_ranks_divide_the_heads_in_attention() {
    let m = sharded(cx(Degrees { context: 2, ..Degrees::ONE }));
    insta::assert_snapshot!(outlines(&m, &["block.fwd", "block.bwd"]));
}
