//! Attention whose query heads share heads of keys and values, from the fused projection to its gradient, against the
//! reference evaluator.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{
    Dims, F, H, Random, check, check_everywhere, check_for, check_given, check_gpu, inputs, kernel,
    units,
};
use neoxc_codegen::x86::Cpu;
use neoxc_ir::eval::{Tensor, run_function};
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, Builder, DType, Function, Module, OpKind, ValueId};

const I: DType = DType::I32;
/// A rounding to bfloat16, with something for sums in f32.
const PLACE: f64 = 1.0 / 256.0 + 1e-5;

/// batch, heads of keys, queries of each, seq, head_dim.
type Size = [usize; 5];

/// What is given to attention of one size forward and backward.
struct Types {
    q: Vec<(&'static str, usize)>,
    kv: Vec<(&'static str, usize)>,
    out: Vec<(&'static str, usize)>,
    lse: Vec<(&'static str, usize)>,
    ids: [Vec<(&'static str, usize)>; 4],
}

impl Types {
    fn of([b, h, n, s, d]: Size) -> Types {
        let (b, h, n, s, d) =
            (("batch", b), ("heads", h), ("queries", n), ("seq", s), ("head_dim", d));
        Types {
            q: vec![b, h, n, s, d],
            kv: vec![b, h, s, d],
            out: vec![b, s, h, n, d],
            lse: vec![b, h, n, s],
            ids: [vec![b, s], vec![], vec![("kv_seq", s.1)], vec![h, n]],
        }
    }

    fn three(&self, dtype: DType) -> Vec<(Dims<'_>, DType)> {
        vec![(&self.q, dtype), (&self.kv, dtype), (&self.kv, dtype)]
    }

    fn six(&self, dtype: DType) -> Vec<(Dims<'_>, DType)> {
        let made: [(Dims<'_>, DType); 3] = [(&self.out, dtype), (&self.lse, F), (&self.out, dtype)];
        [self.three(dtype), made.to_vec()].concat()
    }

    fn ids(&self) -> Vec<(Dims<'_>, DType)> {
        self.ids.iter().map(|dims| (&dims[..], I)).collect()
    }
}

fn scale(width: usize, sharp: f64) -> Attrs {
    Attrs::new().with("scale", Attr::Float(sharp / (width as f64).sqrt()))
}

fn dropping(attrs: Attrs) -> Attrs {
    attrs.with("rate", Attr::Float(0.3)).with("seed", Attr::Int(12)).with("site", Attr::Int(2))
}

/// Forward, and backward with whole heads and with runs of keys; of what forward made.
fn attention(
    i: usize,
    size: Size,
    dtype: DType,
    drops: bool,
    keys: usize,
) -> Vec<(Function, Vec<Tensor>)> {
    let t = Types::of(size);
    let ids = if drops { t.ids() } else { vec![] };
    let attrs = scale(size[4], if i == 0 { 8.0 } else { 1.0 });
    let (prefix, attrs) = if drops { ("dropout_", dropping(attrs)) } else { ("", attrs) };
    let forward = kernel(
        &format!("{prefix}attention{i}"),
        "attention",
        &[t.three(dtype), ids.clone()].concat(),
        |b, p| b.named(&format!("{prefix}attention"), p, attrs.clone()).unwrap(),
    );
    let gradient = |name: &str, attrs: Attrs| {
        let params = [t.six(dtype), ids.clone()].concat();
        kernel(&format!("{prefix}{name}{i}"), "attention_grad", &params, |b, p| {
            b.named(&format!("{prefix}attention_grad"), p, attrs).unwrap()
        })
    };
    let whole = gradient("gradient", attrs.clone());
    let parts = attrs.clone().with("keys", Attr::Int(keys as i64));
    // Queries' heads all at once, one by one, and in runs of which the last may be shorter.
    let parts = match size[2].checked_sub(2) {
        Some(members) if members > 0 => parts.with("members", Attr::Int(members as i64)),
        _ => parts,
    };
    let parts = gradient("parts", parts);
    let mut x = inputs(&whole, 1 << 20, &mut Random(i as u64));
    let given = [&x[..3], &x[6..]].concat();
    let made = run_function(&Module::new(), &forward, &given).unwrap();
    x.splice(3..5, made);
    vec![(forward, given), (whole, x.clone()), (parts, x)]
}

/// Groups of two and more, one head of keys for all queries, sequences that tiles divide and that they do not.
const SIZES: [(Size, usize); 4] = [
    ([1, 1, 3, 131, 16], 61),
    ([2, 1, 2, 13, 24], 5),
    ([1, 2, 4, 64, 32], 50),
    ([2, 2, 3, 2, 4], 1),
];

#[test]
fn heads_share_keys_forward_and_backward() {
    let mut cases = vec![];
    for (i, (size, keys)) in SIZES.into_iter().enumerate() {
        cases.extend(attention(i, size, F, false, keys));
        if i < 2 {
            cases.extend(attention(i, size, F, true, keys));
        }
    }
    check_everywhere(&cases, 1e-5);
}

/// Several blocks of queries, chunks and panels of keys; rows that are whole, and not.
#[test]
fn heads_share_keys_in_bf16() {
    let sizes: [(Size, usize); 3] =
        [([1, 1, 3, 290, 24], 128), ([1, 2, 2, 96, 64], 64), ([2, 1, 5, 33, 7], 40)];
    let mut cases = vec![];
    for (i, (size, keys)) in sizes.into_iter().enumerate() {
        cases.extend(attention(i, size, H, false, keys));
        if i == 0 {
            cases.extend(attention(i, size, H, true, keys));
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
fn one_token_attends_to_keys_that_heads_share() {
    for (dtype, tolerance) in [(F, 1e-5), (H, PLACE)] {
        let mut cases = vec![];
        for (i, (h, n, past, d)) in [(1, 7, 13, 24), (2, 4, 64, 33)].into_iter().enumerate() {
            let t = Types::of([1, h, n, 1, d]);
            let kept = [("batch", 1), ("heads", h), ("past", past), ("head_dim", d)];
            let mut types = t.three(dtype);
            types.extend([(&kept[..], dtype), (&kept[..], dtype), (&[("seq", 1)][..], I)]);
            for count in [1, past + 1] {
                let f = kernel(&format!("kept{i}_{count}"), "cached_attention", &types, |b, p| {
                    b.op(OpKind::CachedAttention, p, scale(d, 1.0)).unwrap()
                });
                cases.push((f, count));
            }
        }
        check(&cases, tolerance);
    }
}

/// Rotates queries and keys by the tables `cos` and `sin`.
fn turned(b: &mut Builder<'_>, parts: &[ValueId], cos: ValueId, sin: ValueId) -> Vec<ValueId> {
    let mut turn = |x| b.one(OpKind::Rotary, &[x, cos, sin], Attrs::new()).unwrap();
    vec![turn(parts[0]), turn(parts[1]), parts[2]]
}

/// One token's projection, and the way back; heads that vectors divide and that they do not.
#[test]
fn shared_projections_split_and_merge() {
    let mut cases = vec![];
    for (i, (size, half)) in [
        ([1, 1, 2, 1, 2], 1),
        ([2, 3, 4, 5, 24], 3),
        ([1, 2, 7, 7, 32], 16),
        ([1, 1, 3, 3, 40], 20),
    ]
    .into_iter()
    .enumerate()
    {
        let [b, h, n, s, d] = size;
        let t = Types::of(size);
        let fused = [("batch", b), ("seq", s), ("heads", h), ("qkv", n + 2), ("head_dim", d)];
        let table = [("seq", s), ("rot", half)];
        let tables = vec![(&table[..], F), (&table[..], F)];
        let params = [vec![(&fused[..], F)], tables.clone()].concat();
        cases.push((
            kernel(&format!("split{i}"), "qkv_split", &params, |b, p| {
                let parts = b.op(OpKind::QkvSplit, &p[..1], Attrs::new()).unwrap();
                turned(b, &parts, p[1], p[2])
            }),
            1,
        ));
        cases.push((
            kernel(&format!("merge{i}"), "qkv_merge", &[t.three(F), tables].concat(), |b, p| {
                let back = b.unary(OpKind::Neg, p[4]).unwrap();
                let parts = turned(b, &p[..3], p[3], back);
                vec![b.one(OpKind::QkvMerge, &parts, Attrs::new()).unwrap()]
            }),
            1,
        ));
    }
    check(&cases, 2e-6);
}

/// The matmul that makes a shared projection stores its parts, rotated.
#[test]
fn shared_projections_are_stored_in_parts() {
    for dtype in [F, H] {
        let mut r = Random(3);
        let mut cases = vec![];
        for (i, (size, half, embed)) in
            [([2, 2, 3, 13, 20], 5, 60), ([3, 2, 2, 33, 64], 8, 70), ([1, 1, 7, 9, 16], 8, 3)]
                .into_iter()
                .enumerate()
        {
            let [b, h, n, s, d] = size;
            let x = [("batch", b), ("seq", s), ("embed", embed)];
            let w = [("heads", h), ("qkv", n + 2), ("head_dim", d), ("embed", embed)];
            let table = [("seq", s), ("rot", half)];
            let params = [(&x[..], dtype), (&w[..], dtype), (&table[..], F), (&table[..], F)];
            let f = kernel(&format!("projection{i}"), "matmul", &params, |b, p| {
                let y = b.matmul(p[0], p[1], &["embed"]).unwrap();
                let y = b.cast(y, dtype).unwrap();
                let parts = b.op(OpKind::QkvSplit, &[y], Attrs::new()).unwrap();
                turned(b, &parts, p[2], p[3])
            });
            let x = inputs(&f, 1, &mut r);
            cases.push((f, x));
        }
        if dtype == F {
            check_everywhere(&cases, 1e-5);
            continue;
        }
        for cpu in units() {
            check_for(Target::X86Native, cpu, &cases, 2.0 / 256.0 + 1e-5);
        }
    }
}
