//! Rows of a table by id: gather, and its gradient; of a table that is a part of a larger one, too.

use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};
use neoxc_ir::OpKind;

/// The index of row `id` within a table of `rows` rows, and whether it is one of them. If the table is a
/// part of a larger one, `part` points to its number.
pub(super) fn own_row(k: &mut Emit, id: Val, part: Option<Val>, rows: usize) -> (Val, Val) {
    let mut id = k.widen(id);
    if let Some(part) = part {
        let part = k.load(Ty::I32, part);
        let part = k.widen(part);
        let first = k.scale(part, rows);
        id = k.sub(id, first);
    }
    // An id below the first is a very large one without its sign.
    let rows = k.int(rows as i64);
    let ours = k.cmp("ult", id, rows);
    (id, ours)
}

/// Gather: a task is one row.
pub(super) fn gather(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let op = b.f.ops.first().ok_or_else(|| b.fail("is empty"))?;
    let table = b.f.ty(op.operands[0]);
    let size = table.dims[0].size;
    let width = table.elements() / size;
    let rows = b.f.ty(op.operands[1]).elements();
    let part = op.operands.get(2).map(|p| b.param(*p).ok_or_else(|| b.fail("lost the part")));
    let part = part.transpose()?;
    let pointer = |i: usize| b.param(op.operands[i]).ok_or_else(|| b.fail("lost an operand"));
    let (table, ids, out) = (pointer(0)?, pointer(1)?, b.result(0));
    let lanes = b.lanes;
    b.tasks(|b, row| {
        let k = &mut b.k;
        let p = k.element(ids, row);
        let id = k.load(Ty::I32, p);
        let to = k.scale(row, width);
        let to = k.element(out, to);
        let copy = |k: &mut Emit, id: Val| {
            let from = k.scale(id, width);
            let from = k.element(table, from);
            copy_row(k, Some(from), to, width, lanes);
        };
        if part.is_none() {
            let id = k.widen(id);
            copy(k, id);
            return Ok(());
        }
        let (id, ours) = own_row(k, id, part, size);
        k.if_(ours, |k| copy(k, id));
        let last = k.int(size as i64);
        let others = k.cmp("uge", id, last);
        k.if_(others, |k| copy_row(k, None, to, width, lanes));
        Ok(())
    })?;
    Ok(Shape { tasks: rows, scratch_floats: 0, tiles: false })
}

/// Copies a row, or writes zeros.
fn copy_row(k: &mut Emit, from: Option<Val>, to: Val, width: usize, lanes: usize) {
    let vec = Ty::Vec(lanes);
    let (zero, whole) = (k.int(0), k.int((width / lanes * lanes) as i64));
    k.loop_(zero, whole, lanes, |k, i| {
        let v = match from {
            Some(from) => {
                let p = k.element(from, i);
                k.load(vec, p)
            }
            None => k.float(0.0, vec),
        };
        let p = k.element(to, i);
        k.store(v, p);
    });
    if !width.is_multiple_of(lanes) {
        let mask = k.mask(width % lanes, lanes);
        let v = match from {
            Some(from) => {
                let p = k.element(from, whole);
                k.load_masked(p, mask)
            }
            None => k.float(0.0, vec),
        };
        let p = k.element(to, whole);
        k.store_masked(v, p, mask);
    }
}

/// Tasks of a gradient of a gather: each reads all ids.
const SCATTER_TASKS: usize = 64;

/// Gradient of a gather, on top of an accumulator if the body adds one. A task is a block of rows of the
/// table and walks the ids in order, so sums have one order.
pub(super) fn scatter(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let find = |kind| b.f.ops.iter().find(|op| op.kind == kind).cloned();
    let op = find(OpKind::ScatterAdd).ok_or_else(|| b.fail("has no scatter_add"))?;
    let table = b.f.ty(op.results[0]);
    let rows = table.dims[0].size;
    let width = table.elements() / rows;
    let count = b.f.ty(op.operands[0]).elements();
    let pointer = |v| b.param(v).ok_or_else(|| b.fail("lost an operand"));
    let (ids, updates) = (pointer(op.operands[0])?, pointer(op.operands[1])?);
    let part = op.operands.get(2).map(|p| pointer(*p)).transpose()?;
    let start = match find(OpKind::Add) {
        Some(add) => {
            let other = add.operands.iter().find(|o| **o != op.results[0]);
            Some(pointer(*other.ok_or_else(|| b.fail("adds a sum to itself"))?)?)
        }
        None => None,
    };
    let out = b.result(0);
    let lanes = b.lanes;
    let block = rows.div_ceil(SCATTER_TASKS);
    b.tasks(|b, t| {
        let k = &mut b.k;
        let first = k.scale(t, block);
        let (next, all) = (k.int(block as i64), k.int(rows as i64));
        let end = k.add(first, next);
        let end = k.min(end, all);
        let own = k.sub(end, first);
        let at = |k: &mut Emit, base, row| {
            let i = k.scale(row, width);
            k.element(base, i)
        };
        let fill = |k: &mut Emit| {
            k.loop_(first, end, 1, |k, row| {
                let from = start.map(|start| at(k, start, row));
                let to = at(k, out, row);
                copy_row(k, from, to, width, lanes);
            });
        };
        match start {
            // In place, what is there is what to add to.
            Some(start) => {
                let moved = k.differ(start, out);
                k.if_(moved, fill);
            }
            None => fill(k),
        }
        k.count(count, |k, i| {
            let p = k.element(ids, i);
            let id = k.load(Ty::I32, p);
            let id = match part {
                Some(_) => own_row(k, id, part, rows).0,
                None => k.widen(id),
            };
            // An id in front of the block is a very large one without its sign.
            let place = k.sub(id, first);
            let ours = k.cmp("ult", place, own);
            k.if_(ours, |k| {
                let (from, to) = (at(k, updates, i), at(k, out, id));
                let (zero, whole) = (k.int(0), k.int((width / lanes * lanes) as i64));
                k.loop_(zero, whole, lanes, |k, j| {
                    let (p, q) = (k.element(from, j), k.element(to, j));
                    let (v, old) = (k.load(Ty::Vec(lanes), p), k.load(Ty::Vec(lanes), q));
                    let v = k.add(old, v);
                    k.store(v, q);
                });
                if !width.is_multiple_of(lanes) {
                    let mask = k.mask(width % lanes, lanes);
                    let (p, q) = (k.element(from, whole), k.element(to, whole));
                    let (v, old) = (k.load_masked(p, mask), k.load_masked(q, mask));
                    let v = k.add(old, v);
                    k.store_masked(v, q, mask);
                }
            });
        });
        Ok(())
    })?;
    Ok(Shape { tasks: rows.div_ceil(block), scratch_floats: 0, tiles: false })
}
