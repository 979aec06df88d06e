//! Pointwise ops and reductions over the innermost group of dims, in as few passes over a row as
//! the reductions need. A row stays in cache between passes; what a pass needs is recomputed from
//! the operands rather than stored.
//!
//! Without reductions and outer dims the kernel is flat: tasks are blocks of elements. With sums of runs of rows a task is
//! a run.

mod runs;

use std::collections::HashMap;

use neoxc_ir::{OpKind, ValueId};

use self::runs::Run;
use super::space::Space;
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Ty, Val};

/// Elements per task of a flat kernel.
const FLAT_BLOCK: usize = 1 << 14;
/// Elements that a task of rows should at least touch.
const TASK_ELEMENTS: usize = 1 << 13;
/// Elements summed in one go before a partial sum is set aside, against rounding drift.
const SUM_BLOCK: usize = 1 << 14;

struct Plan<'a, 'b> {
    b: &'a mut Body<'b>,
    space: Space,
    inner: usize,
    /// Level of each value: how many reductions in a row it depends on.
    level: Vec<usize>,
    /// Sums over rows that are being made.
    runs: Vec<Run>,
}

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let space = Space::of(b.f).ok_or_else(|| b.fail("its values do not share one index space"))?;
    let groups = space.sizes.len();
    let inner = groups - 1;
    let mut level = vec![0; b.f.values.len()];
    let mut reductions = 0;
    for op in &b.f.ops {
        let mut l = op.operands.iter().map(|o| level[o.index()]).max().unwrap_or(0);
        if matches!(op.kind, OpKind::ReduceSum | OpKind::ReduceMax) {
            let (from, to) = (op.operands[0], op.results[0]);
            let keeps = (0..inner).all(|g| space.has(from, g) == space.has(to, g));
            // In a space of one group every value "has" it; a reduction to a scalar is told by rank.
            let drops = space.has(from, inner) && (groups == 1 || !space.has(to, inner));
            if !keeps || !drops {
                return Err(b.fail("reduces other dims than the innermost"));
            }
            l += 1;
            reductions += 1;
        }
        for r in &op.results {
            level[r.index()] = l;
        }
    }
    let rows: usize = space.sizes[..inner].iter().product();
    let width = space.sizes[inner];
    let mut p = Plan { b, space, inner, level, runs: vec![] };
    if let Some(per_task) = runs::rows(p.b)? {
        return p.in_runs(rows, per_task, width);
    }
    if reductions == 0 && rows == 1 {
        return p.flat(width);
    }
    let per_task = (TASK_ELEMENTS / width.max(1)).clamp(1, rows.div_ceil(8).max(1));
    let tasks = rows.div_ceil(per_task);
    let b = &mut *p.b;
    let (begin, end) = (b.begin, b.end);
    let lo = b.k.scale(begin, per_task);
    let hi = b.k.scale(end, per_task);
    let all = b.k.int(rows as i64);
    let hi = b.k.min(hi, all);
    (b.begin, b.end) = (lo, hi);
    let Plan { b, space, inner, level, runs } = p;
    b.tasks(|b, row| {
        let mut p = Plan { b, space, inner, level, runs };
        p.row(row, width)
    })?;
    Ok(Shape { tasks, scratch_floats: 0, tiles: false })
}

impl Plan<'_, '_> {
    fn flat(&mut self, width: usize) -> Result<Shape, CodegenError> {
        let tasks = width.div_ceil(FLAT_BLOCK);
        let lanes = self.b.lanes;
        let (begin, end) = (self.b.begin, self.b.end);
        let lo = self.b.k.scale(begin, FLAT_BLOCK);
        let hi = self.b.k.scale(end, FLAT_BLOCK);
        let all = self.b.k.int((width / lanes * lanes) as i64);
        let whole = self.b.k.min(hi, all);
        let zero = self.b.k.int(0);
        let scalars = self.scalars(zero)?;
        self.store_pass(zero, lo, whole, &scalars, None)?;
        if !width.is_multiple_of(lanes) {
            // The task that owns the last block also owns the tail.
            let last = self.b.k.int(tasks as i64);
            let owns = self.b.k.cmp("eq", end, last);
            let count = width % lanes;
            self.b.k.begin_if(owns);
            let at = self.b.k.int((width - count) as i64);
            let mask = self.b.k.mask(count, lanes);
            self.store_at(zero, at, &scalars, Some(mask))?;
            self.b.k.end_if();
        }
        Ok(Shape { tasks, scratch_floats: 0, tiles: false })
    }

    /// A value is a row scalar when it lacks the inner group (or, in a space of one group, when its
    /// type has no elements but one).
    fn is_scalar(&self, v: ValueId) -> bool {
        let ty = self.b.f.ty(v);
        !self.space.has(v, self.inner) || (self.space.sizes.len() == 1 && ty.dims.is_empty())
    }

    /// Offset of the row in `v`.
    fn base(&mut self, v: ValueId, row: Val) -> Val {
        let strides = self.space.strides(v);
        let mut sum = self.b.k.int(0);
        let mut rest = row;
        for g in (0..self.inner).rev() {
            let size = self.space.sizes[g];
            let index = if g == 0 {
                rest
            } else {
                let n = self.b.k.int(size as i64);
                let index = self.b.k.rem(rest, n);
                rest = self.b.k.div(rest, n);
                index
            };
            if strides[g] > 0 {
                let part = self.b.k.scale(index, strides[g]);
                sum = self.b.k.add(sum, part);
            }
        }
        sum
    }

    /// Row scalars that are operands.
    fn scalars(&mut self, row: Val) -> Result<HashMap<ValueId, Val>, CodegenError> {
        let mut out = HashMap::new();
        for p in self.b.f.params.clone() {
            if self.is_scalar(p) {
                let base = self.base(p, row);
                let pointer = self.b.param(p).ok_or_else(|| self.b.fail("lost a parameter"))?;
                let at = self.b.k.element(pointer, base);
                out.insert(p, self.b.load_one(p, at));
            }
        }
        Ok(out)
    }

    fn row(&mut self, row: Val, width: usize) -> Result<(), CodegenError> {
        let mut scalars = self.scalars(row)?;
        let last = self.level.iter().copied().max().unwrap_or(0);
        for level in 1..=last {
            let reductions: Vec<neoxc_ir::Op> = self
                .b
                .f
                .ops
                .iter()
                .filter(|op| matches!(op.kind, OpKind::ReduceSum | OpKind::ReduceMax))
                .filter(|op| self.level[op.results[0].index()] == level)
                .cloned()
                .collect();
            let sums = self.reduce_pass(row, width, &reductions, &scalars)?;
            for (op, v) in reductions.iter().zip(sums) {
                scalars.insert(op.results[0], v);
            }
        }
        let lanes = self.b.lanes;
        let zero = self.b.k.int(0);
        let whole = self.b.k.int((width / lanes * lanes) as i64);
        if self.b.f.results.clone().iter().any(|r| !self.is_scalar(*r)) {
            self.store_pass(row, zero, whole, &scalars, None)?;
            if !width.is_multiple_of(lanes) {
                let mask = self.b.k.mask(width % lanes, lanes);
                self.store_at(row, whole, &scalars, Some(mask))?;
            }
        }
        for (i, r) in self.b.f.results.clone().into_iter().enumerate() {
            if self.is_scalar(r) {
                let v = self.value(r, row, None, &mut scalars.clone(), None)?;
                let base = self.base(r, row);
                let pointer = self.b.result(i);
                let at = self.b.k.element(pointer, base);
                self.b.k.store(v, at);
            }
        }
        Ok(())
    }

    /// One loop over the row that computes all of `reductions`.
    fn reduce_pass(
        &mut self,
        row: Val,
        width: usize,
        reductions: &[neoxc_ir::Op],
        scalars: &HashMap<ValueId, Val>,
    ) -> Result<Vec<Val>, CodegenError> {
        let lanes = self.b.lanes;
        let neutral: Vec<f64> = reductions
            .iter()
            .map(|op| if op.kind == OpKind::ReduceMax { f64::NEG_INFINITY } else { 0.0 })
            .collect();
        let init: Vec<Val> = neutral.iter().map(|x| self.b.k.float(*x, Ty::Vec(lanes))).collect();
        let whole = width / lanes * lanes;
        let (zero, hi) = (self.b.k.int(0), self.b.k.int(whole as i64));
        let step = self.b.k.int(lanes as i64);
        let mut acc = if whole > SUM_BLOCK {
            let block = self.b.k.int(SUM_BLOCK as i64);
            self.nested(zero, hi, block, &init, |p, lo, total| {
                let end = p.b.k.add(lo, block);
                let end = p.b.k.min(end, hi);
                let part = p.nested(lo, end, step, &init, |p, i, acc| {
                    p.accumulate(row, i, reductions, acc, scalars, None)
                })?;
                let pairs = reductions.iter().zip(total.iter().zip(part));
                Ok(pairs.map(|(op, (a, b))| p.combine(op, *a, b)).collect())
            })?
        } else {
            self.nested(zero, hi, step, &init, |p, i, acc| {
                p.accumulate(row, i, reductions, acc, scalars, None)
            })?
        };
        if whole < width {
            let mask = self.b.k.mask(width - whole, lanes);
            acc = self.accumulate(row, hi, reductions, &acc, scalars, Some(mask))?;
        }
        Ok(reductions
            .iter()
            .zip(acc)
            .map(|(op, v)| {
                if op.kind == OpKind::ReduceMax {
                    self.b.k.reduce_max(v)
                } else {
                    self.b.k.reduce_add(v)
                }
            })
            .collect())
    }

    fn combine(&mut self, op: &neoxc_ir::Op, a: Val, b: Val) -> Val {
        if op.kind == OpKind::ReduceMax { self.b.k.max(a, b) } else { self.b.k.add(a, b) }
    }

    fn accumulate(
        &mut self,
        row: Val,
        i: Val,
        reductions: &[neoxc_ir::Op],
        acc: &[Val],
        scalars: &HashMap<ValueId, Val>,
        mask: Option<Val>,
    ) -> Result<Vec<Val>, CodegenError> {
        let lanes = self.b.lanes;
        let mut known = scalars.clone();
        let mut out = vec![];
        for (op, a) in reductions.iter().zip(acc) {
            let v = self.value(op.operands[0], row, Some(i), &mut known, mask)?;
            let v = self.b.k.splat(v, lanes);
            let v = match mask {
                None => v,
                Some(mask) => {
                    let neutral =
                        if op.kind == OpKind::ReduceMax { f64::NEG_INFINITY } else { 0.0 };
                    let neutral = self.b.k.float(neutral, v.ty);
                    self.b.k.select(mask, v, neutral)
                }
            };
            out.push(self.combine(op, *a, v));
        }
        Ok(out)
    }

    /// A loop that hands values on.
    fn nested(
        &mut self,
        lo: Val,
        hi: Val,
        step: Val,
        init: &[Val],
        body: impl FnOnce(&mut Self, Val, &[Val]) -> Result<Vec<Val>, CodegenError>,
    ) -> Result<Vec<Val>, CodegenError> {
        let open = self.b.k.begin_for(lo, hi, step, init);
        let out = body(self, open.i, &open.carried)?;
        Ok(self.b.k.end_for(open, &out))
    }

    fn store_pass(
        &mut self,
        row: Val,
        lo: Val,
        hi: Val,
        scalars: &HashMap<ValueId, Val>,
        mask: Option<Val>,
    ) -> Result<(), CodegenError> {
        let step = self.b.k.int(self.b.lanes as i64);
        self.nested(lo, hi, step, &[], |p, i, _| {
            p.store_at(row, i, scalars, mask)?;
            Ok(vec![])
        })?;
        Ok(())
    }

    /// Computes and stores all row-vector results at inner index `i`.
    fn store_at(
        &mut self,
        row: Val,
        i: Val,
        scalars: &HashMap<ValueId, Val>,
        mask: Option<Val>,
    ) -> Result<(), CodegenError> {
        let mut known = scalars.clone();
        let lanes = self.b.lanes;
        let all = self.b.f.results.iter().copied().enumerate();
        let results: Vec<(usize, ValueId)> =
            all.filter(|(n, _)| self.runs.iter().all(|r| r.result != *n)).collect();
        // All values first: a result may share an operand's buffer.
        let mut ready = vec![];
        for (n, r) in results {
            let flat_scalar = self.space.sizes == [1];
            if !self.is_scalar(r) || flat_scalar {
                let v = self.value(r, row, Some(i), &mut known, mask)?;
                ready.push((n, r, self.b.k.splat(v, lanes)));
            }
        }
        self.add_to_runs(row, i, &mut known, mask)?;
        for (n, r, v) in ready {
            let base = self.base(r, row);
            let at = self.b.k.add(base, i);
            let pointer = self.b.result(n);
            let at = self.b.k.element(pointer, at);
            match mask {
                None => self.b.k.store(v, at),
                Some(mask) => self.b.k.store_masked(v, at, mask),
            }
        }
        Ok(())
    }

    /// The value `v` at inner index `i` (a row scalar when `i` is `None`).
    fn value(
        &mut self,
        v: ValueId,
        row: Val,
        i: Option<Val>,
        known: &mut HashMap<ValueId, Val>,
        mask: Option<Val>,
    ) -> Result<Val, CodegenError> {
        if let Some(x) = known.get(&v) {
            return Ok(*x);
        }
        let x = if let Some(pointer) = self.b.param(v) {
            let i = i.ok_or_else(|| self.b.fail("a row scalar needs a whole row"))?;
            let base = self.base(v, row);
            let at = self.b.k.add(base, i);
            let at = self.b.k.element(pointer, at);
            self.b.load_lanes(v, at, mask)
        } else {
            let op = self
                .b
                .f
                .ops
                .iter()
                .find(|op| op.results.contains(&v))
                .cloned()
                .ok_or_else(|| self.b.fail("uses a value that nothing defines"))?;
            let mut args = vec![];
            for o in &op.operands {
                args.push(self.value(*o, row, i, known, mask)?);
            }
            self.b.pointwise(&op, &args)?
        };
        known.insert(v, x);
        Ok(x)
    }
}
