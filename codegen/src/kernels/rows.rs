//! Rows of a table by id: look-up, and its gradient; of a table that is a part of a larger one, too.

use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};

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

/// Look-up: a task is one row.
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

/// Gradient of a look-up, on top of an accumulator if the body adds one. A task is a block of
/// columns of the table and walks the ids in order, so sums have one order.
pub(super) fn scatter(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let find = |name: &str| b.f.ops.iter().find(|op| op.kind.is(name)).cloned();
    let op = find("scatter_add").ok_or_else(|| b.fail("has no scatter_add"))?;
    let table = b.f.ty(op.results[0]);
    let rows = table.dims[0].size;
    let width = table.elements() / rows;
    let count = b.f.ty(op.operands[0]).elements();
    let pointer = |v| b.param(v).ok_or_else(|| b.fail("lost an operand"));
    let (ids, updates) = (pointer(op.operands[0])?, pointer(op.operands[1])?);
    let part = op.operands.get(2).map(|p| pointer(*p)).transpose()?;
    let start = match find("add") {
        Some(add) => {
            let other = add.operands.iter().find(|o| **o != op.results[0]);
            Some(pointer(*other.ok_or_else(|| b.fail("adds a sum to itself"))?)?)
        }
        None => None,
    };
    let out = b.result(0);
    let lanes = b.lanes;
    let tasks = width.div_ceil(lanes);
    b.tasks(|b, t| {
        let k = &mut b.k;
        let column = k.scale(t, lanes);
        let ids_of_lanes = k.lane_ids(lanes);
        let all = k.int(width as i64);
        let left = k.sub(all, column);
        let left = k.narrow(left);
        let left = k.splat(left, lanes);
        let mask = k.cmp("slt", ids_of_lanes, left);
        let at = |k: &mut Emit, base, row| {
            let i = k.scale(row, width);
            let i = k.add(i, column);
            k.element(base, i)
        };
        k.count(rows, |k, r| {
            let v = match start {
                Some(start) => {
                    let p = at(k, start, r);
                    k.load_masked(p, mask)
                }
                None => k.float(0.0, Ty::Vec(lanes)),
            };
            let p = at(k, out, r);
            k.store_masked(v, p, mask);
        });
        k.count(count, |k, i| {
            let p = k.element(ids, i);
            let id = k.load(Ty::I32, p);
            let add = |k: &mut Emit, id: Val| {
                let p = at(k, updates, i);
                let v = k.load_masked(p, mask);
                let p = at(k, out, id);
                let old = k.load_masked(p, mask);
                let v = k.add(old, v);
                k.store_masked(v, p, mask);
            };
            if part.is_some() {
                let (id, ours) = own_row(k, id, part, rows);
                k.if_(ours, |k| add(k, id));
            } else {
                let id = k.widen(id);
                add(k, id);
            }
        });
        Ok(())
    })?;
    Ok(Shape { tasks, scratch_floats: 0, tiles: false })
}
