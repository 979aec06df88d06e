//! One row times a matrix that is contiguous along the contraction: as fast as memory, every weight read once.
//!
//! A task makes a vector of columns. Their rows of weights are walked together, and each has a vector of sums, whose
//! lanes are added at the end. The order of a sum is fixed by the depth.

use super::epilogue::Epilogue;
use super::schedule::Problem;
use super::{Plan, pack};
use crate::CodegenError;
use crate::emit::{Emit, LINE, Ty, Val};
use crate::kernels::{Body, Shape};

/// How far ahead weights are asked for, in elements.
const AHEAD: usize = 128;

/// Whether a product is of this kind.
pub(super) fn takes(p: Problem) -> bool {
    p.batch == 1 && p.m == 1 && p.a.1 == 1 && p.b.1 == 1
}

/// Elements of each row in a turn of the loop: a cache line of them, which is asked for once, where rows are whole lines.
fn turn(w: Val, depth: usize, lanes: usize) -> usize {
    let line = if w.ty == Ty::PtrBf16 { 2 * LINE } else { LINE };
    if depth.is_multiple_of(line) { line.max(lanes) } else { lanes }
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
        let zero = k.int(0);
        let whole = p.depth / lanes * lanes;
        let turn = turn(w, whole, lanes);
        let (end, step) = (k.int(whole as i64), k.int(turn as i64));
        let none = vec![k.float(0.0, Ty::Vec(lanes)); lanes];
        let mut sums = k.for_(zero, end, step, &none, |k, i, sums| {
            // Behind the end of these rows are the next task's.
            let (ahead, next) =
                (k.int(AHEAD as i64), k.int((AHEAD + lanes * p.b.0) as i64 - whole as i64));
            let (ahead, next) = (k.add(i, ahead), k.add(i, next));
            let inside = k.cmp("slt", ahead, end);
            let ahead = k.select(inside, ahead, next);
            for row in &rows {
                let soon = weights(k, *row, ahead);
                k.prefetch(soon, false);
            }
            let mut sums = sums.to_vec();
            for part in (0..turn).step_by(lanes) {
                let at = k.element(x, i);
                let at = k.element_at(at, part);
                let x = k.load(Ty::Vec(lanes), at);
                for (row, sum) in rows.iter().zip(&mut sums) {
                    let at = weights(k, *row, i);
                    let at = k.element_at(at, part);
                    let w = k.load(Ty::Vec(lanes), at);
                    *sum = k.fma(w, x, *sum);
                }
            }
            sums
        });
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
        while sums.len() > 1 {
            let half = sums.split_off(sums.len() / 2);
            for (a, b) in sums.iter_mut().zip(half) {
                *a = k.add(*a, b);
            }
        }
        let row = k.int(0);
        Epilogue { plan, batch: row, column }.store_row(b, row, &sums)
    })?;
    Ok(Shape { tasks, scratch_floats: 0, tiles: false })
}
