//! Kernels with bfloat16 in memory against the reference evaluator. Both compute in f32 or better and round
//! once, so a result may be the neighbour of the right one: 2⁻⁸ of its size apart.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{
    Dims, F, H, Random, bytes, check, check_for, check_given, check_gpu, inputs, kernel, units,
};
use neoxc_codegen::x86::Cpu;
use neoxc_ir::eval::{Tensor, run_function};
use neoxc_ir::ops::cast::round_to;
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, Builder, DType, Function, Module, OpKind, TensorType, ValueId};

/// One place of bfloat16, and what sums in another order add.
const PLACE: f64 = 1.0 / 256.0 + 1e-5;

fn cast(b: &mut Builder<'_>, x: ValueId) -> ValueId {
    b.cast(x, H).unwrap()
}

fn wide(b: &mut Builder<'_>, x: ValueId) -> ValueId {
    b.widened(x).unwrap()
}

#[test]
fn rounding_is_that_of_an_independent_implementation() {
    let bits = [
        0x0000_0000u32,
        0x8000_0000,
        0x3f80_0000,
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_8001,
        0x3f80_7fff,
        0x7f7f_ffff,
        0xff7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x4049_0fdb,
        0xc2f6_e979,
        0x0080_0000,
        0x3effffff,
        0x42ff_7fff,
        0x42ff_8000,
    ];
    for n in [bits.len(), 16] {
        let x: Vec<f64> = bits[..n].iter().map(|b| f64::from(f32::from_bits(*b))).collect();
        let want: Vec<f64> =
            bits[..n].iter().map(|b| half::bf16::from_f32(f32::from_bits(*b)).to_f64()).collect();
        assert!(x.iter().zip(&want).all(|(x, w)| round_to(H, *x).to_bits() == w.to_bits()));
        for target in [Target::X86Native, Target::X86V3] {
            let dims = [("n", n)];
            let f = kernel("round", "rowwise", &[(&dims, F)], |b, p| {
                let y = cast(b, p[0]);
                vec![y, wide(b, y)]
            });
            let got =
                common::run_once(target, &f, &[Tensor::new(TensorType::f32(&dims), x.clone())]);
            for got in got {
                let same =
                    got.iter().zip(&want).all(|(g, w)| f64::from(*g).to_bits() == w.to_bits());
                assert!(same, "{target}: {got:?} but {want:?}");
            }
        }
    }
    // A NaN whose payload rounding would carry over stays one.
    for target in [Target::X86Native, Target::X86V3] {
        let f = kernel("nan", "rowwise", &[(&[("n", 1)], F)], |b, p| vec![cast(b, p[0])]);
        let x =
            Tensor::new(TensorType::f32(&[("n", 1)]), vec![f64::from(f32::from_bits(0x7fff_ffff))]);
        assert!(common::run_once(target, &f, &[x])[0][0].is_nan());
    }
}

#[test]
fn matmuls() {
    let mut cases = vec![];
    let sizes = [(1, 1, 1), (17, 33, 65), (64, 96, 90), (30, 49, 700)];
    for (i, (m, n, k)) in sizes.into_iter().enumerate() {
        let (a, at) = ([("m", m), ("k", k)], [("k", k), ("m", m)]);
        let (b, bt) = ([("k", k), ("n", n)], [("n", n), ("k", k)]);
        let forms: [(&str, Dims<'_>, Dims<'_>); 4] =
            [("nn", &a, &b), ("nt", &a, &bt), ("tn", &at, &b), ("tt", &at, &bt)];
        for (form, a, b) in forms {
            cases.push((
                kernel(&format!("{form}{i}"), "matmul", &[(a, H), (b, H)], |b, p| {
                    vec![b.matmul(p[0], p[1], &["k"]).unwrap()]
                }),
                1,
            ));
            cases.push((
                kernel(&format!("{form}{i}_r"), "matmul", &[(a, H), (b, H)], |b, p| {
                    let y = b.matmul(p[0], p[1], &["k"]).unwrap();
                    vec![cast(b, y)]
                }),
                1,
            ));
        }
    }
    let (a, b) = ([("b", 3), ("m", 9), ("k", 20)], [("b", 3), ("n", 35), ("k", 20)]);
    cases.push((
        kernel("batched", "matmul", &[(&a, H), (&b, H)], |b, p| {
            let y = b.matmul(p[0], p[1], &["k"]).unwrap();
            vec![cast(b, y)]
        }),
        1,
    ));
    check(&cases, PLACE);
}

/// Dot products and tile registers, where this machine has them: sums in f32, so close to the evaluator's.
#[test]
fn dot_products_of_pairs() {
    let mut cases = vec![];
    let mut r = Random(5);
    // Ragged everywhere; whole tiles, which are read in place; several blocks; an odd contraction.
    let sizes = [
        (1, 1, 2),
        (5, 40, 6),
        (33, 70, 36),
        (64, 96, 128),
        (32, 32, 2112),
        (35, 9, 2070),
        (9, 9, 7),
    ];
    for (i, (m, n, k)) in sizes.into_iter().enumerate() {
        let (a, at) = ([("m", m), ("k", k)], [("k", k), ("m", m)]);
        let (b, bt) = ([("k", k), ("n", n)], [("n", n), ("k", k)]);
        let forms: [(&str, Dims<'_>, Dims<'_>); 4] =
            [("nn", &a, &b), ("nt", &a, &bt), ("tn", &at, &b), ("tt", &at, &bt)];
        for (form, a, b) in forms {
            let bias = [("n", n)];
            let three = [(a, H), (b, H), (&bias[..], F)];
            let f = kernel(&format!("{form}{i}"), "matmul", &three, |b, p| {
                let y = b.matmul(p[0], p[1], &["k"]).unwrap();
                vec![b.add(y, p[2]).unwrap()]
            });
            let x = inputs(&f, 1, &mut r);
            cases.push((f, x));
        }
    }
    let (a, b) = ([("b", 3), ("m", 34), ("k", 64)], [("b", 3), ("n", 35), ("k", 64)]);
    let f = kernel("batched", "matmul", &[(&a, H), (&b, H)], |b, p| {
        vec![b.matmul(p[0], p[1], &["k"]).unwrap()]
    });
    let x = inputs(&f, 1, &mut r);
    cases.push((f, x));
    for cpu in units() {
        check_for(Target::X86Native, cpu, &cases, 1e-5);
    }
}

#[test]
fn epilogues() {
    let x = [("batch", 2), ("seq", 37), ("embed", 24)];
    let y = [("batch", 2), ("seq", 37), ("ffn", 50)];
    let (w, bias) = ([("ffn", 50), ("embed", 24)], [("ffn", 50)]);
    let form = Attrs::new().with("approximate", Attr::Str("tanh".into()));
    let mut cases = vec![];
    // As the lowered program has it: the matmul rounded, what is kept rounded, the rest in f32.
    cases.push((
        kernel("bias_gelu", "matmul", &[(&x, H), (&w, H), (&bias, H)], |b, p| {
            let m = b.matmul(p[0], p[1], &["embed"]).unwrap();
            let m = cast(b, m);
            let (m, bias) = (wide(b, m), wide(b, p[2]));
            let pre = b.add(m, bias).unwrap();
            let pre = cast(b, pre);
            let v = wide(b, pre);
            let y = b.one(OpKind::Gelu, &[v], form.clone()).unwrap();
            vec![pre, cast(b, y)]
        }),
        1,
    ));
    let acc = [("ffn", 50), ("embed", 24)];
    cases.push((
        kernel("accumulate", "matmul", &[(&y, H), (&x, H), (&acc, F)], |b, p| {
            let m = b.matmul(p[0], p[1], &["batch", "seq"]).unwrap();
            vec![b.add(p[2], m).unwrap()]
        }),
        1,
    ));
    // Two roundings on the way: a tie in the first may move the second by a place more.
    check(&cases, 2.0 * PLACE);
}

#[test]
fn rows_columns_and_movements() {
    let mut cases = vec![];
    for (i, (rows, width)) in [(1, 1), (5, 3), (7, 16), (33, 129)].into_iter().enumerate() {
        let x = [("batch", 1), ("seq", rows), ("embed", width)];
        let row = [("batch", 1), ("seq", rows)];
        let w = [("embed", width)];
        let norm = Attrs::new().with("dim", Attr::Str("embed".into()));
        let eps = norm.clone().with("eps", Attr::Float(1e-5));
        let (rms, rms_eps) = (norm.clone().with("rows", Attr::Int(3)), eps.clone());
        cases.push((
            kernel(&format!("norm{i}"), "rowwise", &[(&x, H), (&w, H), (&w, F)], |b, p| {
                let (x, w) = (wide(b, p[0]), wide(b, p[1]));
                let y = b.op(OpKind::LayerNorm, &[x, w, p[2]], eps).unwrap();
                vec![cast(b, y[0]), y[1], y[2]]
            }),
            1,
        ));
        let grad = [(&x[..], H), (&w[..], H), (&row[..], F), (&row[..], F), (&x[..], H)];
        cases.push((
            kernel(&format!("norm_grad{i}"), "rowwise", &grad, |b, p| {
                let (x, w, dy) = (wide(b, p[0]), wide(b, p[1]), wide(b, p[4]));
                let norm = norm.with("rows", Attr::Int(3));
                let y = b.op(OpKind::LayerNormGrad, &[x, w, p[2], p[3], dy], norm).unwrap();
                vec![cast(b, y[0]), y[1], y[2]]
            }),
            1,
        ));
        cases.push((
            kernel(&format!("rms_norm{i}"), "rowwise", &[(&x, H), (&w, H)], |b, p| {
                let (x, w) = (wide(b, p[0]), wide(b, p[1]));
                let y = b.op(OpKind::RmsNorm, &[x, w], rms_eps).unwrap();
                vec![cast(b, y[0]), y[1]]
            }),
            1,
        ));
        let grad = [(&x[..], H), (&w[..], H), (&row[..], F), (&x[..], H)];
        cases.push((
            kernel(&format!("rms_norm_grad{i}"), "rowwise", &grad, |b, p| {
                let (x, w, dy) = (wide(b, p[0]), wide(b, p[1]), wide(b, p[3]));
                let y = b.op(OpKind::RmsNormGrad, &[x, w, p[2], dy], rms).unwrap();
                vec![cast(b, y[0]), y[1]]
            }),
            1,
        ));
        // An update that rounds the new weight on its way.
        let one: Dims<'_> = &[];
        let state = [(&x[..], F), (&x[..], F), (&x[..], F), (&x[..], F)];
        let rates = [(one, F), (one, F), (one, F), (one, F)];
        cases.push((
            kernel(&format!("update{i}"), "rowwise", &[state, rates].concat(), |b, p| {
                // The second moment and its correction are positive.
                let square = b.mul(p[3], p[3]).unwrap();
                let half = b.scalar(0.5).unwrap();
                let operands = [p[0], p[1], p[2], square, p[4], half, half, p[7]];
                let settings = "adam beta1=0.9 beta2=0.95 eps=0.001 weight_decay=0.1";
                let y = common::update(b, &operands, settings);
                vec![y[0], y[1], y[2], cast(b, y[0])]
            }),
            1,
        ));
        cases.push((
            kernel(&format!("columns{i}"), "columnwise", &[(&x, H), (&w, F)], |b, p| {
                let x = wide(b, p[0]);
                let s = b.reduce_sum(x, &["batch", "seq"]).unwrap();
                vec![b.add(p[1], s).unwrap()]
            }),
            1,
        ));
        cases.push((
            kernel(&format!("moved{i}"), "copy", &[(&x, H)], |b, p| {
                vec![b.transpose_to(p[0], &["embed", "batch", "seq"]).unwrap()]
            }),
            1,
        ));
        let table = [("vocab", 11), ("embed", width)];
        cases.push((
            kernel(
                &format!("rows{i}"),
                "gather_rows",
                &[(&table, H), (&row, DType::I32)],
                |b, p| vec![b.op(OpKind::Gather, p, Attrs::new()).unwrap()[0]],
            ),
            11,
        ));
        let looked_up = [(&table[..], F), (&row[..], DType::I32)];
        cases.push((
            kernel(&format!("rounded_rows{i}"), "gather_rows", &looked_up, |b, p| {
                let y = b.one(OpKind::Gather, p, Attrs::new()).unwrap();
                vec![cast(b, y)]
            }),
            11,
        ));
        let into = Attrs::new().with("dim", Attr::Str("vocab".into())).with("size", Attr::Int(11));
        let sums = [(&row[..], DType::I32), (&x[..], H), (&table[..], F)];
        cases.push((
            kernel(&format!("sums{i}"), "scatter_rows", &sums, |b, p| {
                let s = b.one(OpKind::ScatterAdd, &p[..2], into).unwrap();
                vec![b.add(p[2], s).unwrap()]
            }),
            11,
        ));
    }
    check(&cases, PLACE);
}

/// Weights are rounded too, as operands of matmuls: a place of theirs on top of the result's.
#[test]
fn attention_and_its_gradient() {
    const I: DType = DType::I32;
    let mut cases = vec![];
    // Rows that are whole, and not; several blocks of queries, chunks and panels of keys; scores that rescale.
    let sizes = [(1, 4, 1.0), (33, 20, 1.0), (96, 64, 1.0), (290, 24, 8.0), (131, 7, 1.0)];
    let mut r = Random(5);
    for (i, (seq, width, sharp)) in sizes.into_iter().enumerate() {
        let (batch, heads) = if seq < 90 { (2, 3) } else { (1, 2) };
        let q = [("batch", batch), ("heads", heads), ("seq", seq), ("head_dim", width)];
        let y = [("batch", batch), ("seq", seq), ("heads", heads), ("head_dim", width)];
        let lse = [("batch", batch), ("heads", heads), ("seq", seq)];
        let (row, keys) = ([("batch", batch), ("seq", seq)], [("kv_seq", seq)]);
        let each = [("heads", heads)];
        let ids = [(&row[..], I), (&[][..], I), (&keys[..], I), (&each[..], I)];
        let three = [(&q[..], H); 3];
        let six = [&three[..], &[(&y[..], H), (&lse[..], F), (&y[..], H)]].concat();
        let scale = Attr::Float(sharp / (width as f64).sqrt());
        for (op, rate, ids) in [("", 0.0, &ids[..0]), ("dropout_", 0.3, &ids)] {
            let mut attrs = Attrs::new().with("scale", scale.clone());
            if rate > 0.0 && ![33, 290].contains(&seq) {
                continue;
            }
            if rate > 0.0 {
                attrs = attrs.with("rate", Attr::Float(rate));
                attrs = attrs.with("seed", Attr::Int(1)).with("site", Attr::Int(2));
            }
            let forward = [&three[..], ids].concat();
            let f = kernel(&format!("{op}attend{i}"), "attention", &forward, |b, p| {
                b.named(&format!("{op}attention"), p, attrs.clone()).unwrap()
            });
            let backward = [&six[..], ids].concat();
            let gradient = |name: &str, attrs: Attrs| {
                kernel(&format!("{op}{name}{i}"), "attention_grad", &backward, |b, p| {
                    b.named(&format!("{op}attention_grad"), p, attrs).unwrap()
                })
            };
            let g = gradient("attend_grad", attrs.clone());
            // Runs of whole blocks of queries, and of others.
            let runs = attrs.with("keys", Attr::Int(if seq > 130 { 128 } else { 40 }));
            let in_parts = gradient("attend_parts", runs);
            // The gradient reads what the forward pass made.
            let mut x = common::inputs(&g, 1 << 20, &mut r);
            let given = [&x[..3], &x[6..]].concat();
            let made = run_function(&Module::new(), &f, &given).unwrap();
            x.splice(3..5, made);
            cases.extend([(f, given), (g, x.clone()), (in_parts, x)]);
        }
    }
    for cpu in units() {
        // Small panels, of which there are several.
        check_for(Target::X86Native, Cpu { l2: 1 << 10, ..cpu }, &cases, 2.0 * PLACE);
    }
    check_given(Target::X86V3, &cases, PLACE);
    check_gpu(&cases, PLACE);
}

#[test]
fn attention_to_what_is_kept() {
    let mut cases = vec![];
    for (i, (heads, past, width)) in [(1, 1, 4), (3, 13, 24), (2, 40, 33)].into_iter().enumerate() {
        let q = [("batch", 1), ("heads", heads), ("seq", 1), ("head_dim", width)];
        let kept = [("batch", 1), ("heads", heads), ("past", past), ("head_dim", width)];
        let mut types = vec![(&q[..], H); 3];
        types.extend([(&kept[..], H), (&kept[..], H), (&[("seq", 1)], DType::I32)]);
        let scale = Attrs::new().with("scale", Attr::Float(1.0 / (width as f64).sqrt()));
        let f = kernel(&format!("kept{i}"), "cached_attention", &types, |b, p| {
            b.op(OpKind::CachedAttention, p, scale).unwrap()
        });
        cases.push((f, past + 1));
    }
    check(&cases, PLACE);
}

/// The gradient of logits is rounded once, also at the label, where a probability near 1 less 1 is small.
#[test]
fn losses_with_rounded_gradients() {
    let mut cases = vec![];
    for (i, (rows, classes)) in [(1, 2), (5, 37), (7, 160), (6, 2500)].into_iter().enumerate() {
        let x = [("rows", rows), ("vocab", classes)];
        let row = [("rows", rows)];
        let over = Attrs::new().with("dim", Attr::Str("vocab".into()));
        let params = [(&x[..], F), (&row[..], DType::I32), (&row[..], F)];
        let whole = kernel(&format!("loss{i}"), "cross_entropy", &params, |b, p| {
            let out = b.op(OpKind::CrossEntropy, &p[..2], over.clone()).unwrap();
            let d = [p[0], p[1], out[1], p[2]];
            let d = b.one(OpKind::CrossEntropyGrad, &d, over.clone()).unwrap();
            vec![out[0], cast(b, d)]
        });
        let part = [
            (&x[..], F),
            (&row[..], DType::I32),
            (&row[..], F),
            (&row[..], F),
            (&[("rank", 1)][..], DType::I32),
        ];
        let part = kernel(&format!("part{i}"), "cross_entropy", &part, |b, p| {
            let d = b.one(OpKind::CrossEntropyGrad, p, over).unwrap();
            vec![cast(b, d)]
        });
        cases.extend([(whole, classes), (part, 3 * classes)]);
    }
    check(&cases, PLACE);
}

#[test]
fn a_function_of_an_unknown_dtype_is_refused_by_name() {
    let f: Function = kernel("double", "copy", &[(&[("n", 4), ("m", 2)], DType::F64)], |b, p| {
        vec![b.transpose_to(p[0], &["m", "n"]).unwrap()]
    });
    let e = neoxc_codegen::kernels::build(&Module::new(), &f, Target::X86Native).unwrap_err();
    assert!(e.to_string().contains("f64"), "{e}");
    assert_eq!(bytes(&Tensor::new(TensorType::scalar(H), vec![1.0])), [0x80, 0x3f]);
}
