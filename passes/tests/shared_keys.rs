//! Attention whose query heads share heads of keys and values, forward and backward, divided over tensor ranks (which
//! divide the heads of keys) and over context ranks (which divide them where the sequence must be whole): all ranks in
//! step compute what one computes.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::Random;
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::eval_ranks::{group, run_ranks};
use neoxc_ir::op::{Class, GradCx, Gradient};
use neoxc_ir::target::Target;
use neoxc_ir::{
    Attr, Attrs, Builder, DType, Dim, Function, Module, OpKind, TensorType, ValueId, keys, verify,
};
use neoxc_passes::pass::Degrees;
use neoxc_passes::{PassCx, partition_program};

/// heads of keys, queries of each.
type Heads = (usize, usize);

fn ty(dtype: DType, dims: &[(&str, usize)]) -> TensorType {
    TensorType::new(dtype, dims.iter().map(|(n, s)| Dim::new(n, *s)).collect())
}

/// Gradients of `params` where that of result `y` is `dy`: reverse mode over the ops so far.
fn backward(f: &mut Function, y: ValueId, dy: ValueId, params: &[ValueId]) -> Vec<ValueId> {
    let mut of: Vec<Option<ValueId>> = vec![None; f.values.len()];
    of[y.index()] = Some(dy);
    for op in f.ops.clone().into_iter().rev() {
        let cotangents: Vec<_> = op.results.iter().map(|r| of[r.index()]).collect();
        if cotangents[0].is_none() && cotangents.iter().all(Option::is_none) {
            continue;
        }
        let b = &mut Builder::new(f);
        let made = op.kind.def().gradient(&mut GradCx {
            op: &op,
            scale: None,
            cotangents: &cotangents,
            b,
        });
        let Gradient::Operands(made) = made.unwrap() else { panic!("{}", op.kind.name()) };
        for (operand, d) in op.operands.iter().zip(made) {
            let Some(d) = d else { continue };
            let slot = &mut of[operand.index()];
            *slot = Some(match *slot {
                None => d,
                Some(old) => Builder::new(f).add(old, d).unwrap(),
            });
        }
    }
    params.iter().map(|p| of[p.index()].unwrap()).collect()
}

/// The attention branch of a layer and its gradients, as one entry, whose results are wanted whole.
fn branch((heads, queries): Heads, drops: bool) -> Module {
    let (batch, seq, embed, width) = (2, 8, 6, 4);
    let mut f = Function::new("eval_step");
    let mut param = |name: &str, dtype, dims: &[(&str, usize)], layout: &[&str]| {
        let attrs = Attrs::new().with(keys::LAYOUT, Attr::strs(layout));
        f.add_param(name, ty(dtype, dims), attrs)
    };
    let x = [("batch", batch), ("seq", seq), ("embed", embed)];
    let x = param("x", DType::F32, &x, &["", "context", ""]);
    let fused = [("heads", heads), ("qkv", queries + 2), ("head_dim", width), ("embed", embed)];
    let w = param("w", DType::F32, &fused, &["tensor", "", "", ""]);
    let out = [("embed", embed), ("heads", heads), ("queries", queries), ("head_dim", width)];
    let o = param("o", DType::F32, &out, &["", "tensor", "", ""]);
    let table = [("seq", seq), ("rot", 2)];
    let [cos, sin] = ["cos", "sin"].map(|n| param(n, DType::F32, &table, &["", ""]));
    let ids = [
        param("place", DType::I32, &[("batch", batch), ("seq", seq)], &["", ""]),
        param("layer", DType::I32, &[], &[]),
        param("column", DType::I32, &[("kv_seq", seq)], &[""]),
        param("head", DType::I32, &[("heads", heads), ("queries", queries)], &["", ""]),
    ];
    let dy = [("batch", batch), ("seq", seq), ("embed", embed)];
    let dy = param("dy", DType::F32, &dy, &["", "context", ""]);
    let b = &mut Builder::new(&mut f);
    let qkv = b.matmul(x, w, &["embed"]).unwrap();
    let parts = b.op(OpKind::QkvSplit, &[qkv], Attrs::new()).unwrap();
    let mut turn = |x| b.one(OpKind::Rotary, &[x, cos, sin], Attrs::new()).unwrap();
    let (q, k) = (turn(parts[0]), turn(parts[1]));
    let mut attrs = Attrs::new().with("scale", Attr::Float(0.6));
    let mixed = if drops {
        attrs = attrs.with("rate", Attr::Float(0.3)).with("seed", Attr::Int(3));
        attrs.set("site", Attr::Int(1));
        let operands = [&[q, k, parts[2]], &ids[..]].concat();
        b.op(OpKind::DropoutAttention, &operands, attrs).unwrap()[0]
    } else {
        b.op(OpKind::Attention, &[q, k, parts[2]], attrs).unwrap()[0]
    };
    let y = b.matmul(mixed, o, &["heads", "queries", "head_dim"]).unwrap();
    let mut results = backward(&mut f, y, dy, &[x, w, o]);
    let all = Builder::new(&mut f).reduce_sum(y, &["batch", "seq", "embed"]).unwrap();
    results.extend([y, all]);
    f.results = results;
    let mut m = Module::new();
    m.insert(f);
    m
}

/// The part of `whole` that `rank` has, divided along axes by `layout`.
fn part(
    whole: &Tensor,
    layout: &[&str],
    axes: &[(String, usize)],
    rank: usize,
    local: &TensorType,
) -> Tensor {
    let start: Vec<usize> = local
        .dims
        .iter()
        .enumerate()
        .map(|(i, d)| {
            let axis = layout.get(i).copied().unwrap_or_default();
            let at = group(axes, rank, axis).iter().position(|r| *r == rank).unwrap();
            at * d.size
        })
        .collect();
    Tensor::from_fn(local.clone(), |i| {
        let at: Vec<usize> = i.iter().zip(&start).map(|(i, s)| i + s).collect();
        whole.at(&at)
    })
}

fn inputs(f: &Function, r: &mut Random) -> Vec<Tensor> {
    let types = f.params.iter().map(|p| f.ty(*p).clone());
    types
        .map(|ty| {
            let int = ty.dtype == DType::I32;
            Tensor::from_fn(ty, |_| if int { (r.next() % 999) as f64 } else { r.unit() })
        })
        .collect()
}

fn divided(m: &Module, context: usize, tensor: usize) -> Module {
    let degrees = Degrees { context, tensor, ..Degrees::ONE };
    let cx = PassCx { degrees, ..PassCx::new(Target::X86V4) };
    let mut after = m.clone();
    // An axis of one rank divides nothing.
    for attrs in &mut after.function_mut("eval_step").unwrap().param_attrs {
        let of = |axis: &str| if degrees.of(axis) > 1 { axis.to_string() } else { String::new() };
        let layout: Vec<String> =
            attrs.strs(keys::LAYOUT).unwrap_or_default().into_iter().map(of).collect();
        let layout: Vec<&str> = layout.iter().map(String::as_str).collect();
        attrs.set(keys::LAYOUT, Attr::strs(&layout));
    }
    (partition_program::PASS.run)(&mut after, &cx).unwrap();
    verify(&after).unwrap();
    after
}

#[test]
fn ranks_divide_heads_of_keys() {
    let mut r = Random(3);
    let cases = [
        ((4, 2), [(1, 2), (1, 4), (2, 1), (4, 1), (2, 2)]),
        // Heads that context ranks cannot divide: each has them all.
        ((2, 3), [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2)]),
        ((1, 5), [(2, 1), (4, 1), (8, 1), (1, 1), (2, 1)]),
    ];
    for (heads, meshes) in cases {
        for drops in [false, true] {
            let m = branch(heads, drops);
            let f = m.function("eval_step").unwrap();
            let x = inputs(f, &mut r);
            let want = run(&m, "eval_step", &x).unwrap();
            for (context, tensor) in meshes {
                let degrees = Degrees { context, tensor, ..Degrees::ONE };
                let after = divided(&m, context, tensor);
                let g = after.function("eval_step").unwrap();
                let axes = degrees.axes().map(|(n, s)| (n.to_string(), s)).to_vec();
                let layout = |i: usize| f.param_attrs[i].strs(keys::LAYOUT).unwrap_or_default();
                let parts: Vec<Vec<Tensor>> = (0..degrees.ranks())
                    .map(|rank| {
                        let of = |(i, whole): (usize, &Tensor)| {
                            part(whole, &layout(i), &axes, rank, g.ty(g.params[i]))
                        };
                        x.iter().enumerate().map(of).collect()
                    })
                    .collect();
                let got = run_ranks(&after, "eval_step", &axes, &parts).unwrap();
                for (rank, got) in got.iter().enumerate() {
                    for (i, (want, got)) in want.iter().zip(got).enumerate() {
                        assert_eq!(want.ty, got.ty);
                        for (a, b) in want.data.iter().zip(&got.data) {
                            let close = (a - b).abs() < 1e-9 * (1.0 + a.abs());
                            assert!(close, "{heads:?} {degrees:?} result {i} on {rank}: {a} {b}");
                        }
                    }
                }
            }
        }
    }
}

/// Of tensor ranks each has its heads, and the two sums of the branch meet; context ranks swap the sequence for heads.
#[test]
fn nothing_but_sums_and_swaps_is_sent() {
    let m = branch((4, 2), false);
    let collectives = |context, tensor| {
        let after = divided(&m, context, tensor);
        let f = after.function("eval_step").unwrap();
        let q = f.ops.iter().find(|op| op.kind == OpKind::Attention).unwrap().operands[0];
        let q: Vec<usize> = f.ty(q).dims.iter().map(|d| d.size).collect();
        let mut made: Vec<&str> = f
            .ops
            .iter()
            .filter(|op| op.kind.def().class() == Class::Collective)
            .map(|op| op.kind.name())
            .collect();
        made.sort_unstable();
        (q, made)
    };
    let (q, made) = collectives(1, 2);
    assert_eq!(q, [2, 2, 2, 8, 4]);
    // The gradients of both weights are wanted whole; summed are the output, its sum, and the gradient of x.
    assert_eq!(made, [["all_gather"; 2].as_slice(), &["all_reduce"; 3]].concat());
    let (q, made) = collectives(2, 1);
    assert_eq!(q, [2, 2, 2, 8, 4]);
    let swaps = made.iter().filter(|kind| **kind == "all_to_all").count();
    // q, k, v and the output; the output's gradient and the gradients of q, k and v.
    assert_eq!(swaps, 8, "{made:?}");
}
