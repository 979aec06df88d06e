//! Projections to queries, keys and values whose matmul stores them as those, and rotates them, against the reference
//! evaluator.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{F, H, Random, check_everywhere, check_for, inputs, kernel, units};
use neoxc_ir::eval::Tensor;
use neoxc_ir::target::Target;
use neoxc_ir::{Attrs, DType, Function, OpKind};

/// batch, seq, heads, head_dim, half of the rotary dims, embed.
type Size = [usize; 6];

/// Heads that vectors divide and that they do not, halves in one tile and in several, rows of two sequences in a tile,
/// one row, contractions in several blocks, columns in several tasks. The last one is not rotated.
const SIZES: [Size; 7] = [
    [1, 5, 1, 2, 1, 3],
    [1, 1, 2, 8, 2, 40],
    [2, 5, 3, 24, 3, 17],
    [2, 13, 2, 20, 5, 600],
    [1, 8, 3, 128, 64, 16],
    [3, 64, 12, 64, 8, 70],
    [3, 7, 2, 32, 4, 40],
];

/// The kernel of one size; with factors and parts of `dtype`, rotated or not.
fn projection(name: &str, size: Size, dtype: DType, turned: bool) -> Function {
    let [batch, seq, heads, width, half, embed] = size;
    let x = [("batch", batch), ("seq", seq), ("embed", embed)];
    let w = [("heads", heads), ("qkv", 3), ("head_dim", width), ("embed", embed)];
    let table = [("seq", seq), ("rot", half)];
    let params = [(&x[..], dtype), (&w[..], dtype), (&w[..3], F), (&table[..], F), (&table[..], F)];
    kernel(name, "matmul", &params[..if turned { 5 } else { 3 }], |b, p| {
        let y = b.matmul(p[0], p[1], &["embed"]).unwrap();
        let y = b.add(y, p[2]).unwrap();
        let y = b.cast(y, dtype).unwrap();
        let parts = b.op(OpKind::QkvSplit, &[y], Attrs::new()).unwrap();
        if !turned {
            return parts;
        }
        let mut turn = |x| b.one(OpKind::Rotary, &[x, p[3], p[4]], Attrs::new()).unwrap();
        // In the order of their making, as fusing has them.
        vec![parts[2], turn(parts[0]), turn(parts[1])]
    })
}

fn cases(dtype: DType) -> Vec<(Function, Vec<Tensor>)> {
    let mut r = Random(dtype.bytes() as u64);
    let mut cases = vec![];
    for (i, size) in SIZES.into_iter().enumerate() {
        let f = projection(&format!("qkv{i}"), size, dtype, i + 1 < SIZES.len());
        let x = inputs(&f, 1, &mut r);
        cases.push((f, x));
    }
    cases
}

#[test]
fn are_stored_in_parts() {
    check_everywhere(&cases(F), 1e-5);
}

/// A part is rounded before it is rotated and after.
#[test]
fn are_stored_in_parts_of_halves() {
    for cpu in units() {
        check_for(Target::X86Native, cpu, &cases(H), 2.0 / 256.0 + 1e-5);
    }
}
