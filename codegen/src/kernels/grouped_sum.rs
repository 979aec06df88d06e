//! Sums over the rows of each expert: outer products of two rows (gradients of matrices), or the rows
//! themselves (gradients of biases), on top of an accumulator if the body adds one.
//!
//! A task owns a tile of one expert's result and walks the expert's rows, group by group, so sums have one
//! order. Operands are read in place: a step needs a few neighbours of each row.

use neoxc_ir::{Op, OpKind};

use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};

struct Sizes {
    owners: usize,
    groups: usize,
    rows: usize,
    local: usize,
    /// Rows and columns of an expert's result.
    m: usize,
    n: usize,
}

/// What a task knows of where it is.
struct Place {
    owner: Val,
    expert: Val,
    starts: Val,
    counts: Val,
}

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let sum = |op: &&Op| matches!(op.kind, OpKind::GroupedWeight | OpKind::SumRows);
    let op = b.f.ops.iter().find(sum).cloned().ok_or_else(|| b.fail("sums nothing"))?;
    let pointer = |v| b.param(v).ok_or_else(|| b.fail("lost an operand"));
    let start = match b.f.ops.iter().find(|o| o.kind == OpKind::Add) {
        Some(add) => {
            let other = add.operands.iter().find(|o| **o != op.results[0]);
            Some(pointer(*other.ok_or_else(|| b.fail("adds a sum to itself"))?)?)
        }
        None => None,
    };
    let x: Vec<usize> = b.f.ty(op.operands[0]).dims.iter().map(|d| d.size).collect();
    let ranges = op.operands.len() - 2;
    let local = b.f.ty(op.operands[ranges]).dims[2].size;
    let (starts, counts) = (pointer(op.operands[ranges])?, pointer(op.operands[ranges + 1])?);
    let outer = op.kind == OpKind::GroupedWeight;
    let factor = if outer { Some(pointer(op.operands[0])?) } else { None };
    let row = pointer(op.operands[ranges - 1])?;
    let n = b.f.ty(op.operands[ranges - 1]).dims[3].size;
    let m = if outer { x[3] } else { 1 };
    let s = Sizes { owners: x[0], groups: x[1], rows: x[2], local, m, n };
    let lanes = b.lanes;
    // Accumulators fill the register file, less what one step loads.
    let (most_rows, most_vectors) = if lanes == 16 { (8, 3) } else { (4, 3) };
    let tile = (most_rows.min(m), most_vectors.min(n.div_ceil(lanes)));
    let (down, across) = (m.div_ceil(tile.0), n.div_ceil(tile.1 * lanes));
    let out = b.result(0);
    b.tasks(|b, task| {
        let k = &mut b.k;
        let per = k.int((down * across) as i64);
        let (which, rest) = (k.div(task, per), k.rem(task, per));
        let columns = k.int(across as i64);
        let (i, j) = (k.div(rest, columns), k.rem(rest, columns));
        let (i0, j0) = (k.scale(i, tile.0), k.scale(j, tile.1 * lanes));
        let all = k.int(s.local as i64);
        let (owner, expert) = (k.div(which, all), k.rem(which, all));
        let place = Place { owner, expert, starts, counts };
        let edge = Edge::of(k, &s, tile, i0, j0, lanes);
        let sums = walk(k, &s, &place, &edge, factor, row, lanes);
        let base = k.scale(which, s.m * s.n);
        for (r, sums) in sums.chunks(tile.1).enumerate() {
            let r = k.int(r as i64);
            let i = k.add(i0, r);
            let last = k.int(s.m as i64);
            let inside = k.cmp("slt", i, last);
            k.if_(inside, |k| {
                let line = k.scale(i, s.n);
                let line = k.add(base, line);
                for (v, (column, mask)) in sums.iter().zip(&edge.columns) {
                    let at = k.add(line, *column);
                    let mut v = *v;
                    if let Some(start) = start {
                        let p = k.element(start, at);
                        let old = load(k, p, *mask, lanes);
                        v = k.add(old, v);
                    }
                    let p = k.element(out, at);
                    match mask {
                        None => k.store(v, p),
                        Some(mask) => k.store_masked(v, p, *mask),
                    }
                }
            });
        }
        Ok(())
    })?;
    Ok(Shape { tasks: s.owners * s.local * down * across, scratch_floats: 0, tiles: false })
}

fn load(k: &mut Emit, p: Val, mask: Option<Val>, lanes: usize) -> Val {
    match mask {
        None => k.load(Ty::Vec(lanes), p),
        Some(mask) => k.load_masked(p, mask),
    }
}

/// Rows of a tile, clamped to the last one, and its columns with masks where they may run over the edge.
struct Edge {
    rows: Vec<Val>,
    columns: Vec<(Val, Option<Val>)>,
}

impl Edge {
    fn of(k: &mut Emit, s: &Sizes, tile: (usize, usize), i0: Val, j0: Val, lanes: usize) -> Edge {
        let last = k.int(s.m as i64 - 1);
        let rows = (0..tile.0)
            .map(|r| {
                let r = k.int(r as i64);
                let i = k.add(i0, r);
                k.min(i, last)
            })
            .collect();
        let ragged = !s.n.is_multiple_of(tile.1 * lanes);
        let columns = (0..tile.1)
            .map(|v| {
                let offset = k.int((v * lanes) as i64);
                let column = k.add(j0, offset);
                let mask = ragged.then(|| {
                    let ids = k.lane_ids(lanes);
                    let all = k.int(s.n as i64);
                    let left = k.sub(all, column);
                    let left = k.narrow(left);
                    let left = k.splat(left, lanes);
                    k.cmp("slt", ids, left)
                });
                (column, mask)
            })
            .collect();
        Edge { rows, columns }
    }
}

/// The sums of a tile, row by row: Σ over groups and rows of the expert.
fn walk(
    k: &mut Emit,
    s: &Sizes,
    place: &Place,
    edge: &Edge,
    factor: Option<Val>,
    row: Val,
    lanes: usize,
) -> Vec<Val> {
    let zero = k.float(0.0, Ty::Vec(lanes));
    let init = vec![zero; edge.rows.len() * edge.columns.len()];
    let (none, one, groups) = (k.int(0), k.int(1), k.int(s.groups as i64));
    k.for_(none, groups, one, &init, |k, group, sums| {
        let bin = k.scale(place.owner, s.groups);
        let bin = k.add(bin, group);
        let at = k.scale(bin, s.local);
        let at = k.add(at, place.expert);
        let [start, n] = [place.starts, place.counts].map(|base| {
            let p = k.element(base, at);
            let i = k.load(Ty::I32, p);
            k.widen(i)
        });
        let first = k.scale(bin, s.rows);
        let lo = k.add(first, start);
        let hi = k.add(lo, n);
        k.for_(lo, hi, one, sums, |k, r, sums| {
            let line = k.scale(r, s.n);
            let values: Vec<Val> = edge
                .columns
                .iter()
                .map(|(column, mask)| {
                    let at = k.add(line, *column);
                    let p = k.element(row, at);
                    load(k, p, *mask, lanes)
                })
                .collect();
            let Some(factor) = factor else {
                return sums.iter().zip(values).map(|(sum, v)| k.add(*sum, v)).collect();
            };
            let line = k.scale(r, s.m);
            let mut out = vec![];
            for (i, sums) in edge.rows.iter().zip(sums.chunks(edge.columns.len())) {
                let at = k.add(line, *i);
                let p = k.element(factor, at);
                let x = k.load(Ty::F32, p);
                let x = k.splat(x, lanes);
                out.extend(sums.iter().zip(&values).map(|(sum, v)| k.fma(x, *v, *sum)));
            }
            out
        })
    })
}
