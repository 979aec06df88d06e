//! What partitioning makes of a layer and of the head, as snapshots: Megatron's column and row pattern, the
//! divided vocabulary, sequence parallelism, the stages of ZeRO, a pipeline's programs.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::fmt::Write;

use common::{arch, moe};
use neoxc_ir::cluster::{Link, Machine};
use neoxc_ir::op::Class;
use neoxc_ir::target::Target;
use neoxc_ir::{DType, Function, Module, OpKind, TensorType, ValueId};
use neoxc_models::arch::{Arch, Capacity, Moe};
use neoxc_passes::pass::Degrees;
use neoxc_passes::pipeline::{Phase, run_pass, run_phase};
use neoxc_passes::{PassCx, assign_layouts, split_cross_entropy};

fn sharded(cx: PassCx) -> Module {
    partitioned(cx, arch())
}

fn partitioned(cx: PassCx, a: Arch) -> Module {
    let sizes =
        Arch { seq: 8, embed: 8, heads: 4, head_dim: 2, ffn: 16, layers: 4, grad_accum: 4, ..a };
    let mut m = common::build(&sizes).unwrap();
    for phase in [Phase::Rewritten, Phase::Grad, Phase::Sharded] {
        run_phase(&mut m, phase, &cx).unwrap();
    }
    m
}

fn short(ty: &TensorType) -> String {
    ty.dims.iter().map(|d| format!("{} {}", d.name, d.size)).collect::<Vec<_>>().join(", ")
}

/// Matmuls and collectives of a function with the sizes of one rank's values.
fn outline(f: &Function) -> String {
    let mut out = format!("@{}\n", f.name);
    for op in &f.ops {
        let collective = op.kind.def().class() == Class::Collective;
        let rows = [OpKind::Gather, OpKind::ScatterAdd].contains(&op.kind);
        let loss = op.kind.name().contains("cross_entropy");
        let matmul = [OpKind::Matmul, OpKind::Repeat, OpKind::Map].contains(&op.kind);
        let experts = ["grouped_matmul", "grouped_weight", "dispatch", "combine"];
        if !collective && !rows && !loss && !matmul && !experts.contains(&op.kind.name()) {
            continue;
        }
        let mut words = vec![op.kind.name().to_string()];
        for key in ["axis", "from", "dim", "contract"] {
            words.extend(op.attrs.str(key).map(str::to_string));
        }
        words.extend(op.attrs.symbol("callee").map(|c| format!("@{c}")));
        words.extend(op.attrs.int("count").map(|n| format!("× {n}")));
        if op.kind != OpKind::Repeat {
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

/// The embedding, the head and their gradients with half of the vocabulary on each rank; in a chunk of
/// tokens one collective of three numbers per token and rank.
#[test]
fn the_vocabulary_is_divided() {
    let cx = cx(Degrees { tensor: 2, ..Degrees::ONE });
    let a = Arch { vocab: 48, tied: true, ..arch() };
    let m = partitioned(PassCx { sequence_parallel: true, ..cx }, a.clone());
    insta::assert_snapshot!("the_vocabulary_and_the_sequence", outlines(&m, &["micro_step"]));
    let m = partitioned(cx, a);
    let whole = outlines(&m, &["micro_step", "logits"]);
    let mut chunks = m.clone();
    run_pass(&mut chunks, &split_cross_entropy::PASS, &PassCx::new(Target::X86V4)).unwrap();
    let heads: Vec<&str> = chunks.functions.iter().map(|f| &*f.name).collect();
    let heads: Vec<&str> = heads.into_iter().filter(|n| n.starts_with("head_chunk")).collect();
    insta::assert_snapshot!(format!("{whole}{}", outlines(&chunks, &heads)));
}

/// Only bytes on the link take time here. A micro-batch has 16 tokens. A sum of what ranks have looked up goes around a ring twice, so that it is
/// cheaper to put a table of less than 32 rows together; of at most 16 where the sum would be scattered
/// along the sequence. Gradients of rows are then summed rather than those of tokens put together.
#[test]
fn collectives_are_those_that_move_fewer_bytes() {
    let mut all = String::new();
    let link = Link { bandwidth: 1e9, latency: 0.0 };
    let mut machine = Machine { within: link, ..Machine::of(Target::X86V4) };
    (machine.rates.launch_seconds, machine.rates.memory_bytes) = (0.0, 1e18);
    for (vocab, sequence_parallel) in
        [(12, false), (24, false), (32, false), (12, true), (16, true), (24, true)]
    {
        let tensor = Degrees { tensor: 2, ..Degrees::ONE };
        let cx = PassCx { sequence_parallel, machine, ..cx(tensor) };
        let m = partitioned(cx, Arch { vocab, ..arch() });
        let step = outline(m.function("micro_step").unwrap());
        let around = |l: &&str| {
            ["gather", "scatter", "reduce"].iter().any(|w| l.contains(w)) || l.contains("repeat")
        };
        let lines: Vec<&str> = step.lines().filter(around).collect();
        writeln!(all, "{vocab} rows, sequence divided: {sequence_parallel}").unwrap();
        writeln!(all, "{}", lines.join("\n")).unwrap();
    }
    insta::assert_snapshot!(all);
}

/// Where the ranks do not divide it, every one of them has all of it, and a note says so.
#[test]
fn an_uneven_vocabulary_stays_whole() {
    for (vocab, note) in [(12, None), (11, Some("`vocab`: 2 ranks do not divide 11"))] {
        let cx = cx(Degrees { tensor: 2, ..Degrees::ONE });
        let mut m = common::build(&Arch { vocab, ffn: 8, ..arch() }).unwrap();
        for phase in [Phase::Rewritten, Phase::Grad] {
            run_phase(&mut m, phase, &cx).unwrap();
        }
        let report = run_pass(&mut m, &assign_layouts::PASS, &cx).unwrap();
        assert_eq!(report.notes.first().map(String::as_str), note);
        let f = m.function("train_step").unwrap();
        for attrs in f.param_attrs.iter().filter(|a| {
            let name = a.str("neox.param").or(a.str("neox.name")).unwrap_or_default();
            ["gpt_neox.embed_in.weight", "embed_out.weight"].contains(&name)
        }) {
            let layout = attrs.strs("neox.layout");
            assert_eq!(layout, note.is_none().then(|| vec!["tensor", ""]));
        }
    }
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
    insta::assert_snapshot!(outlines(&m, &["micro_step", "micro_step.last", "train_step"]));
}

#[test]
fn zero_1_scatters_gradients_and_gathers_weights() {
    let m = sharded(PassCx { zero_stage: 1, ..cx(Degrees { data: 2, ..Degrees::ONE }) });
    insta::assert_snapshot!(outlines(&m, &["block.bwd", "micro_step.last", "train_step"]));
}

#[test]
fn zero_3_works_layer_by_layer() {
    let m = sharded(PassCx { zero_stage: 3, ..cx(Degrees { data: 2, ..Degrees::ONE }) });
    insta::assert_snapshot!(outlines(&m, &["block.fwd", "block.bwd", "train_step"]));
}

#[test]
fn stages_of_a_pipeline() {
    let m = sharded(cx(Degrees { pipe: 2, data: 2, ..Degrees::ONE }));
    let classes = m.attrs.strs("neox.classes").unwrap().join("\n");
    let schedule = m.attrs.strs("neox.schedule_train").unwrap().join("\n");
    // Of the second class what the first one has not.
    let names = [
        "train_enter",
        "train_forward",
        "train_backward",
        "train_leave",
        "train_finish",
        "train_head_1",
        "train_finish_1",
    ];
    insta::assert_snapshot!(format!("{classes}\n{schedule}\n{}", outlines(&m, &names)));
}

/// Between matmuls the sequence is divided, in attention the heads: all-to-alls change one for the other.
#[test]
fn context_ranks_divide_the_heads_in_attention() {
    let m = sharded(cx(Degrees { context: 2, ..Degrees::ONE }));
    insta::assert_snapshot!(outlines(&m, &["block.fwd", "block.bwd"]));
}

/// Ranks know the masks of their parts without asking: dropout adds no collective but what a rank takes of
/// numbers that it has.
#[test]
fn dropout_sends_nothing() {
    for d in [
        Degrees { tensor: 2, ..Degrees::ONE },
        Degrees { context: 2, data: 2, ..Degrees::ONE },
        Degrees { context: 2, tensor: 2, ..Degrees::ONE },
        Degrees { pipe: 2, context: 2, ..Degrees::ONE },
        Degrees { expert: 2, ..Degrees::ONE },
    ] {
        for (sequence_parallel, biases) in [(false, true), (true, true), (true, false)] {
            let a = Arch {
                batch: 2 * d.expert,
                groups: d.expert,
                attention_bias: biases,
                mlp_bias: biases,
                // A parallel residual's two branches have one gradient without dropout, which is put together
                // once along the sequence; with it they have one each.
                parallel_residual: !sequence_parallel,
                ..arch()
            };
            let dropped = Arch { hidden_dropout: 0.1, attention_dropout: 0.1, ..a.clone() };
            let cx = PassCx { sequence_parallel, ..cx(d) };
            let count = |a: Arch| {
                let mut n = std::collections::BTreeMap::new();
                let m = partitioned(cx, a);
                // Without dropout, @block is evaluation's.
                let trains = |f: &&Function| !f.name.starts_with("eval") && f.name != "block";
                for op in m.functions.iter().filter(trains).flat_map(|f| &f.ops) {
                    if op.kind.def().class() == Class::Collective && op.kind != OpKind::TakePart {
                        let axis = op.attrs.str("axis").unwrap_or_default().to_string();
                        *n.entry((op.kind.name(), axis)).or_insert(0) += 1;
                    }
                }
                n
            };
            assert_eq!(count(dropped), count(a), "{d:?} {sequence_parallel} {biases}");
        }
    }
}

/// Backward makes norms again from the layer's input, and activations from the sums that their gradients read as well, in
/// the same kernel.
#[test]
fn norms_and_activations_are_made_again() {
    for precision in [DType::F32, DType::Bf16] {
        let mut m = partitioned(cx(Degrees::ONE), Arch { precision, ..arch() });
        run_phase(&mut m, Phase::Fused, &cx(Degrees::ONE)).unwrap();
        let of = |end: &str| m.functions.iter().find(|f| f.name.ends_with(end)).unwrap();
        let (forward, backward) = (of("block.fwd"), of("block.bwd"));
        let results = |dim: &str| {
            let of = |v: &&ValueId| forward.ty(**v).has(dim);
            forward.results.iter().filter(of).count()
        };
        // The second is the layer's input, of which norms are made again.
        assert_eq!([results("ffn"), results("embed")], [1, 2], "{precision:?}");
        let kernels = backward.ops.iter().filter_map(|op| m.function(op.attrs.symbol("callee")?));
        let with = |name: &str| -> Vec<&Function> {
            kernels.clone().filter(|k| k.ops.iter().any(|op| op.kind.name() == name)).collect()
        };
        let (again, gradient) = (with("gelu"), with("gelu_grad"));
        assert_eq!((again.len(), gradient.len()), (1, 1), "{precision:?}");
        assert_eq!(again[0].name, gradient[0].name, "{precision:?}");
        assert_eq!(again[0].attrs.str("neox.kernel"), Some("matmul"), "{precision:?}");
    }
}

/// Dropout costs no pass over memory of its own where something makes its operand or takes its result: it is
/// in the epilogue of the matmul in front of it, and in the attention.
#[test]
fn dropout_is_fused() {
    let kernels = |a: Arch, entry: &str| {
        let mut m = partitioned(cx(Degrees::ONE), a);
        run_phase(&mut m, Phase::Fused, &cx(Degrees::ONE)).unwrap();
        let f = m.functions.iter().find(|f| f.name.ends_with(entry)).unwrap();
        let of = |op: &neoxc_ir::Op| m.function(op.attrs.symbol("callee")?).cloned();
        f.ops.iter().filter_map(of).collect::<Vec<Function>>()
    };
    for parallel_residual in [true, false] {
        let a = Arch { parallel_residual, ..arch() };
        let dropped = Arch { hidden_dropout: 0.1, attention_dropout: 0.1, ..a.clone() };
        let forward = kernels(dropped.clone(), "block.fwd");
        assert_eq!(forward.len(), kernels(a.clone(), "block.fwd").len());
        let dropping = |k: &&Function| k.ops.iter().any(|op| op.kind == OpKind::Dropout);
        let families: Vec<&str> =
            forward.iter().filter(dropping).filter_map(|k| k.attrs.str("neox.kernel")).collect();
        assert_eq!(families, ["matmul", "matmul"], "{parallel_residual}");
        // Backward, the gradient of each branch has a mask of its own: a copy of the stream's each.
        let backward = kernels(dropped, "block.bwd");
        let more = backward.len() - kernels(a, "block.bwd").len();
        assert!(more <= 2, "{more} more kernels");
    }
}

fn with_experts(cx: PassCx, moe: Moe) -> Module {
    let expert = cx.degrees.expert;
    partitioned(cx, Arch { moe: Some(moe), batch: 2 * expert, groups: expert, ..arch() })
}

/// Tokens go to their experts' ranks and come back: two all-to-alls forward, and each rank has its experts
/// whole.
#[test]
fn expert_ranks_send_tokens() {
    let capacity = Some(Capacity { train_factor: 1.0, eval_factor: 1.0, minimum: 1 });
    let m = with_experts(cx(Degrees { expert: 2, ..Degrees::ONE }), Moe { capacity, ..moe() });
    insta::assert_snapshot!(outlines(&m, &["block.fwd", "block.bwd"]));
}

/// Without dropping, the buffer that is sent has room for all tokens of a group; tensor ranks divide each expert.
#[test]
fn expert_ranks_send_sorted_rows() {
    let cx = PassCx { expert_tensor: true, ..cx(Degrees { expert: 2, tensor: 2, ..Degrees::ONE }) };
    let m = with_experts(cx, moe());
    insta::assert_snapshot!(outlines(&m, &["block.fwd", "block.bwd"]));
}
