//! Sums over runs of rows, beside what the kernel makes of each row: the row is in cache, and is not read again.
//!
//! A task is a run, whose sums lie in the result from the first row on, in the first-level cache. So they have one
//! order, whatever the number of threads; another kernel adds the runs'.

use std::collections::HashMap;

use neoxc_ir::{OpKind, ValueId};

use super::super::{Body, Shape};
use super::Plan;
use crate::CodegenError;
use crate::emit::{Ty, Val};

/// A sum over the rows of a run.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// Which result of the kernel it is.
    pub result: usize,
    /// What is summed.
    pub of: ValueId,
    /// Where this run's sum begins.
    pub sum: Val,
}

/// How many rows a run has, if the kernel sums some.
pub(super) fn rows(b: &Body<'_>) -> Result<Option<usize>, CodegenError> {
    let mut found = None;
    for op in b.f.ops.iter().filter(|op| op.kind == OpKind::SumRuns) {
        let rows = op.attrs.int("rows").and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        let rows = rows.ok_or_else(|| b.fail("has runs of no rows"))?;
        let x = b.f.ty(op.operands[0]);
        if x.dims.last().map(|d| &*d.name) != op.attrs.str("dim") {
            return Err(b.fail("has rows along another dim than the innermost"));
        }
        if found.is_some_and(|n| n != rows) {
            return Err(b.fail("has runs of different lengths"));
        }
        if b.f.ops.iter().any(|o| o.operands.contains(&op.results[0])) {
            return Err(b.fail("uses the sum of a run before all runs are summed"));
        }
        found = Some(rows);
    }
    Ok(found)
}

impl Plan<'_, '_> {
    /// The kernel whose tasks are runs of `per_task` of `rows` rows.
    pub(super) fn in_runs(
        self,
        rows: usize,
        per_task: usize,
        width: usize,
    ) -> Result<Shape, CodegenError> {
        let tasks = rows.div_ceil(per_task);
        let Plan { b, space, inner, level, .. } = self;
        let made: Vec<(usize, ValueId)> =
            b.f.results
                .iter()
                .enumerate()
                .filter_map(|(n, r)| {
                    let op = b.f.ops.iter().find(|op| op.results.contains(r))?;
                    (op.kind == OpKind::SumRuns).then(|| (n, op.operands[0]))
                })
                .collect();
        // Values that have no rows are the same in each, so their sum would be missing rows.
        if made.iter().any(|(_, of)| (0..inner).any(|g| !space.has(*of, g))) {
            return Err(b.fail("sums a value over rows that it does not have"));
        }
        b.tasks(|b, task| {
            let first = b.k.scale(task, width);
            let runs: Vec<Run> = made
                .into_iter()
                .map(|(result, of)| {
                    let pointer = b.result(result);
                    Run { result, of, sum: b.k.element(pointer, first) }
                })
                .collect();
            b.zero(&runs.iter().map(|r| r.sum).collect::<Vec<_>>(), width)?;
            let lo = b.k.scale(task, per_task);
            let step = b.k.int(per_task as i64);
            let (hi, all) = (b.k.add(lo, step), b.k.int(rows as i64));
            let hi = b.k.min(hi, all);
            b.nest(lo, hi, 1, |b, row| Plan { b, space, inner, level, runs }.row(row, width))
        })?;
        Ok(Shape { tasks, scratch_floats: 0, tiles: false })
    }

    /// Adds the row's values at inner index `i` to the sums of its run.
    pub(super) fn add_to_runs(
        &mut self,
        row: Val,
        i: Val,
        known: &mut HashMap<ValueId, Val>,
        mask: Option<Val>,
    ) -> Result<(), CodegenError> {
        let lanes = self.b.lanes;
        for run in self.runs.clone() {
            let v = self.value(run.of, row, Some(i), known, mask)?;
            let k = &mut self.b.k;
            let v = k.splat(v, lanes);
            let at = k.element(run.sum, i);
            match mask {
                None => {
                    let old = k.load(Ty::Vec(lanes), at);
                    let new = k.add(old, v);
                    k.store(new, at);
                }
                Some(mask) => {
                    let old = k.load_masked(at, mask);
                    let new = k.add(old, v);
                    k.store_masked(new, at, mask);
                }
            }
        }
        Ok(())
    }
}

impl Body<'_> {
    /// Zeros in `width` floats from each of `places` on.
    fn zero(&mut self, places: &[Val], width: usize) -> Result<(), CodegenError> {
        let lanes = self.lanes;
        let whole = width / lanes * lanes;
        let (lo, hi) = (self.k.int(0), self.k.int(whole as i64));
        let zero = self.k.float(0.0, Ty::Vec(lanes));
        self.nest(lo, hi, lanes, |b, i| {
            for place in places {
                let at = b.k.element(*place, i);
                b.k.store(zero, at);
            }
            Ok(())
        })?;
        if whole < width {
            let mask = self.k.mask(width - whole, lanes);
            for place in places {
                let at = self.k.element(*place, hi);
                self.k.store_masked(zero, at, mask);
            }
        }
        Ok(())
    }
}
