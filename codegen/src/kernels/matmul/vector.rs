//! One row times a matrix that is contiguous along the contraction: as fast as memory, every weight read once.
//!
//! A task makes a vector of columns. Their rows of weights are walked together, and each has a vector of sums, whose
//! lanes are added at the end. The order of a sum is fixed by the depth.

use super::epilogue::Epilogue;
use super::schedule::Problem;
use super::{Plan, pack};
use crate::CodegenError;
use crate::emit::{Ty, Val};
use crate::kernels::{Body, Shape};

/// How far ahead weights are asked for, in elements.
const AHEAD: usize = 128;

/// Whether a product is of this kind.
pub(super) fn takes(p: Problem) -> bool {
    p.batch == 1 && p.m == 1 && p.a.1 == 1 && p.b.1 == 1
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
        let last = k.int(p.n as i64 - 1);
        let rows: Vec<Val> = (0..lanes)
            .map(|i| {
                let i = k.int(i as i64);
                let row = k.add(column, i);
                let row = k.min(row, last);
                let at = k.scale(row, p.b.0);
                k.element(w, at)
            })
            .collect();
        let zero = k.int(0);
        let whole = p.depth / lanes * lanes;
        let (end, step) = (k.int(whole as i64), k.int(lanes as i64));
        let none = vec![k.float(0.0, Ty::Vec(lanes)); lanes];
        let mut sums = k.for_(zero, end, step, &none, |k, i, sums| {
            let at = k.element(x, i);
            let x = k.load(Ty::Vec(lanes), at);
            let mut out = vec![];
            for (row, sum) in rows.iter().zip(sums) {
                let at = k.element(*row, i);
                let soon = k.element_at(at, AHEAD);
                k.prefetch(soon, false);
                let w = k.load(Ty::Vec(lanes), at);
                out.push(k.fma(w, x, *sum));
            }
            out
        });
        if whole < p.depth {
            let mask = k.mask(p.depth - whole, lanes);
            let at = k.element_at(x, whole);
            let x = k.load_masked(at, mask);
            for (row, sum) in rows.iter().zip(&mut sums) {
                let at = k.element_at(*row, whole);
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
