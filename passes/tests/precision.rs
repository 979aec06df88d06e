//! Programs with bfloat16: what is a half and what is not, and that they compute what the f32 ones do, to
//! within roundings.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{Random, arch, inputs, moe};
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::target::Target;
use neoxc_ir::{DType, Function, Module, text, verify};
use neoxc_models::arch::{Arch, Capacity, Moe};
use neoxc_passes::PassCx;
use neoxc_passes::pipeline::{Phase, run_phase};

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
        ("tied", Arch { tied: true, parallel_residual: false, gelu_tanh: true, ..a.clone() }),
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
    let mut m = neoxc_models::build(&Arch { precision: DType::Bf16, ..a.clone() }).unwrap();
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
        let mut wide = neoxc_models::build(&a).unwrap();
        through(&mut wide, &TO_SHARDED);
        let mut half = lowered(&a);
        for entry in ["eval_step", "logits", "train_step"] {
            let x = inputs(&wide, entry, &mut Random(21));
            let want = run(&wide, entry, &x).unwrap();
            let got = run(&half, entry, &x).unwrap();
            // Loss and norm of a step stand last. Adam makes a step of any gradient, so its results differ by
            // at most twice the learning rate.
            let (state, numbers) = (want.len().saturating_sub(2), want.len());
            for i in if entry == "train_step" { state } else { 0 }..numbers {
                let error = far(&want[i], &got[i]);
                assert!(error > 1e-9, "{name} @{entry}: result {i} is not rounded");
                assert!(error < 0.05, "{name} @{entry}: result {i} is {error} off");
            }
        }
        let x = inputs(&half, "train_step", &mut Random(4));
        let want = run(&half, "train_step", &x).unwrap();
        through(&mut half, &[Phase::Fused]);
        let got = run(&half, "train_step", &x).unwrap();
        for (i, (a, b)) in want.iter().zip(&got).enumerate() {
            // Sums of chunks have another order, which may move a rounding.
            let error = far(a, b);
            assert!(error < 1e-2, "{name}: fused, result {i} is {error} off");
        }
    }
}

#[test]
fn state_is_f32_and_what_products_read_is_half() {
    for (name, a) in variants() {
        let m = lowered(&a);
        for entry in ["train_step", "eval_step", "logits"] {
            let f = m.function(entry).unwrap();
            assert!(!dtypes(f).contains(&DType::Bf16), "{name} @{entry} shows a half");
        }
        let step = m.function("train_step").unwrap();
        let copies: Vec<_> = step
            .ops
            .iter()
            .filter(|op| op.kind.is("cast") && step.params.contains(&op.operands[0]))
            .map(|op| op.operands[0])
            .collect();
        let mut distinct = copies.clone();
        distinct.dedup();
        assert_eq!(copies, distinct, "{name}: a parameter is rounded twice in a step");
        // A matrix per product of a layer, and the head; of an embedding only rows are rounded.
        let want = 5 + usize::from(a.moe.is_some());
        assert_eq!(copies.len(), want, "{name}");
        for f in m.functions.iter().filter(|f| f.name != "setup") {
            for op in &f.ops {
                let ty = |v: &neoxc_ir::ValueId| f.ty(*v).dtype;
                match op.kind.name() {
                    "matmul" | "grouped_matmul" => {
                        assert!(op.operands[..2].iter().all(|v| ty(v) == DType::Bf16), "{name}");
                        assert_eq!(ty(&op.results[0]), DType::F32);
                    }
                    "layer_norm" | "gelu" | "adamw" | "softmax" | "reduce_sum" | "add" => {
                        let all = op.operands.iter().chain(&op.results);
                        assert!(all.into_iter().all(|v| ty(v) == DType::F32), "{name}");
                    }
                    "attention" => assert_eq!(ty(&op.results[1]), DType::F32),
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

#[test]
fn a_half_that_no_target_has_is_refused() {
    let mut m = neoxc_models::build(&Arch { precision: DType::F16, ..arch() }).unwrap();
    through(&mut m, &TO_SHARDED[..2]);
    let e = run_phase(&mut m, Phase::Sharded, &cx()).unwrap_err();
    assert!(e.to_string().contains("f16"), "{e}");
}
