//! Sums over neighbouring outer dims, leaving the inner ones: gradients of biases and norm weights; with
//! dims further out, one such sum for each of their elements (biases of experts).
//!
//! A task owns a block of columns and walks all its rows, so the sum has one order whatever the number
//! of threads. Pointwise ops before and after the sum are computed on the way.

use std::collections::HashMap;

use neoxc_ir::{Op, OpKind, ValueId};

use super::space::Space;
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Ty, Val};

/// The sums of a kernel, and how a task walks them.
struct Columns<'a> {
    space: &'a Space,
    sums: Vec<Op>,
    /// Dims further out than the rows, the rows, the columns.
    outer: usize,
    rows: usize,
    width: usize,
    /// Vectors of columns of a task.
    vectors: usize,
    lanes: usize,
}

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let space = Space::of(b.f).ok_or_else(|| b.fail("its values do not share one index space"))?;
    let columns = Columns::of(b, &space)?;
    let blocks = columns.width.div_ceil(columns.lanes * columns.vectors);
    b.tasks(|b, t| {
        let (first, t) = if columns.outer == 1 {
            (None, t)
        } else {
            let n = b.k.int(blocks as i64);
            (Some(b.k.div(t, n)), b.k.rem(t, n))
        };
        columns.task(b, first, t)
    })?;
    Ok(Shape { tasks: columns.outer * blocks, scratch_floats: 0, tiles: false })
}

impl<'a> Columns<'a> {
    fn of(b: &Body<'_>, space: &'a Space) -> Result<Columns<'a>, CodegenError> {
        let (outer, rows, width) = match space.sizes[..] {
            [rows, width] => (1, rows, width),
            [outer, rows, width] => (outer, rows, width),
            _ => {
                let groups = space.sizes.len();
                return Err(b.fail(format!("has {groups} groups of dims, not rows and columns")));
            }
        };
        let columns = space.sizes.len() - 1;
        let sums: Vec<Op> =
            b.f.ops.iter().filter(|op| op.kind == OpKind::ReduceSum).cloned().collect();
        for op in &sums {
            let (x, y) = (op.operands[0], op.results[0]);
            let kept = |g| space.has(x, g) && space.has(y, g);
            if !kept(columns) || space.has(y, columns - 1) || columns == 2 && !kept(0) {
                return Err(b.fail("reduces other dims than the rows"));
            }
        }
        if sums.is_empty() {
            return Err(b.fail("has no sum"));
        }
        let lanes = b.lanes;
        // Several vectors share a row's cache lines and page, and their sums do not wait for each other.
        let enough = |v: &usize| outer * width / (lanes * v) >= 2 * b.cpu.cores;
        let whole = |v: &usize| width.is_multiple_of(lanes * v);
        let vectors = [4, 2].into_iter().find(|v| whole(v) && enough(v)).unwrap_or(1);
        Ok(Columns { space, sums, outer, rows, width, vectors, lanes })
    }

    /// Block `t` of the columns, of the outer element `first`.
    fn task(&self, b: &mut Body<'_>, first: Option<Val>, t: Val) -> Result<(), CodegenError> {
        let (space, lanes, vectors) = (self.space, self.lanes, self.vectors);
        let column = b.k.scale(t, lanes * vectors);
        let mask = (!self.width.is_multiple_of(lanes)).then(|| {
            let ids = b.k.lane_ids(lanes);
            let left = b.k.int(self.width as i64);
            let left = b.k.sub(left, column);
            let left = b.k.narrow(left);
            let left = b.k.splat(left, lanes);
            b.k.cmp("slt", ids, left)
        });
        let places: Vec<At<'_>> = (0..vectors)
            .map(|j| {
                let offset = b.k.int((j * lanes) as i64);
                At { space, first, row: None, column: b.k.add(column, offset), mask }
            })
            .collect();
        let totals = self.totals(b, &places)?;
        let mut ready = vec![];
        for (at, totals) in places.iter().zip(totals.chunks(self.sums.len())) {
            let mut known: HashMap<ValueId, Val> =
                self.sums.iter().zip(totals).map(|(op, v)| (op.results[0], *v)).collect();
            for (i, r) in b.f.results.clone().into_iter().enumerate() {
                let v = at.value(b, r, &mut known)?;
                ready.push((i, at.column, b.k.splat(v, lanes)));
            }
        }
        for (i, column, v) in ready {
            let pointer = b.result(i);
            let at = match first {
                Some(first) => {
                    let line = b.k.scale(first, self.width);
                    b.k.add(line, column)
                }
                None => column,
            };
            let p = b.k.element(pointer, at);
            match mask {
                None => b.k.store(v, p),
                Some(mask) => b.k.store_masked(v, p, mask),
            }
        }
        Ok(())
    }

    /// All sums at each place, walked row by row.
    fn totals(&self, b: &mut Body<'_>, places: &[At<'_>]) -> Result<Vec<Val>, CodegenError> {
        let zero = b.k.float(0.0, Ty::Vec(self.lanes));
        let init = vec![zero; self.vectors * self.sums.len()];
        let (lo, hi, step) = (b.k.int(0), b.k.int(self.rows as i64), b.k.int(1));
        let open = b.k.begin_for(lo, hi, step, &init);
        let mut out = vec![];
        for (place, acc) in places.iter().zip(open.carried.chunks(self.sums.len())) {
            let at = At { row: Some(open.i), ..*place };
            let mut known = HashMap::new();
            for (op, a) in self.sums.iter().zip(acc) {
                let v = at.value(b, op.operands[0], &mut known)?;
                let v = b.k.splat(v, self.lanes);
                out.push(b.k.add(*a, v));
            }
        }
        Ok(b.k.end_for(open, &out))
    }
}

/// A place in the index space; after the sum there is no row.
struct At<'a> {
    space: &'a Space,
    /// Index further out than the rows, if there is one.
    first: Option<Val>,
    row: Option<Val>,
    column: Val,
    mask: Option<Val>,
}

impl At<'_> {
    fn value(
        &self,
        b: &mut Body<'_>,
        v: ValueId,
        known: &mut HashMap<ValueId, Val>,
    ) -> Result<Val, CodegenError> {
        if let Some(x) = known.get(&v) {
            return Ok(*x);
        }
        let x = if let Some(pointer) = b.param(v) {
            let strides = self.space.strides(v);
            let columns = strides.len() - 1;
            let mut at = b.k.int(0);
            if strides[columns - 1] > 0 {
                let row = self.row.ok_or_else(|| b.fail("uses a row after the sum"))?;
                at = b.k.scale(row, strides[columns - 1]);
            }
            if let Some(first) = self.first.filter(|_| strides[0] > 0) {
                let line = b.k.scale(first, strides[0]);
                at = b.k.add(at, line);
            }
            if strides[columns] > 0 {
                let at = b.k.add(at, self.column);
                let p = b.k.element(pointer, at);
                b.load_lanes(v, p, self.mask)
            } else {
                let p = b.k.element(pointer, at);
                b.load_one(v, p)
            }
        } else {
            let op =
                b.f.ops
                    .iter()
                    .find(|op| op.results.contains(&v))
                    .cloned()
                    .ok_or_else(|| b.fail("uses a value that nothing defines"))?;
            let mut args = vec![];
            for o in &op.operands {
                args.push(self.value(b, *o, known)?);
            }
            b.pointwise(&op, &args)?
        };
        known.insert(v, x);
        Ok(x)
    }
}
