//! Every kernel family against the reference evaluator: odd sizes, tails, poisoned outputs, and
//! task ranges split in different ways with the same bits as the result.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{Dims, F, Random, check, check_everywhere, inputs, kernel, update};
use neoxc_ir::eval::{Tensor, run_function};
use neoxc_ir::{Attr, Attrs, Builder, DType, Dim, Function, Module, OpKind, TensorType, ValueId};

fn matmul(name: &str, a: Dims<'_>, b: Dims<'_>, contract: &[&str]) -> (Function, usize) {
    (
        kernel(name, "matmul", &[(a, F), (b, F)], |k, p| {
            vec![k.matmul(p[0], p[1], contract).unwrap()]
        }),
        1,
    )
}

#[test]
fn matmuls_in_every_layout() {
    let mut cases = vec![];
    // Ragged ones; and whole tiles, whose operands are read in place or packed in groups of rows.
    let sizes = [
        (1, 1, 1),
        (3, 5, 7),
        (17, 33, 65),
        (64, 100, 130),
        (130, 49, 600),
        (40, 200, 1100),
        (64, 96, 90),
        (192, 48, 530),
        (24, 80, 700),
    ];
    for (i, (m, n, k)) in sizes.into_iter().enumerate() {
        let (a, at) = ([("m", m), ("k", k)], [("k", k), ("m", m)]);
        let (b, bt) = ([("k", k), ("n", n)], [("n", n), ("k", k)]);
        cases.push(matmul(&format!("nn{i}"), &a, &b, &["k"]));
        cases.push(matmul(&format!("nt{i}"), &a, &bt, &["k"]));
        cases.push(matmul(&format!("tn{i}"), &at, &b, &["k"]));
        cases.push(matmul(&format!("tt{i}"), &at, &bt, &["k"]));
    }
    let (a, b) = ([("b", 3), ("m", 9), ("k", 20)], [("b", 3), ("n", 35), ("k", 20)]);
    cases.push(matmul("batched", &a, &b, &["k"]));
    let (x, w) = ([("batch", 2), ("seq", 13), ("h", 3), ("d", 8)], [("e", 24), ("h", 3), ("d", 8)]);
    cases.push(matmul("many_dims", &x, &w, &["h", "d"]));
    check(&cases, 1e-5);
}

/// One row: tokens made one by one. With a bias and an accumulation behind it.
#[test]
fn one_row_times_a_matrix() {
    let mut cases = vec![];
    for (i, (n, k)) in
        [(1, 1), (5, 40), (16, 16), (50, 129), (33, 7), (64, 300), (64, 320), (50, 416)]
            .into_iter()
            .enumerate()
    {
        let (x, w) = ([("batch", 1), ("seq", 1), ("embed", k)], [("ffn", n), ("embed", k)]);
        let (bias, y) = ([("ffn", n)], [("batch", 1), ("seq", 1), ("ffn", n)]);
        for (name, dtype) in [("f32", F), ("bf16", DType::Bf16)] {
            let params = [(&x[..], dtype), (&w[..], dtype), (&bias[..], F), (&y[..], F)];
            cases.push((
                kernel(&format!("row{i}_{name}"), "matmul", &params, |b, p| {
                    let m = b.matmul(p[0], p[1], &["embed"]).unwrap();
                    let m = b.add(m, p[2]).unwrap();
                    vec![b.add(p[3], m).unwrap()]
                }),
                1,
            ));
        }
    }
    check(&cases, 1e-5);
}

#[test]
fn matmul_epilogues() {
    let x = [("batch", 2), ("seq", 37), ("embed", 24)];
    let y = [("batch", 2), ("seq", 37), ("ffn", 50)];
    let (w, bias) = ([("ffn", 50), ("embed", 24)], [("ffn", 50)]);
    let mut cases = vec![];
    for form in ["none", "tanh"] {
        let name = format!("bias_gelu_{form}");
        let form = Attrs::new().with("approximate", Attr::Str(form.into()));
        let attrs = form.clone();
        // With what is made of the operand alone.
        let again = form.clone();
        cases.push((
            kernel(
                &format!("{name}_grad_and_again"),
                "matmul",
                &[(&x, F), (&w, F), (&y, F)],
                |k, p| {
                    let y = k.one(OpKind::Gelu, &[p[2]], again.clone()).unwrap();
                    let m = k.matmul(p[0], p[1], &["embed"]).unwrap();
                    vec![k.one(OpKind::GeluGrad, &[p[2], m], again).unwrap(), y]
                },
            ),
            1,
        ));
        cases.push((
            kernel(&name, "matmul", &[(&x, F), (&w, F), (&bias, F)], |k, p| {
                let m = k.matmul(p[0], p[1], &["embed"]).unwrap();
                let pre = k.add(m, p[2]).unwrap();
                vec![pre, k.one(OpKind::Gelu, &[pre], attrs).unwrap()]
            }),
            1,
        ));
        cases.push((
            kernel(&format!("{name}_grad"), "matmul", &[(&x, F), (&w, F), (&y, F)], |k, p| {
                let m = k.matmul(p[0], p[1], &["embed"]).unwrap();
                vec![k.one(OpKind::GeluGrad, &[p[2], m], form).unwrap()]
            }),
            1,
        ));
    }
    // A gate of which what it opens is made beside another matmul, and both gradients behind one.
    let silu = |k: &mut Builder<'_>, x| {
        let share = k.unary(OpKind::Logistic, x).unwrap();
        (share, k.mul(x, share).unwrap())
    };
    cases.push((
        kernel("gated", "matmul", &[(&x, F), (&w, F), (&y, F)], |k, p| {
            let (_, open) = silu(k, p[2]);
            let up = k.matmul(p[0], p[1], &["embed"]).unwrap();
            vec![up, k.mul(open, up).unwrap()]
        }),
        1,
    ));
    cases.push((
        kernel("gated_grad", "matmul", &[(&x, F), (&w, F), (&y, F), (&y, F)], |k, p| {
            let (share, open) = silu(k, p[2]);
            let again = k.mul(open, p[3]).unwrap();
            let d = k.matmul(p[0], p[1], &["embed"]).unwrap();
            let (up, one) = (k.mul(d, open).unwrap(), k.scalar(1.0).unwrap());
            let d = k.mul(d, p[3]).unwrap();
            let rest = k.sub(one, share).unwrap();
            let slope = k.mul(open, rest).unwrap();
            let slope = k.add(slope, share).unwrap();
            vec![again, up, k.mul(d, slope).unwrap()]
        }),
        1,
    ));
    let v = [("batch", 2), ("seq", 37), ("embed2", 50)];
    let acc = [("ffn", 50), ("embed", 24)];
    cases.push((
        kernel("accumulate", "matmul", &[(&y, F), (&x, F), (&acc, F)], |k, p| {
            let m = k.matmul(p[0], p[1], &["batch", "seq"]).unwrap();
            vec![k.add(p[2], m).unwrap()]
        }),
        1,
    ));
    let _ = v;
    check(&cases, 1e-5);
}

#[test]
fn rows_and_columns() {
    let mut cases = vec![];
    let sizes = [(1, 1), (5, 3), (7, 16), (9, 40), (33, 129), (6, 256)];
    for (i, (rows, width)) in sizes.into_iter().enumerate() {
        let x = [("batch", 1), ("seq", rows), ("embed", width)];
        let row = [("batch", 1), ("seq", rows)];
        let w = [("embed", width)];
        let norm = Attrs::new().with("dim", Attr::Str("embed".into()));
        let attrs = norm.clone().with("eps", Attr::Float(1e-5));
        let eps = attrs.clone();
        cases.push((
            kernel(&format!("norm{i}"), "rowwise", &[(&x, F), (&w, F), (&w, F)], |k, p| {
                k.op(OpKind::LayerNorm, p, attrs).unwrap()
            }),
            1,
        ));
        cases.push((
            kernel(&format!("rms_norm{i}"), "rowwise", &[(&x, F), (&w, F)], |k, p| {
                k.op(OpKind::RmsNorm, p, eps).unwrap()
            }),
            1,
        ));
        let grad = [(&x[..], F), (&w[..], F), (&row[..], F), (&row[..], F), (&x[..], F)];
        // Runs of one row, and such of which the last is shorter; with a residual that joins, and the sums alone.
        for run in [1, 2, 4] {
            let norm = norm.clone().with("rows", Attr::Int(run));
            let runs = norm.clone();
            let added = [&grad[..], &[(&x[..], F)]].concat();
            cases.push((
                kernel(&format!("norm_grad{i}_{run}"), "rowwise", &added, |k, p| {
                    let y = k.op(OpKind::LayerNormGrad, &p[..5], norm.clone()).unwrap();
                    vec![y[2], k.add(p[5], y[0]).unwrap(), y[1]]
                }),
                1,
            ));
            cases.push((
                kernel(&format!("norm_sums{i}_{run}"), "rowwise", &grad, |k, p| {
                    k.op(OpKind::LayerNormGrad, p, norm).unwrap()[1..].to_vec()
                }),
                1,
            ));
            let rms = [(&x[..], F), (&w[..], F), (&row[..], F), (&x[..], F), (&x[..], F)];
            cases.push((
                kernel(&format!("rms_norm_grad{i}_{run}"), "rowwise", &rms, |k, p| {
                    let y = k.op(OpKind::RmsNormGrad, &p[..4], runs).unwrap();
                    vec![k.add(p[4], y[0]).unwrap(), y[1]]
                }),
                1,
            ));
            let along = Attrs::new().with("dim", Attr::Str("embed".into()));
            cases.push((
                kernel(&format!("runs{i}_{run}"), "rowwise", &[(&x, F)], |k, p| {
                    vec![k.one(OpKind::SumRuns, p, along.with("rows", Attr::Int(run))).unwrap()]
                }),
                1,
            ));
        }
        cases.push((
            kernel(&format!("columns{i}"), "columnwise", &[(&x, F), (&row, F), (&w, F)], |k, p| {
                let y = k.mul(p[0], p[1]).unwrap();
                let s = k.reduce_sum(y, &["batch", "seq"]).unwrap();
                vec![k.add(p[2], s).unwrap()]
            }),
            1,
        ));
        cases.push((
            kernel(&format!("squares{i}"), "rowwise", &[(&x, F)], |k, p| {
                vec![k.one(OpKind::SumSquares, &[p[0]], Attrs::new()).unwrap()]
            }),
            1,
        ));
        cases.push((
            kernel(&format!("mixed{i}"), "rowwise", &[(&x, F), (&row, F), (&w, F)], |k, p| {
                let a = k.add(p[0], p[1]).unwrap();
                let b = k.mul(a, p[2]).unwrap();
                let c = k.unary(OpKind::Tanh, b).unwrap();
                let d = k.unary(OpKind::Erf, c).unwrap();
                vec![k.unary(OpKind::Exp, d).unwrap(), c]
            }),
            1,
        ));
    }
    let big = [("x", 70_001)];
    cases.push((
        kernel("big_sum", "rowwise", &[(&big, F)], |k, p| {
            vec![k.one(OpKind::SumSquares, &[p[0]], Attrs::new()).unwrap()]
        }),
        1,
    ));
    let settings = "adam beta1=0.9 beta2=0.95 eps=0.01 weight_decay=0.1";
    let adam: Vec<(Dims<'_>, DType)> =
        std::iter::repeat_n((&big[..], F), 4).chain(std::iter::repeat_n((&[][..], F), 4)).collect();
    cases.push((
        kernel("update", "rowwise", &adam, |k, p| {
            // v, and the corrections, must be positive.
            let v = k.mul(p[3], p[3]).unwrap();
            let one = k.scalar(1.5).unwrap();
            let (c1, c2) = (k.add(p[5], one).unwrap(), k.add(p[6], one).unwrap());
            update(k, &[p[0], p[1], p[2], v, p[4], c1, c2, p[7]], settings)
        }),
        1,
    ));
    cases.push((
        kernel("scalars", "rowwise", &[(&[], F), (&[], F)], |k, p| {
            let s = k.mul(p[0], p[0]).unwrap();
            let r = k.unary(OpKind::Sqrt, s).unwrap();
            let one = k.scalar(1.0).unwrap();
            let d = k.add(r, one).unwrap();
            let q = k.div(p[1], d).unwrap();
            vec![k.one(OpKind::Minimum, &[q, one], Attrs::new()).unwrap(), r]
        }),
        1,
    ));
    check(&cases, 2e-6);
}

#[test]
fn attention_forward_and_backward() {
    let mut cases = vec![];
    // The last ones: several chunks of keys, large scores that rescale what was summed before.
    let small = [
        (1, 1, 1, 4),
        (2, 3, 13, 24),
        (1, 2, 64, 32),
        (2, 1, 131, 16),
        (1, 1, 200, 72),
        (1, 1, 96, 48),
    ];
    let small = small.map(|size| (size, 1.0));
    let sizes = [&small[..], &[((1, 1, 310, 8), 25.0), ((1, 1, 150, 128), 4.0)]].concat();
    for (i, ((b, h, s, d), sharp)) in sizes.into_iter().enumerate() {
        let q = [("batch", b), ("heads", h), ("seq", s), ("head_dim", d)];
        let out = [("batch", b), ("seq", s), ("heads", h), ("head_dim", d)];
        let scale = Attrs::new().with("scale", Attr::Float(sharp / (d as f64).sqrt()));
        let attrs = scale.clone();
        cases.push((
            kernel(&format!("attention{i}"), "attention", &[(&q, F), (&q, F), (&q, F)], |k, p| {
                k.op(OpKind::Attention, p, attrs).unwrap()
            }),
            1,
        ));
        let attrs = scale.clone();
        let name = format!("attention_forward_only{i}");
        cases.push((
            kernel(&name, "attention", &[(&q, F), (&q, F), (&q, F)], |k, p| {
                vec![k.op(OpKind::Attention, p, attrs).unwrap()[0]]
            }),
            1,
        ));
        let lse = [("batch", b), ("heads", h), ("seq", s)];
        let six =
            [(&q[..], F), (&q[..], F), (&q[..], F), (&out[..], F), (&lse[..], F), (&out[..], F)];
        // Whole, and in runs of keys: whole tiles, parts of them, more than there are.
        for keys in [None, Some([1, 5, 32, 50, 96, 96, 96, 61][i]), Some(s + 1)] {
            let name = format!("attention_grad{i}_{}", keys.unwrap_or(0));
            let attrs = match keys {
                None => scale.clone(),
                Some(keys) => scale.clone().with("keys", Attr::Int(keys as i64)),
            };
            cases.push((
                kernel(&name, "attention_grad", &six, |k, p| {
                    k.op(OpKind::AttentionGrad, p, attrs).unwrap()
                }),
                1,
            ));
        }
    }
    check(&cases, 1e-5);
}

/// One token and what is kept of those before it, of which there may be none.
#[test]
fn attention_to_what_is_kept() {
    const I: DType = DType::I32;
    let mut cases = vec![];
    for (i, (h, past, d)) in
        [(1, 1, 4), (3, 13, 24), (2, 64, 32), (1, 131, 72), (5, 7, 1)].into_iter().enumerate()
    {
        let q = [("batch", 1), ("heads", h), ("seq", 1), ("head_dim", d)];
        let kept = [("batch", 1), ("heads", h), ("past", past), ("head_dim", d)];
        let types = [
            (&q[..], F),
            (&q[..], F),
            (&q[..], F),
            (&kept[..], F),
            (&kept[..], F),
            (&[("seq", 1)], I),
        ];
        for (n, count) in [1, past, past + 1].into_iter().enumerate() {
            let attrs = Attrs::new().with("scale", Attr::Float(1.0 / (d as f64).sqrt()));
            let name = format!("cached_attention{i}_{n}");
            let f = kernel(&name, "cached_attention", &types, |k, p| {
                k.op(OpKind::CachedAttention, p, attrs).unwrap()
            });
            cases.push((f, count));
        }
    }
    check(&cases, 1e-5);
}

fn drop(rate: f64) -> Attrs {
    Attrs::new()
        .with("rate", Attr::Float(rate))
        .with("seed", Attr::Int(1234))
        .with("site", Attr::Int(2))
}

/// Masks are the evaluator's bit for bit: alone, behind norms and matmuls, in front of sums.
#[test]
fn dropout_in_every_family() {
    const I: DType = DType::I32;
    let mut cases = vec![];
    let ids = 1 << 30;
    for (i, (rows, width)) in [(1, 1), (5, 3), (7, 16), (9, 40), (33, 129)].into_iter().enumerate()
    {
        let x = [("batch", 2), ("seq", rows), ("embed", width)];
        let (row, w) = ([("batch", 2), ("seq", rows)], [("embed", width)]);
        let named = [(&x[..], F), (&row[..], I), (&[][..], I), (&w[..], I), (&x[..], F)];
        cases.push((
            kernel(&format!("drop{i}"), "rowwise", &named, |k, p| {
                let y = k.one(OpKind::Dropout, &p[..4], drop(0.3)).unwrap();
                vec![k.add(y, p[4]).unwrap(), y]
            }),
            ids,
        ));
        cases.push((
            kernel(&format!("drop_first{i}"), "rowwise", &named, |k, p| {
                let layer = k.fill(0.0, &TensorType::scalar(I)).unwrap();
                vec![k.one(OpKind::Dropout, &[p[0], p[1], layer, p[3]], drop(0.9)).unwrap()]
            }),
            ids,
        ));
        cases.push((
            kernel(&format!("drop_columns{i}"), "columnwise", &named[..4], |k, p| {
                let y = k.one(OpKind::Dropout, p, drop(0.5)).unwrap();
                vec![k.reduce_sum(y, &["batch", "seq"]).unwrap()]
            }),
            ids,
        ));
        let (a, b) = ([("batch", 2), ("seq", rows), ("ffn", 5)], [("embed", width), ("ffn", 5)]);
        let matmul = [
            (&a[..], F),
            (&b[..], F),
            (&w[..], F),
            (&row[..], I),
            (&[][..], I),
            (&w[..], I),
            (&x[..], F),
        ];
        cases.push((
            kernel(&format!("drop_matmul{i}"), "matmul", &matmul, |k, p| {
                let m = k.matmul(p[0], p[1], &["ffn"]).unwrap();
                let m = k.add(m, p[2]).unwrap();
                let y = k.one(OpKind::Dropout, &[m, p[3], p[4], p[5]], drop(0.1)).unwrap();
                vec![k.add(y, p[6]).unwrap()]
            }),
            ids,
        ));
        let square = [("heads", 3), ("seq", rows), ("kv_seq", width)];
        let weights = [
            (&square[..], F),
            (&[("seq", rows)][..], I),
            (&[][..], I),
            (&[("kv_seq", width)][..], I),
            (&[("heads", 3)][..], I),
        ];
        cases.push((
            kernel(&format!("drop_weights{i}"), "rowwise", &weights, |k, p| {
                vec![k.one(OpKind::Dropout, p, drop(0.5)).unwrap()]
            }),
            ids,
        ));
    }
    let x = [("x", 70_001)];
    cases.push((
        kernel("drop_flat", "rowwise", &[(&x, F), (&[], I), (&[], I), (&x, I)], |k, p| {
            vec![k.one(OpKind::Dropout, p, drop(0.25)).unwrap()]
        }),
        ids,
    ));
    check(&cases, 1e-5);
}

#[test]
fn attention_with_dropped_weights() {
    const I: DType = DType::I32;
    let mut cases = vec![];
    let sizes = [(1, 1, 1, 4), (2, 3, 13, 24), (1, 2, 64, 32), (2, 1, 131, 16), (1, 1, 200, 72)];
    for (i, (b, h, s, d)) in sizes.into_iter().enumerate() {
        let q = [("batch", b), ("heads", h), ("seq", s), ("head_dim", d)];
        let out = [("batch", b), ("seq", s), ("heads", h), ("head_dim", d)];
        let (row, keys, heads) = ([("batch", b), ("seq", s)], [("kv_seq", s)], [("heads", h)]);
        let ids = [(&row[..], I), (&[][..], I), (&keys[..], I), (&heads[..], I)];
        let attrs = drop(0.3).with("scale", Attr::Float(1.0 / (d as f64).sqrt()));
        let three = [(&q[..], F), (&q[..], F), (&q[..], F)];
        let seven = [&three[..], &ids].concat();
        cases.push((
            kernel(&format!("dropped{i}"), "attention", &seven, |k, p| {
                k.op(OpKind::DropoutAttention, p, attrs.clone()).unwrap()
            }),
            1 << 30,
        ));
        let lse = [("batch", b), ("heads", h), ("seq", s)];
        let ten = [&three[..], &[(&out[..], F), (&lse[..], F), (&out[..], F)], &ids].concat();
        for (name, attrs) in [
            (format!("dropped_grad{i}"), attrs.clone()),
            (format!("dropped_parts{i}"), attrs.with("keys", Attr::Int([1, 5, 48, 96, 67][i]))),
        ] {
            cases.push((
                kernel(&name, "attention_grad", &ten, |k, p| {
                    k.op(OpKind::DropoutAttentionGrad, p, attrs).unwrap()
                }),
                1 << 30,
            ));
        }
    }
    check(&cases, 1e-5);
}

#[test]
fn projections_split_and_merge() {
    let mut cases = vec![];
    for (i, (b, s, h, d, half)) in
        [(1, 1, 1, 2, 1), (2, 5, 3, 24, 3), (1, 7, 2, 32, 4), (1, 3, 2, 40, 20)]
            .into_iter()
            .enumerate()
    {
        let fused = [("batch", b), ("seq", s), ("heads", h), ("qkv", 3), ("head_dim", d)];
        let part = [("batch", b), ("heads", h), ("seq", s), ("head_dim", d)];
        let table = [("seq", s), ("rot", half)];
        cases.push((
            kernel(
                &format!("split{i}"),
                "qkv_split",
                &[(&fused, F), (&table, F), (&table, F)],
                |k, p| {
                    let parts = k.op(OpKind::QkvSplit, &p[..1], Attrs::new()).unwrap();
                    let turn = |k: &mut Builder<'_>, x| {
                        k.one(OpKind::Rotary, &[x, p[1], p[2]], Attrs::new()).unwrap()
                    };
                    vec![turn(k, parts[0]), turn(k, parts[1]), parts[2]]
                },
            ),
            1,
        ));
        for (name, back) in [("turn", false), ("turn_back", true)] {
            let operands = [(&part[..], F), (&table[..], F), (&table[..], F)];
            cases.push((
                kernel(&format!("{name}{i}"), "rotary", &operands, |k, p| {
                    let sin = if back { k.unary(OpKind::Neg, p[2]).unwrap() } else { p[2] };
                    vec![k.one(OpKind::Rotary, &[p[0], p[1], sin], Attrs::new()).unwrap()]
                }),
                1,
            ));
        }
        let five =
            [(&part[..], F), (&part[..], F), (&part[..], F), (&table[..], F), (&table[..], F)];
        cases.push((
            kernel(&format!("merge{i}"), "qkv_merge", &five, |k, p| {
                let back = k.unary(OpKind::Neg, p[4]).unwrap();
                let turn = |k: &mut Builder<'_>, x| {
                    k.one(OpKind::Rotary, &[x, p[3], back], Attrs::new()).unwrap()
                };
                let (q, key) = (turn(k, p[0]), turn(k, p[1]));
                vec![k.one(OpKind::QkvMerge, &[q, key, p[2]], Attrs::new()).unwrap()]
            }),
            1,
        ));
    }
    let x = [("a", 3), ("b", 5), ("c", 7)];
    let movement = |name: &str, op: &str, attrs: Attrs| {
        (kernel(name, "copy", &[(&x, F)], |k, p| k.named(op, p, attrs).unwrap()), 1)
    };
    cases.push(movement(
        "transpose",
        "transpose",
        Attrs::new().with("dims", Attr::strs(&["c", "a", "b"])),
    ));
    let along = Attrs::new().with("dim", Attr::Str("b".into()));
    cases.push(movement(
        "slice",
        "slice",
        along.clone().with("start", Attr::Int(1)).with("size", Attr::Int(3)),
    ));
    cases.push(movement(
        "pad",
        "pad",
        along.with("before", Attr::Int(2)).with("after", Attr::Int(1)),
    ));
    check(&cases, 2e-6);
}

/// A kernel function of one op.
fn single(
    name: &str,
    family: &str,
    op: &str,
    operands: &[&Tensor],
    attrs: &Attrs,
) -> (Function, Vec<Tensor>) {
    let mut f = Function::new(name);
    f.attrs.set("neox.kernel", Attr::Str(family.into()));
    let add = |(i, t): (usize, &&Tensor)| f.add_param(&format!("p{i}"), t.ty.clone(), Attrs::new());
    let ids: Vec<ValueId> = operands.iter().enumerate().map(add).collect();
    f.results = Builder::new(&mut f).named(op, &ids, attrs.clone()).unwrap();
    (f, operands.iter().map(|t| (*t).clone()).collect())
}

/// `case`, on top of an accumulator.
fn accumulating(
    (mut f, mut x): (Function, Vec<Tensor>),
    r: &mut Random,
) -> (Function, Vec<Tensor>) {
    let ty = f.ty(f.results[0]).clone();
    let ops = std::mem::take(&mut f.ops);
    let start = f.add_param("start", ty.clone(), Attrs::new());
    f.ops = ops;
    let sum = f.results[0];
    f.results = vec![Builder::new(&mut f).add(start, sum).unwrap()];
    f.name += "_onto";
    x.push(Tensor::from_fn(ty, |_| r.unit()));
    (f, x)
}

/// Experts: routing, moving tokens, matmuls of as many rows as each expert has; some experts have none.
#[test]
fn experts() {
    let mut r = Random(5);
    let mut cases = vec![];
    let int = |n: usize| Attr::Int(n as i64);
    let of = |f: &(Function, Vec<Tensor>)| run_function(&Module::new(), &f.0, &f.1).unwrap();
    // groups, tokens, owners, experts of an owner, choices, width, width of the experts
    let shapes = [
        (1, 1, 1, 1, 1, 1, 1),
        (1, 7, 1, 3, 2, 5, 9),
        (2, 13, 2, 3, 2, 40, 33),
        (1, 150, 1, 4, 1, 64, 96),
        (3, 20, 1, 7, 3, 24, 600),
    ];
    for (i, (g, t, owners, local, k, e, n)) in shapes.into_iter().enumerate() {
        let experts = owners * local;
        let tensor =
            |r: &mut Random, dims: Dims<'_>| Tensor::from_fn(TensorType::f32(dims), |_| r.unit());
        let tokens = [("group", g), ("token", t)];
        let logits = tensor(&mut r, &[&tokens[..], &[("experts", experts)]].concat());
        let x = tensor(&mut r, &[&tokens[..], &[("embed", e)]].concat());
        let weights = tensor(&mut r, &[&tokens[..], &[("choice", k)]].concat());
        let none = Attrs::new();
        let name = |what: &str| format!("{what}{i}");
        cases.push(single(&name("sinkhorn"), "route", "sinkhorn", &[&logits], &none));
        let rounds = none.clone().with("rounds", int(3));
        cases.push(single(&name("rounds"), "route", "sinkhorn", &[&logits], &rounds));
        let top =
            single(&name("top"), "route", "top_k", &[&logits], &none.clone().with("k", int(k)));
        // Equal scores go to the lower index.
        let rounded = Tensor::from_fn(logits.ty.clone(), |_| (3.0 * r.unit()).round());
        let ties = single(&name("ties"), "route", "top_k", &[&rounded], &top.0.ops[0].attrs);
        let mut indices = of(&top)[0].clone();
        cases.extend([top, ties]);
        if experts > 2 {
            // The last expert has no tokens.
            for x in &mut indices.data {
                *x = (*x).min(experts as f64 - 2.0);
            }
        }
        let two = [&logits, &indices];
        cases.push(single(&name("take"), "route", "take_choices", &two, &none));
        let to = none.clone().with("dim", Attr::Str("experts".into())).with("size", int(experts));
        cases.push(single(&name("put"), "route", "put_choices", &[&weights, &indices], &to));
        let all = none.clone().with("experts", int(experts));
        cases.push(single(&name("load"), "route", "expert_load", &[&indices], &all));
        let capacity = all.clone().with("capacity", int((t * k).div_ceil(experts)));
        let owned = all.with("owners", int(owners));
        for (op, attrs) in [("expert_slots", capacity), ("expert_rows", owned)] {
            let name = |what: &str| format!("{what}_{op}{i}");
            let routing = single(&name("r"), "route", op, &[&indices], &attrs);
            let places = of(&routing);
            cases.push(routing);
            let (position, source) = (&places[0], &places[1]);
            let mut wide = source.ty.with_dtype(F);
            wide.dims.push(Dim::new("embed", e));
            let y = Tensor::from_fn(wide, |_| r.unit());
            for (move_op, value) in [("dispatch", &x), ("combine", &y)] {
                let plain = [value, position, source];
                let weighted = [value, position, source, &weights];
                let full = format!("{}_w", name(move_op));
                cases.push(single(&name(move_op), "move_tokens", move_op, &plain, &none));
                cases.push(single(&full, "move_tokens", move_op, &weighted, &none));
            }
            cases.push(single(
                &name("dot"),
                "move_tokens",
                "route_dot",
                &[&x, &y, position],
                &none,
            ));
            let [_, _, starts, counts] = &places[..] else { continue };
            let side = ("ffn", n);
            let (owner, local) = (("owner", owners), ("local", local));
            let contract = none.clone().with("contract", Attr::Str("embed".into()));
            let up = tensor(&mut r, &[owner, local, side, ("embed", e)]);
            let down = tensor(&mut r, &[owner, local, ("embed", e), side]);
            for (form, w) in [("nt", &up), ("nn", &down)] {
                let four = [&y, w, starts, counts];
                cases.push(single(&name(form), "matmul", "grouped_matmul", &four, &contract));
            }
            let bias = tensor(&mut r, &[owner, local, side]);
            let rows = none.clone().with("rows", int(t * k));
            let three = [&bias, starts, counts];
            let expand = single(&name("bias"), "move_tokens", "expand_rows", &three, &rows);
            let wide = of(&expand)[0].clone();
            cases.push(expand);
            // A bias and an activation behind the matmul.
            let (mut f, mut values) = single(
                &name("act"),
                "matmul",
                "grouped_matmul",
                &[&y, &up, starts, counts],
                &contract,
            );
            let ops = std::mem::take(&mut f.ops);
            let p = f.add_param("bias", wide.ty.clone(), Attrs::new());
            f.ops = ops;
            values.push(wide.clone());
            let matmul = f.results[0];
            let b = &mut Builder::new(&mut f);
            let sum = b.add(matmul, p).unwrap();
            let form = Attrs::new().with("approximate", Attr::Str("none".into()));
            let active = b.one(OpKind::Gelu, &[sum], form).unwrap();
            f.results = vec![sum, active];
            cases.push((f, values));
            let four = [&wide, &y, starts, counts];
            let weight = single(&name("dw"), "grouped_sum", "grouped_weight", &four, &none);
            let sums = single(&name("db"), "grouped_sum", "sum_rows", &[&y, starts, counts], &none);
            cases.push(accumulating(weight.clone(), &mut r));
            cases.push(accumulating(sums.clone(), &mut r));
            cases.extend([weight, sums]);
        }
        // Gradient of the biases of experts with slots.
        let (x, acc) = (
            [("experts", experts), ("group", g), ("capacity", t), ("ffn", n)],
            [("experts", experts), ("ffn", n)],
        );
        let f = kernel(&name("columns"), "columnwise", &[(&x, F), (&acc, F)], |b, p| {
            let sum = b.reduce_sum(p[0], &["group", "capacity"]).unwrap();
            vec![b.add(p[1], sum).unwrap()]
        });
        let x = inputs(&f, 1, &mut r);
        cases.push((f, x));
    }
    check_everywhere(&cases, 1e-5);
}
