//! Attention whose query heads share heads of keys and values, against attention with those heads copied: the form in
//! which models that share them are usually written.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_ir::eval::{Tensor, run_function};
use neoxc_ir::{Attr, Attrs, Builder, Dim, Function, Module, TensorType};

const SIZES: [usize; 5] = [2, 3, 2, 5, 4];

fn some(ty: TensorType, seed: usize) -> Tensor {
    let wave = |i: &[usize]| i.iter().fold(seed, |h, x| (h * 31 + x * 17 + 7) % 1009);
    Tensor::from_fn(ty, |i| wave(i) as f64 / 500.0 - 1.0)
}

fn ty(dims: &[(&str, usize)]) -> TensorType {
    TensorType::f32(dims)
}

/// The results of one op.
fn run(op: &str, x: &[Tensor]) -> Vec<Tensor> {
    let mut f = Function::new("f");
    let params: Vec<_> = x.iter().map(|x| f.add_param("", x.ty.clone(), Attrs::new())).collect();
    let scale = Attrs::new().with("scale", Attr::Float(0.7));
    f.results = Builder::new(&mut f).named(op, &params, scale).unwrap();
    run_function(&Module::new(), &f, x).unwrap()
}

/// Keys or values [batch, heads, seq, head_dim], each head as often as queries share it.
fn copied(x: &Tensor) -> Tensor {
    let [b, h, n, s, d] = SIZES;
    let all = ty(&[("batch", b), ("heads", h * n), ("seq", s), ("head_dim", d)]);
    Tensor::from_fn(all, |i| x.at(&[i[0], i[1] / n, i[2], i[3]]))
}

/// `x` with `heads` and `queries` as one dim, or as two.
fn viewed(x: &Tensor, dims: Vec<Dim>) -> Tensor {
    Tensor::new(TensorType::new(x.ty.dtype, dims), x.data.clone())
}

fn close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?}\n{b:?}");
}

#[test]
fn sharing_a_head_is_having_copies_of_it() {
    let [b, h, n, s, d] = SIZES;
    let (b, h, n, s, d) = (("batch", b), ("heads", h), ("queries", n), ("seq", s), ("head_dim", d));
    let q = some(ty(&[b, h, n, s, d]), 1);
    let (k, v) = (some(ty(&[b, h, s, d]), 2), some(ty(&[b, h, s, d]), 3));
    let all = Dim::new("heads", h.1 * n.1);
    let one = |x: &Tensor| {
        let mut dims = x.ty.dims.clone();
        let at = x.ty.position("heads").unwrap();
        dims.remove(at + 1);
        dims[at] = all.clone();
        viewed(x, dims)
    };
    let plain = run("attention", &[one(&q), copied(&k), copied(&v)]);
    let shared = run("attention", &[q.clone(), k.clone(), v.clone()]);
    assert_eq!(shared[0].ty, ty(&[b, s, h, n, d]));
    for (a, b) in plain.iter().zip(&shared) {
        close(&a.data, &b.data);
    }
    let dout = some(shared[0].ty.clone(), 4);
    let plain = run(
        "attention_grad",
        &[one(&q), copied(&k), copied(&v), plain[0].clone(), plain[1].clone(), one(&dout)],
    );
    let shared = run("attention_grad", &[q, k, v, shared[0].clone(), shared[1].clone(), dout]);
    close(&plain[0].data, &shared[0].data);
    for (plain, shared) in plain[1..].iter().zip(&shared[1..]) {
        let row = s.1 * d.1;
        let sums: Vec<f64> = (0..shared.data.len())
            .map(|i| {
                let (head, at) = (i / row, i % row);
                (0..n.1).map(|m| plain.data[(head * n.1 + m) * row + at]).sum()
            })
            .collect();
        close(&sums, &shared.data);
    }
}
