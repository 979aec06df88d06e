//! `@decode`, one token after the other with what is kept, against `@logits` of the whole text: as the model
//! file wrote it, and after every phase up to kernels.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{Random, arch, inputs, llama};
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::target::Target;
use neoxc_ir::{DType, Module, TensorType};
use neoxc_models::arch::{Arch, Attention, NormPlace, Positions, QkNorm};
use neoxc_passes::PassCx;
use neoxc_passes::pass::Degrees;
use neoxc_passes::pipeline::{Phase, run_phase};

fn types(m: &Module, entry: &str) -> Vec<(String, TensorType)> {
    let f = m.function(entry).unwrap();
    let name = |a: &neoxc_ir::Attrs| {
        let rounded = a.str("neox.role") == Some("rounded");
        let name = a.str("neox.name").or(a.str("neox.param")).filter(|_| !rounded);
        name.unwrap_or_default().to_string()
    };
    f.params.iter().zip(&f.param_attrs).map(|(p, a)| (name(a), f.ty(*p).clone())).collect()
}

/// Whether an input is what is kept of the tokens before, of all layers or of one of each period.
fn is_cache(name: &str) -> bool {
    name.starts_with("keys") || name.starts_with("values")
}

/// Every row of the text's logits from `@decode`, against `@logits`, to within so much of their size.
fn compare(m: &Module, x: &[Tensor], what: &str, tolerance: f64) {
    let whole = types(m, "logits");
    let at = |name: &str| whole.iter().position(|(n, _)| n == name).unwrap();
    let text = x[at("tokens")].data.clone();
    let decode = types(m, "decode");
    let mut kept: Vec<(String, Tensor)> = decode
        .iter()
        .filter(|(n, _)| is_cache(n))
        // What is not there yet is never read.
        .map(|(n, ty)| (n.clone(), Tensor::fill(ty.clone(), f64::NAN)))
        .collect();
    let weights = m.function("round_weights").map_or(vec![], |_| {
        let of = |(name, _): (String, TensorType)| x[at(&name)].clone();
        let operands: Vec<Tensor> = types(m, "round_weights").into_iter().map(of).collect();
        run(m, "round_weights", &operands).unwrap()
    });
    for (place, token) in text.iter().enumerate() {
        let mut all = x.to_vec();
        all[at("last")].data = vec![place as f64];
        all.extend(weights.iter().cloned());
        let want = run(m, "logits", &all).unwrap();
        let mut rounded = weights.iter().cloned();
        let operands: Vec<Tensor> = decode
            .iter()
            .map(|(name, ty)| match name.as_str() {
                "tokens" => Tensor::new(ty.clone(), vec![*token]),
                "count" => Tensor::new(ty.clone(), vec![place as f64]),
                name if is_cache(name) => kept.iter().find(|(n, _)| n == name).unwrap().1.clone(),
                "" => rounded.next().unwrap(),
                name => x[at(name)].clone(),
            })
            .collect();
        let got = run(m, "decode", &operands).unwrap();
        assert!(rounded.next().is_none(), "{what}");
        let size = want[0].data.iter().fold(0f64, |m, x| m.max(x.abs()));
        for (a, b) in got[0].data.iter().zip(&want[0].data) {
            assert!((a - b).abs() < tolerance * size, "{what}, place {place}: {a} {b}");
        }
        for ((_, all), new) in kept.iter_mut().zip(&got[1..]) {
            let (past, width) = (all.ty.size("past").unwrap(), all.ty.size("head_dim").unwrap());
            for (n, row) in new.data.chunks_exact(width).enumerate() {
                let start = (n * past + place) * width;
                all.data[start..start + width].copy_from_slice(row);
            }
        }
    }
}

#[test]
fn tokens_one_by_one_are_the_whole_text() {
    let variants = [
        ("plain", arch()),
        ("tied", Arch { tied: true, parallel_residual: false, ..arch() }),
        ("learned", Arch { positions: Positions::Learned { rows: 9 }, ..arch() }),
        (
            "learned with an offset",
            Arch { positions: Positions::Learned { rows: 11 }, position_offset: 2, ..arch() },
        ),
        ("sines", Arch { positions: Positions::Sinusoidal, embedding_scale: 0.5, ..arch() }),
        ("none", Arch { positions: Positions::None, attention_bias: false, ..arch() }),
        ("norms of heads", Arch { qk_norm: QkNorm::Head, head_dim: 4, ..llama() }),
        (
            "norms after branches",
            Arch { qk_norm: QkNorm::Width, norm_place: NormPlace::After, ..llama() },
        ),
        ("windows", Arch { attention: vec![Attention::Sliding; 2], window: Some(3), ..arch() }),
        (
            "windows in every second layer",
            Arch { attention: vec![Attention::Sliding], window: Some(2), ..arch() },
        ),
        (
            "two rotary bases",
            Arch {
                attention: vec![Attention::Sliding],
                window: Some(2),
                sliding_base: Some(10.0),
                query_scalar: Some(3),
                zero_centred: true,
                ..llama()
            },
        ),
        ("dropout", Arch { hidden_dropout: 0.5, attention_dropout: 0.5, ..arch() }),
    ];
    for (name, a) in variants {
        let mut m = common::build(&a).unwrap();
        let x = inputs(&m, "logits", &mut Random(11));
        compare(&m, &x, name, 1e-9);
        for phase in [Phase::Rewritten, Phase::Grad, Phase::Sharded, Phase::Fused] {
            run_phase(&mut m, phase, &PassCx::new(Target::X86V4)).unwrap();
            compare(&m, &x, &format!("{name} {phase:?}"), 1e-9);
        }
    }
}

#[test]
fn narrow_keys_are_kept_and_weights_rounded_once() {
    for (name, tied) in [("bf16", false), ("bf16 tied", true)] {
        let mut m = common::build(&Arch { precision: DType::Bf16, tied, ..arch() }).unwrap();
        let x = inputs(&m, "logits", &mut Random(12));
        for phase in [Phase::Rewritten, Phase::Grad, Phase::Sharded, Phase::Fused] {
            run_phase(&mut m, phase, &PassCx::new(Target::X86V4)).unwrap();
        }
        // Rounded in the same places but for keys and values, which are not added up in the same order.
        compare(&m, &x, name, 2e-2);
        let caches = types(&m, "decode");
        let caches = caches.iter().filter(|(n, _)| ["keys", "values", ""].contains(&&**n));
        let dtypes: Vec<DType> = caches.map(|(_, ty)| ty.dtype).collect();
        // Keys, values, four matrices of layers, the head.
        assert_eq!(dtypes, [DType::Bf16; 7], "{name}");
    }
}

#[test]
fn several_ranks_have_no_decode() {
    let degrees = Degrees { data: 2, ..Degrees::ONE };
    let cx = PassCx { degrees, ..PassCx::new(Target::X86V4) };
    let mut m = common::build(&Arch { grad_accum: 2, ..arch() }).unwrap();
    for phase in [Phase::Rewritten, Phase::Grad, Phase::Sharded] {
        run_phase(&mut m, phase, &cx).unwrap();
    }
    assert!(m.function("decode").is_none() && m.function("logits").is_some());
}
