//! Kernels with f16 in memory against the reference evaluator. Both compute in f32 or better and round once, so a result
//! may be the neighbour of the right one: 2⁻¹¹ of its size apart.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{Dims, F, Random, check, check_everywhere, kernel, run_once};
use neoxc_ir::eval::{Tensor, run_function};
use neoxc_ir::ops::cast::round_to;
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, Builder, DType, Module, OpKind, TensorType, ValueId};

const H: DType = DType::F16;
const I: DType = DType::I32;

/// One place of f16, and what sums in another order add.
const PLACE: f64 = 1.0 / 2048.0 + 1e-5;

fn cast(b: &mut Builder<'_>, x: ValueId) -> ValueId {
    b.cast(x, H).unwrap()
}

fn wide(b: &mut Builder<'_>, x: ValueId) -> ValueId {
    b.widened(x).unwrap()
}

/// Ties, the largest number and what rounds past it, the smallest normal and subnormal numbers and halves of these.
fn edges() -> Vec<f64> {
    let mut all =
        vec![0.0, 1.0, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65_504.0, 65_519.9, 65_520.0];
    all.extend([
        1e6,
        3e38,
        f64::INFINITY,
        6.1035e-5,
        6.0976e-5,
        5.9605e-8,
        2f64.powi(-25),
        2.98e-8,
    ]);
    all.extend([2.99e-8, 8.94e-8, 1.5 * 2f64.powi(-24), 2.5 * 2f64.powi(-24), 1e-40, 0.1, 1e-5]);
    let negative: Vec<f64> = all.iter().map(|x| -x).collect();
    all.extend(negative);
    all.iter().map(|x| f64::from(*x as f32)).collect()
}

#[test]
fn rounding_is_that_of_an_independent_implementation() {
    let mut r = Random(3);
    // Bits of any f32 that is a number.
    let mut many = edges();
    for _ in 0..4096 {
        let any = r.next() as u32;
        // Any f32, and one of the size that f16 has.
        let near = 0x3000_0000 + (any >> 3);
        many.extend([any, near].map(|bits| f64::from(f32::from_bits(bits))));
    }
    many.retain(|x| !x.is_nan());
    let right = |x: &f64| half::f16::from_f32(*x as f32).to_f64();
    for x in &many {
        assert_eq!(round_to(H, *x).to_bits(), right(x).to_bits(), "{x:e}");
    }
    for (target, n) in [Target::X86Native, Target::X86V3].into_iter().zip([0, 3]) {
        // Whole vectors, and a tail of single elements.
        let x = &many[..many.len() - n];
        let dims = [("n", x.len())];
        let f = kernel("round", "rowwise", &[(&dims, F)], |b, p| {
            let y = cast(b, p[0]);
            vec![y, wide(b, y)]
        });
        for got in run_once(target, &f, &[Tensor::new(TensorType::f32(&dims), x.to_vec())]) {
            for (x, g) in x.iter().zip(&got) {
                assert_eq!(f64::from(*g).to_bits(), right(x).to_bits(), "{target}: {x:e}");
            }
        }
    }
    for target in [Target::X86Native, Target::X86V3] {
        let f = kernel("nan", "rowwise", &[(&[("n", 1)], F)], |b, p| vec![cast(b, p[0])]);
        let x = f64::from(f32::from_bits(0x7f80_0001));
        let x = Tensor::new(TensorType::f32(&[("n", 1)]), vec![x]);
        assert!(run_once(target, &f, &[x])[0][0].is_nan());
    }
}

/// All 65536 patterns are read as they are.
#[test]
fn every_f16_is_widened_exactly() {
    let numbers: Vec<f64> = (0..=u16::MAX).map(|b| half::f16::from_bits(b).to_f64()).collect();
    let ty = TensorType::f32(&[("n", 1 << 16)]).with_dtype(H);
    let f = kernel("widen", "rowwise", &[(&[("n", 1 << 16)], H)], |b, p| vec![wide(b, p[0])]);
    for target in [Target::X86Native, Target::X86V3] {
        let got = run_once(target, &f, &[Tensor::new(ty.clone(), numbers.clone())]).remove(0);
        for (x, g) in numbers.iter().zip(got) {
            let same = x.is_nan() && g.is_nan() || f64::from(g).to_bits() == x.to_bits();
            assert!(same, "{target}: {x:e} but {g:e}");
        }
    }
}

#[test]
fn matmuls_and_what_follows_them() {
    let mut cases = vec![];
    for (i, (m, n, k)) in [(1, 1, 1), (17, 33, 65), (30, 49, 700)].into_iter().enumerate() {
        let (a, at) = ([("m", m), ("k", k)], [("k", k), ("m", m)]);
        let (b, bt) = ([("k", k), ("n", n)], [("n", n), ("k", k)]);
        let forms: [(&str, Dims<'_>, Dims<'_>); 3] =
            [("nn", &a, &b), ("nt", &a, &bt), ("tn", &at, &b)];
        for (form, a, b) in forms {
            let f = kernel(&format!("{form}{i}"), "matmul", &[(a, H), (b, H)], |b, p| {
                let y = b.matmul(p[0], p[1], &["k"]).unwrap();
                vec![cast(b, y)]
            });
            cases.push((f, 1));
        }
    }
    let x = [("batch", 2), ("seq", 37), ("embed", 24)];
    let (w, bias) = ([("ffn", 50), ("embed", 24)], [("ffn", 50)]);
    let form = Attrs::new().with("approximate", Attr::Str("tanh".into()));
    let f = kernel("bias_gelu", "matmul", &[(&x, H), (&w, H), (&bias, F)], |b, p| {
        let m = b.matmul(p[0], p[1], &["embed"]).unwrap();
        let pre = b.add(m, p[2]).unwrap();
        let pre = cast(b, pre);
        let v = wide(b, pre);
        let y = b.one(OpKind::Gelu, &[v], form).unwrap();
        vec![pre, cast(b, y)]
    });
    cases.push((f, 1));
    check(&cases, 2.0 * PLACE);
}

/// A matmul adds in f32: a sum may pass the largest f16, and is rounded to infinity only then.
#[test]
fn what_is_too_large_becomes_infinite_where_it_is_stored() {
    let (a, b) = ([("m", 2), ("k", 3)], [("n", 2), ("k", 3)]);
    let f = kernel("large", "matmul", &[(&a, H), (&b, H)], |b, p| {
        let y = b.matmul(p[0], p[1], &["k"]).unwrap();
        vec![cast(b, y)]
    });
    let ty = |dims: Dims<'_>| TensorType::f32(dims).with_dtype(H);
    let a = Tensor::new(ty(&a), vec![300.0, 300.0, 0.0, 60_000.0, 60_000.0, -60_000.0]);
    let b = Tensor::new(ty(&b), vec![300.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    for target in [Target::X86Native, Target::X86V3] {
        let got = run_once(target, &f, &[a.clone(), b.clone()]).remove(0);
        // 90000 and 18000000 do not fit; 60000 + 60000 - 60000 does, though its first sum does not.
        assert_eq!(got, [f32::INFINITY, 600.0, f32::INFINITY, 60_000.0]);
    }
}

#[test]
fn rows_columns_and_movements() {
    let mut cases = vec![];
    for (i, (rows, width)) in [(1, 1), (5, 3), (33, 129)].into_iter().enumerate() {
        let x = [("batch", 1), ("seq", rows), ("embed", width)];
        let row = [("batch", 1), ("seq", rows)];
        let w = [("embed", width)];
        let norm =
            Attrs::new().with("dim", Attr::Str("embed".into())).with("eps", Attr::Float(1e-5));
        let f = kernel(&format!("norm{i}"), "rowwise", &[(&x, H), (&w, F), (&w, F)], |b, p| {
            let x = wide(b, p[0]);
            let y = b.op(OpKind::LayerNorm, &[x, p[1], p[2]], norm).unwrap();
            vec![cast(b, y[0]), y[1], y[2]]
        });
        cases.push((f, 1));
        let f = kernel(&format!("columns{i}"), "columnwise", &[(&x, H), (&w, F)], |b, p| {
            let x = wide(b, p[0]);
            let s = b.reduce_sum(x, &["batch", "seq"]).unwrap();
            vec![b.add(p[1], s).unwrap()]
        });
        cases.push((f, 1));
        let f = kernel(&format!("moved{i}"), "copy", &[(&x, H)], |b, p| {
            vec![b.transpose_to(p[0], &["embed", "batch", "seq"]).unwrap()]
        });
        cases.push((f, 1));
        let table = [("vocab", 11), ("embed", width)];
        let f = kernel(&format!("rows{i}"), "gather_rows", &[(&table, F), (&row, I)], |b, p| {
            let y = b.one(OpKind::Gather, p, Attrs::new()).unwrap();
            vec![cast(b, y)]
        });
        cases.push((f, 11));
        let over = Attrs::new().with("dim", Attr::Str("vocab".into()));
        let (x, row) = ([("rows", rows), ("vocab", 12 * width)], [("rows", rows)]);
        let f = kernel(
            &format!("loss{i}"),
            "cross_entropy",
            &[(&x, F), (&row, I), (&row, F)],
            |b, p| {
                let out = b.op(OpKind::CrossEntropy, &p[..2], over.clone()).unwrap();
                let d = [p[0], p[1], out[1], p[2]];
                let d = b.one(OpKind::CrossEntropyGrad, &d, over).unwrap();
                vec![out[0], cast(b, d)]
            },
        );
        cases.push((f, 12 * width));
    }
    check(&cases, PLACE);
}

#[test]
fn attention_and_its_gradient() {
    let mut cases = vec![];
    let mut r = Random(5);
    for (i, (seq, width)) in [(1, 4), (33, 20), (131, 7)].into_iter().enumerate() {
        let q = [("batch", 1), ("heads", 2), ("seq", seq), ("head_dim", width)];
        let y = [("batch", 1), ("seq", seq), ("heads", 2), ("head_dim", width)];
        let lse = [("batch", 1), ("heads", 2), ("seq", seq)];
        let three = [(&q[..], H); 3];
        let six = [&three[..], &[(&y[..], H), (&lse[..], F), (&y[..], H)]].concat();
        let attrs = Attrs::new().with("scale", Attr::Float(1.0 / (width as f64).sqrt()));
        let f = kernel(&format!("attend{i}"), "attention", &three, |b, p| {
            b.named("attention", p, attrs.clone()).unwrap()
        });
        let g = kernel(&format!("attend_grad{i}"), "attention_grad", &six, |b, p| {
            b.named("attention_grad", p, attrs.clone()).unwrap()
        });
        // The gradient reads what the forward pass made.
        let mut x = common::inputs(&g, 1, &mut r);
        let given = x[..3].to_vec();
        x.splice(3..5, run_function(&Module::new(), &f, &given).unwrap());
        cases.extend([(f, given), (g, x)]);
        let kept = [("batch", 1), ("heads", 2), ("past", seq), ("head_dim", width)];
        let one = [("batch", 1), ("heads", 2), ("seq", 1), ("head_dim", width)];
        let mut types = vec![(&one[..], H); 3];
        types.extend([(&kept[..], H), (&kept[..], H), (&[("seq", 1)], I)]);
        let f = kernel(&format!("kept{i}"), "cached_attention", &types, |b, p| {
            b.op(OpKind::CachedAttention, p, attrs).unwrap()
        });
        let x = common::inputs(&f, seq, &mut r);
        cases.push((f, x));
    }
    check_everywhere(&cases, 2.0 * PLACE);
}
