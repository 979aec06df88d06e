//! Programs with bfloat16 and fp16: which values have 16 bits and which have not, and that they compute what the f32 ones
//! do, to within roundings.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{Random, arch, inputs, moe, with_rounded};
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::target::Target;
use neoxc_ir::{DType, Function, Module, OpKind, text, verify};
use neoxc_models::arch::{Arch, Capacity, Moe};
use neoxc_models::blocks::activations::Activation;
use neoxc_passes::PassCx;
use neoxc_passes::pass::Degrees;
use neoxc_passes::pipeline::{Phase, find, run_pass, run_phase};

fn cx() -> PassCx {
    PassCx { chunk_bytes: 88, ..PassCx::new(Target::X86Native) }
}

fn through(m: &mut Module, phases: &[Phase]) {
    for phase in phases {
        run_phase(m, *phase, &cx()).unwrap_or_else(|e| panic!("{e}"));
        let parsed = text::parse(&text::print(m)).unwrap();
        assert!(&parsed == m, "{} does not round-trip", phase.name());
        verify(&parsed).unwrap();
    }
}

const TO_SHARDED: [Phase; 3] = [Phase::Rewritten, Phase::Grad, Phase::Sharded];

fn variants() -> Vec<(&'static str, Arch)> {
    let a = arch();
    let dropping = Capacity { train_factor: 0.9, eval_factor: 1.6, minimum: 1 };
    let experts = Moe { capacity: Some(dropping), top_k: 2, loss_coeff: 0.3, ..moe() };
    vec![
        ("parallel", a.clone()),
        (
            "tied",
            Arch {
                tied: true,
                parallel_residual: false,
                activation: Activation::GeluTanh,
                ..a.clone()
            },
        ),
        ("groups", Arch { checkpoint: Some(2), layers: 4, grad_accum: 2, ..a.clone() }),
        ("dropout", Arch { hidden_dropout: 0.3, attention_dropout: 0.2, ..a.clone() }),
        (
            "dropout again",
            Arch { hidden_dropout: 0.3, attention_dropout: 0.2, checkpoint: Some(1), ..a.clone() },
        ),
        ("experts", Arch { moe: Some(moe()), ..a.clone() }),
        ("experts balanced", Arch { moe: Some(experts), grad_accum: 2, ..a }),
    ]
}

fn lowered(a: &Arch) -> Module {
    let mut m = common::build(&Arch { precision: DType::Bf16, ..a.clone() }).unwrap();
    through(&mut m, &TO_SHARDED);
    m
}

fn dtypes(f: &Function) -> Vec<DType> {
    f.params.iter().chain(&f.results).map(|v| f.ty(*v).dtype).collect()
}

/// The largest distance of two tensors, of the larger one's size.
fn far(a: &Tensor, b: &Tensor) -> f64 {
    let size = a.data.iter().fold(1e-12f64, |m, x| m.max(x.abs()));
    a.data.iter().zip(&b.data).map(|(x, y)| (x - y).abs() / size).fold(0.0, f64::max)
}

#[test]
fn a_step_is_that_of_f32_but_for_roundings() {
    for (name, a) in variants() {
        let mut wide = common::build(&a).unwrap();
        through(&mut wide, &TO_SHARDED);
        let mut narrow = lowered(&a);
        for entry in ["eval_step", "logits", "train_step"] {
            let x = inputs(&wide, entry, &mut Random(21));
            let want = run(&wide, entry, &x).unwrap();
            let mut got = run(&narrow, entry, &with_rounded(&narrow, entry, x)).unwrap();
            // Last stand the rounded weights of a step.
            got.truncate(want.len());
            // Loss and norm of a step stand last. Adam makes a step of any gradient, so its results differ by
            // at most twice the learning rate.
            let (state, numbers) = (want.len().saturating_sub(2), want.len());
            for i in if entry == "train_step" { state } else { 0 }..numbers {
                let error = far(&want[i], &got[i]);
                assert!(error > 1e-9, "{name} @{entry}: result {i} is not rounded");
                assert!(error < 0.05, "{name} @{entry}: result {i} is {error} off");
            }
        }
        let x = inputs(&narrow, "train_step", &mut Random(4));
        let want = run(&narrow, "train_step", &x).unwrap();
        through(&mut narrow, &[Phase::Fused]);
        let got = run(&narrow, "train_step", &x).unwrap();
        for (i, (a, b)) in want.iter().zip(&got).enumerate() {
            // Sums of chunks have another order, which may move a rounding.
            let error = far(a, b);
            assert!(error < 1e-2, "{name}: fused, result {i} is {error} off");
        }
    }
}

/// The step of fp16 is given the scale of its loss, also where gradients start inside layers, and nothing of the scale is
/// left in what it makes.
#[test]
fn a_step_of_fp16_is_that_of_f32_whatever_the_scale() {
    for (name, a) in variants() {
        let mut wide = common::build(&a).unwrap();
        through(&mut wide, &TO_SHARDED);
        let want = run(&wide, "train_step", &inputs(&wide, "train_step", &mut Random(21))).unwrap();
        let mut narrow = common::build(&Arch { precision: DType::F16, ..a }).unwrap();
        through(&mut narrow, &TO_SHARDED);
        let f = narrow.function("train_step").unwrap();
        let scale = f.param_attrs.iter().position(|a| a.str("neox.name") == Some("loss_scale"));
        let mut x = inputs(&narrow, "train_step", &mut Random(21));
        let (results, scale) = (neoxc_ir::Output::all(f).unwrap(), scale.unwrap());
        for power in [0, 6, 12] {
            x[scale] = Tensor::fill(x[scale].ty.clone(), f64::from(1 << power));
            let got = run(&narrow, "train_step", &x).unwrap();
            for (i, (a, b)) in want.iter().zip(&got).enumerate() {
                // Adam makes a step of any gradient; its first moment is a mean of gradients.
                if matches!(&results[i], neoxc_ir::Output::Parameter(_)) {
                    continue;
                }
                let error = far(a, b);
                assert!(error < 0.01, "{name}, 2^{power}: {} is {error} off", results[i]);
            }
        }
        // Too large a scale is seen in the norm.
        x[scale] = Tensor::fill(x[scale].ty.clone(), 2f64.powi(40));
        let got = run(&narrow, "train_step", &x).unwrap();
        assert!(!got[want.len() - 1].data[0].is_finite(), "{name}");
        assert!(got[want.len() - 2].data[0].is_finite(), "{name}");
        for entry in ["eval_step", "logits"] {
            let given = |a: &neoxc_ir::Attrs| a.str("neox.name") == Some("loss_scale");
            assert!(
                !narrow.function(entry).unwrap().param_attrs.iter().any(given),
                "{name} @{entry}"
            );
        }
    }
}

#[test]
fn state_is_f32_and_what_matmuls_read_is_bf16() {
    for (name, a) in variants() {
        let m = lowered(&a);
        for entry in ["train_step", "eval_step", "logits"] {
            let f = m.function(entry).unwrap();
            let rounded = f.param_attrs.iter().filter(|a| a.str("neox.role") == Some("rounded"));
            // A matrix per matmul of a layer, and the head; of an embedding only rows are rounded.
            let want = 5 + usize::from(a.moe.is_some());
            assert_eq!(rounded.count(), want, "{name} @{entry}");
            let handed_on = if entry == "train_step" { want } else { 0 };
            let low = dtypes(f).into_iter().filter(|d| *d == DType::Bf16).count();
            assert_eq!(low, want + handed_on, "{name} @{entry} shows another bf16 value");
            let casts = f.ops.iter().filter(|op| op.kind == OpKind::Cast);
            let again = casts.filter(|op| f.params.contains(&op.operands[0])).count();
            assert_eq!(again, 0, "{name} @{entry} rounds what is kept");
        }
        for f in m.functions.iter().filter(|f| f.name != "setup") {
            for op in &f.ops {
                let ty = |v: &neoxc_ir::ValueId| f.ty(*v).dtype;
                match op.kind {
                    OpKind::Matmul | OpKind::GroupedMatmul => {
                        assert!(op.operands[..2].iter().all(|v| ty(v) == DType::Bf16), "{name}");
                        assert_eq!(ty(&op.results[0]), DType::F32);
                    }
                    OpKind::LayerNorm
                    | OpKind::Gelu
                    | OpKind::Map
                    | OpKind::Softmax
                    | OpKind::ReduceSum
                    | OpKind::Add => {
                        let all = op.operands.iter().chain(&op.results);
                        assert!(all.into_iter().all(|v| ty(v) == DType::F32), "{name}");
                    }
                    OpKind::Attention => assert_eq!(ty(&op.results[1]), DType::F32),
                    _ => {}
                }
            }
        }
        // The residual stream, and what a layer keeps for its gradient.
        let block = m.function("block.fwd").unwrap();
        assert_eq!(block.ty(block.params[0]).dtype, DType::Bf16, "{name}");
        assert_eq!(block.ty(block.results[0]).dtype, DType::Bf16, "{name}");
        for v in &block.results {
            let ty = block.ty(*v);
            let statistic = !["embed", "ffn", "head_dim"].iter().any(|d| ty.has(d));
            let want = if statistic { DType::F32 } else { DType::Bf16 };
            assert!(ty.dtype == want || !ty.dtype.is_float(), "{name}: {ty}");
        }
        let gradients = m.function("micro_step").unwrap();
        let (last, sums) = gradients.results.split_last().unwrap();
        assert!(sums.iter().chain([last]).all(|v| gradients.ty(*v).dtype == DType::F32), "{name}");
    }
}

/// Rounding is moved, not changed: what a step computes from the weights alone it computes from their kept copies,
/// and hands on those of the weights that it makes.
#[test]
fn rounded_weights_are_those_of_the_weights() {
    for (name, a) in variants() {
        let mut m = common::build(&Arch { precision: DType::Bf16, ..a }).unwrap();
        through(&mut m, &TO_SHARDED[..2]);
        for pass in ["select-entries", "assign-layouts", "partition-program", "lower-precision"] {
            run_pass(&mut m, &find(pass).unwrap(), &cx()).unwrap();
        }
        let before = m.clone();
        run_pass(&mut m, &find("keep-weights").unwrap(), &cx()).unwrap();
        for entry in ["train_step", "eval_step", "logits"] {
            let x = inputs(&before, entry, &mut Random(31));
            let want = run(&before, entry, &x).unwrap();
            let mut got = run(&m, entry, &with_rounded(&m, entry, x)).unwrap();
            if entry == "train_step" {
                let made = got.split_off(want.len());
                let weights = m.function("round_weights").unwrap().params.len();
                let rounded = run(&m, "round_weights", &got[..weights]).unwrap();
                assert!(!made.is_empty() && made == rounded, "{name}");
            }
            assert_eq!(want, got, "{name} @{entry}");
        }
    }
}

/// A weight of which data ranks update a part each is rounded where it is whole.
#[test]
fn divided_updates_leave_rounding_to_the_step() {
    let a = Arch { precision: DType::Bf16, grad_accum: 2, ..arch() };
    let degrees = Degrees { data: 2, ..Degrees::ONE };
    for (zero_stage, kept) in [(0, true), (1, false)] {
        let mut m = common::build(&a).unwrap();
        let cx = PassCx { degrees, zero_stage, ..cx() };
        for phase in TO_SHARDED {
            run_phase(&mut m, phase, &cx).unwrap();
        }
        assert_eq!(m.function("round_weights").is_some(), kept, "ZeRO {zero_stage}");
    }
}

#[test]
fn a_dtype_that_no_target_has_is_refused() {
    let mut m = common::build(&Arch { precision: DType::F64, ..arch() }).unwrap();
    through(&mut m, &TO_SHARDED[..2]);
    let e = run_phase(&mut m, Phase::Sharded, &cx()).unwrap_err();
    assert!(e.to_string().contains("f64"), "{e}");
}

/// One sweep: a kernel reads weight, gradient and state once, and stores the new ones, and the rounded weight, in their
/// places.
#[test]
fn an_update_is_one_kernel_that_works_in_place() {
    for (precision, rounds) in [(DType::F32, 0), (DType::Bf16, 1)] {
        let mut m = common::build(&Arch { precision, ..arch() }).unwrap();
        through(&mut m, &TO_SHARDED);
        through(&mut m, &[Phase::Fused]);
        let f = m.function("train_step").unwrap();
        let outputs = neoxc_ir::Output::all(f).unwrap();
        let mut rounded = 0;
        for (n, what) in outputs.iter().enumerate() {
            let neoxc_ir::Output::Parameter(name) = what else { continue };
            let call = f.ops.iter().find(|op| op.results.contains(&f.results[n])).unwrap();
            let kernel = m.function(call.attrs.symbol("callee").unwrap()).unwrap();
            assert!(kernel.ops.iter().all(|op| op.kind != OpKind::Map), "{name}");
            let made: Vec<_> = call
                .results
                .iter()
                .map(|r| outputs[f.results.iter().position(|x| x == r).unwrap()].to_string())
                .collect();
            let state = ["exp_avg", "exp_avg_sq"].map(|slot| format!("state {slot} {name}"));
            assert!(state.iter().all(|s| made.contains(s)), "{name}: {made:?}");
            rounded += made.len() - 3;
            // Weight, gradient, two slots; three numbers of the step and the scale of the gradient.
            assert_eq!(call.operands.len(), 8, "{name}");
            let pairs = kernel.attrs.ints("neox.inplace").unwrap();
            let size = kernel.ty(kernel.results[0]);
            for (result, operand) in [(0, 0), (1, 2), (2, 3)] {
                assert_eq!(kernel.ty(kernel.params[operand]), size, "{name}");
                assert!(
                    pairs.chunks(2).any(|p| p == [result, operand as i64]),
                    "{name}: {pairs:?}"
                );
            }
        }
        assert!(if rounds > 0 { rounded >= 5 } else { rounded == 0 }, "{rounded}");
    }
}
