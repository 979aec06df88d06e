//! One row times a matrix that is contiguous along the contraction: as fast as memory, every weight read once.
//!
//! A task makes a vector of columns. Their rows of weights are walked one after the other: memory is read as it lies, in
//! one stream, as what fetches ahead in hardware expects it (two streams in a page read a third less on a Zen 3). Each row
//! has vectors of sums, whose lanes are added at the end. The order of a sum is fixed by the depth.

use super::Plan;
use super::epilogue::Epilogue;
use super::schedule::Problem;
use crate::CodegenError;
use crate::emit::{Emit, LINE, Ty, Val};
use crate::kernels::{Body, Shape, pack};

/// How far ahead weights are asked for, in bytes.
const AHEAD: usize = 1024;

/// Whether a matmul is of this kind.
pub(super) fn takes(p: Problem) -> bool {
    p.batch == 1 && p.m == 1 && p.a.1 == 1 && p.b.1 == 1
}

/// Vectors of sums that keep multiply-adds busy, of which each waits for its last one.
const SUMS: usize = 8;

/// Iterations of a loop, over all rows that are walked together, below which starting it is what costs.
const TURNS: usize = 8;

/// Vectors of a row in an iteration of the loop.
fn parts(whole: usize, lanes: usize) -> usize {
    [4, 2].into_iter().find(|n| whole.is_multiple_of(n * lanes)).unwrap_or(1)
}

/// Rows that are walked together: more than one only where a row is over in a few iterations.
fn together(turns: usize) -> usize {
    (TURNS / turns.max(1)).max(1)
}

/// Emits the kernel of the row at `x` and the matrix at `w`.
pub(super) fn emit(
    b: &mut Body<'_>,
    plan: &Plan,
    p: Problem,
    x: Val,
    w: Val,
) -> Result<Shape, CodegenError> {
    let lanes = b.lanes;
    let tasks = p.n.div_ceil(lanes);
    b.tasks(|b, t| {
        let k = &mut b.k;
        let column = k.scale(t, lanes);
        // Each row's pointer and how far behind it the row is: known, one register addresses all, but the last task's may
        // be fewer.
        let last = k.int(p.n as i64 - 1);
        let rows: Vec<(Val, usize)> = (0..lanes)
            .map(|i| {
                let (row, behind) = if p.n.is_multiple_of(lanes) {
                    (column, i * p.b.0)
                } else {
                    let i = k.int(i as i64);
                    let row = k.add(column, i);
                    (k.min(row, last), 0)
                };
                let at = k.scale(row, p.b.0);
                (k.element(w, at), behind)
            })
            .collect();
        let weights = |k: &mut Emit, (row, behind): (Val, usize), i: Val| {
            let at = k.element(row, i);
            k.element_at(at, behind)
        };
        let whole = p.depth / lanes * lanes;
        let parts = parts(whole, lanes);
        let turn = parts * lanes;
        let line = if matches!(w.ty, Ty::Ptr16(_)) { 2 * LINE } else { LINE };
        let ahead = AHEAD / (4 * LINE) * line;
        let (zero, end, step) = (k.int(0), k.int(whole as i64), k.int(turn as i64));
        let mut sums: Vec<Val> = vec![];
        for rows in rows.chunks(together(whole / turn)) {
            let each = parts.min((SUMS / rows.len()).max(1));
            let none = vec![k.float(0.0, Ty::Vec(lanes)); each * rows.len()];
            let made = k.for_(zero, end, step, &none, |k, i, sums| {
                let x = k.element(x, i);
                let xs: Vec<Val> = (0..parts)
                    .map(|n| {
                        let x = k.element_at(x, n * lanes);
                        k.load(Ty::Vec(lanes), x)
                    })
                    .collect();
                let mut sums = sums.to_vec();
                for (row, sums) in rows.iter().zip(sums.chunks_mut(each)) {
                    let at = weights(k, *row, i);
                    for line in (0..turn).step_by(line) {
                        let soon = k.element_at(at, ahead + line);
                        k.prefetch(soon, false);
                    }
                    for (n, x) in xs.iter().enumerate() {
                        let w = k.element_at(at, n * lanes);
                        let w = k.load(Ty::Vec(lanes), w);
                        sums[n % each] = k.fma(w, *x, sums[n % each]);
                    }
                }
                sums
            });
            sums.extend(made.chunks(each).map(|made| fold(k, made.to_vec())));
        }
        if whole < p.depth {
            let mask = k.mask(p.depth - whole, lanes);
            let at = k.element_at(x, whole);
            let x = k.load_masked(at, mask);
            for (row, sum) in rows.iter().zip(&mut sums) {
                let at = weights(k, *row, end);
                let w = k.load_masked(at, mask);
                *sum = k.fma(w, x, *sum);
            }
        }
        pack::transpose(k, &mut sums, lanes);
        let sums = [fold(k, sums)];
        let row = k.int(0);
        Epilogue { plan, batch: row, column }.store_row(b, row, &sums)
    })?;
    Ok(Shape { tasks, scratch_floats: 0, tiles: false })
}

/// The sum of `values`, halves by halves.
fn fold(k: &mut Emit, mut values: Vec<Val>) -> Val {
    while values.len() > 1 {
        let half = values.split_off(values.len() / 2);
        for (a, b) in values.iter_mut().zip(half) {
            *a = k.add(*a, b);
        }
    }
    values[0]
}
