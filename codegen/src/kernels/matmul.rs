//! Matrix products with a fused epilogue: register tiles over operands read in place or from packed
//! panels, one task per block of the result.
//!
//! C[batch, m, n] = Σₖ A[batch, m, k]·B[batch, k, n], every operand with its own strides, so no
//! transposed copy is ever made. Products of rows that belong to experts are the same over ranges of rows
//! that the kernel reads. A projection to queries, keys and values is stored as those. k is split into
//! blocks whose partial tiles wait in scratch; the order of the sum is fixed by the depth and does not
//! depend on the number of threads.

mod ahead;
mod epilogue;
mod grouped;
mod parts;
mod schedule;
mod tile;
mod vector;

use std::collections::HashMap;

use neoxc_ir::ops::matmul::roles;
use neoxc_ir::{DType, Dim, Op, TensorType, ValueId};

use super::pack::{self, Source, panel_stride};
use super::{Body, Choice, Shape, Ties};
use crate::CodegenError;
use crate::emit::{Emit, TILE, Val};
use epilogue::Epilogue;
use grouped::Ranges;
use parts::Parts;
pub use schedule::Cut;
use schedule::{Access, Problem, Schedule, Unit};
use tile::{Operand, Tile};

/// One role's dims as a single index: size, and stride in an operand.
fn collapse(dims: &[Dim], ty: &TensorType) -> Option<usize> {
    let strides = ty.strides();
    let mut stride = None;
    let mut next = 0;
    for d in dims.iter().rev().filter(|d| d.size > 1) {
        let s = strides[ty.position(&d.name)?];
        match stride {
            None => stride = Some(s),
            Some(_) if s == next => {}
            Some(_) => return None,
        }
        next = s * d.size;
    }
    Some(stride.unwrap_or(1))
}

fn size(dims: &[Dim]) -> usize {
    dims.iter().map(|d| d.size).product()
}

/// Strides of an operand in words, pairs of neighbouring steps: contiguous along the contraction, they are
/// there; contiguous along the rows, packing makes them of two lines. No other layout has them.
fn pairs(row: usize, step: usize, rows: usize) -> Option<(usize, usize)> {
    match (row, step) {
        (_, 1) if rows == 1 || row.is_multiple_of(2) => Some((row / 2, 1)),
        (1, _) => Some((1, step)),
        _ => None,
    }
}

/// An operand as the unit takes it.
fn source(
    k: &mut Emit,
    unit: Unit,
    base: Val,
    row: usize,
    step: usize,
    rows: usize,
    aligned: bool,
) -> Source {
    let plain = Source { base, row, step, rows, aligned, two_lines: false };
    match pairs(row, step, rows) {
        Some((row, 1)) if unit != Unit::Fma && step == 1 => {
            Source { base: k.words(base), row, step: 1, ..plain }
        }
        _ => Source { two_lines: unit != Unit::Fma, ..plain },
    }
}

#[derive(Clone)]
struct Plan {
    s: Schedule,
    m: usize,
    n: usize,
    product: ValueId,
    /// What the result is stored as, if not as one matrix.
    parts: Option<Parts>,
    /// Whether tiles reach beyond the last column.
    ragged: bool,
    /// Whether tiles reach beyond the last row, or may.
    ragged_rows: bool,
    /// Per parameter used by the epilogue: strides along batch, m and n (0 where broadcast).
    strides: HashMap<ValueId, [usize; 3]>,
}

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let f = b.f;
    let product = |op: &&Op| matches!(op.kind.name(), "matmul" | "grouped_matmul");
    let op = f.ops.iter().find(product).ok_or_else(|| b.fail("has no matmul"))?;
    let (va, vb, product) = (op.operands[0], op.operands[1], op.results[0]);
    let (ta, tb, tc) = (f.ty(va), f.ty(vb), f.ty(product));
    let by_expert = op.kind.is("grouped_matmul");
    let r = match by_expert {
        true => grouped::roles(f, op)?,
        false => roles(ta, tb, &op.attrs).map_err(|e| b.fail(e.0))?,
    };
    let layout = |dims: &[Dim], ty: &TensorType| {
        collapse(dims, ty).ok_or_else(|| b.fail(format!("{ty} is not one matrix")))
    };
    let (a_batch, a_row, a_step) = (layout(&r.batch, ta)?, layout(&r.m, ta)?, layout(&r.k, ta)?);
    let b_batch = if by_expert { 0 } else { layout(&r.batch, tb)? };
    let (b_row, b_step) = (layout(&r.n, tb)?, layout(&r.k, tb)?);
    // The contraction must walk both operands in one order.
    let order = |ty: &TensorType| -> Vec<usize> {
        r.k.iter().filter(|d| d.size > 1).filter_map(|d| ty.position(&d.name)).collect()
    };
    if !order(ta).is_sorted() || !order(tb).is_sorted() {
        return Err(b.fail("contracts dims that the operands hold in different orders"));
    }
    let (batch, m, n, depth) = (size(&r.batch), size(&r.m), size(&r.n), size(&r.k));
    let lanes = b.lanes;
    let halves = [ta, tb].map(|t| t.dtype == DType::Bf16);
    let (sa, sb) = ((a_row, a_step), (b_row, b_step));
    let parts = Parts::of(b)?;
    let together = parts.as_ref().map_or(1, Parts::width);
    let plain = Problem { unit: Unit::Fma, batch, m, n, depth, a: sa, b: sb, halves, together };
    let one_row = !by_expert && parts.is_none() && vector::takes(plain);
    let (steps_a, steps_b) = (pairs(a_row, a_step, m), pairs(b_row, b_step, n));
    let unit = match (steps_a, steps_b) {
        (Some(_), Some(_)) if halves == [true; 2] && depth.is_multiple_of(2) => {
            Unit::of_pairs(b.cpu)
        }
        _ => Unit::Fma,
    };
    // From here on a step of the contraction is what the unit multiplies at a time.
    let (depth, a_strides, b_strides) = match (unit, steps_a, steps_b) {
        (Unit::Dot | Unit::Tiles, Some(a), Some(b)) => (depth / 2, a, b),
        _ => (depth, plain.a, plain.b),
    };
    let mut problem = Problem { unit, depth, a: a_strides, b: b_strides, ..plain };
    let ranges = match by_expert {
        true => {
            let lost = || b.fail("which rows experts have is not a parameter");
            let (starts, counts) = (op.operands[2], op.operands[3]);
            let local = f.ty(starts).dims.last().map_or(1, |d| d.size);
            // The schedule for equal shares; where rows begin is not known, so they are packed.
            problem = Problem { batch: batch * local, m: m.div_ceil(local), ..problem };
            Some(Ranges {
                starts: b.param(starts).ok_or_else(lost)?,
                counts: b.param(counts).ok_or_else(lost)?,
                groups: f.ty(va).dims[1].size,
                local,
                rows: m,
                matrix: size(&r.n) * size(&r.k),
            })
        }
        false => None,
    };
    let (mut s, near) = Schedule::choose(problem, b.cpu);
    if ranges.is_some() {
        s.a = Access::Packed;
    } else if !one_row {
        let key = format!("the cut of {problem:?} on {:?}", b.cpu);
        let wanted = match b.choice {
            Choice::Model => None,
            Choice::Tuned(t) => t.cut(&key).filter(|cut| near.contains(cut)),
            Choice::This(cut) => Some(cut),
        };
        s = wanted.map_or(s, |cut| s.with(cut));
        let taken = Cut { rows: s.task_rows, columns: s.task_columns };
        b.ties = Some(Ties { key, cuts: near, taken });
    }
    // Of other units' loops it was never measured.
    b.unrolled = !one_row && unit == Unit::Fma;
    if one_row {
        (s.tile_rows, s.tile_vectors) = (1, 1);
    }
    let mut strides = HashMap::new();
    let tables = parts::tables(&f.ops);
    for p in &f.params {
        if !op.operands.contains(p) && !tables.contains(p) {
            let ty = f.ty(*p);
            let along = |dims: &[Dim]| -> Option<usize> {
                let have = dims.iter().filter(|d| ty.has(&d.name)).count();
                match have {
                    0 => Some(0),
                    h if h == dims.len() => collapse(dims, ty),
                    _ => None,
                }
            };
            let all = (along(&r.batch), along(&r.m), along(&r.n));
            let (Some(x), Some(y), Some(z)) = all else {
                return Err(b.fail(format!("operand {ty} does not broadcast into {tc}")));
            };
            if z > 1 {
                return Err(b.fail(format!("operand {ty} is not contiguous along the columns")));
            }
            strides.insert(*p, [x, y, z]);
        }
    }
    let ragged = one_row && !n.is_multiple_of(lanes);
    // Rows behind the last whole tile have a lower one, where it is known how many they are.
    let lower_tiles = ranges.is_none() && unit.has_lower_tiles();
    let low = if lower_tiles { m % s.tile_rows } else { 0 };
    let ragged_rows = !lower_tiles && (ranges.is_some() || !m.is_multiple_of(s.tile_rows));
    let plan = Plan { s, m, n, product, parts, ragged, ragged_rows, strides };
    let pa = b.param(va).ok_or_else(|| b.fail("the first factor is not a parameter"))?;
    let pb = b.param(vb).ok_or_else(|| b.fail("the second factor is not a parameter"))?;
    if one_row {
        return vector::emit(b, &plan, plain, pa, pb);
    }
    let (row_blocks, column_blocks) = (m.div_ceil(s.task_rows), n.div_ceil(s.task_columns));
    let width = s.tile_vectors * lanes;
    // Whole tiles, and the columns behind them in a narrower one.
    let rest = s.of_rest(n % width, lanes);
    let ragged = rest.tile_vectors * lanes != n % width;
    let narrow = Plan { s: rest, ragged, ..plan.clone() };
    let lower = |p: &Plan| Plan { s: Schedule { tile_rows: low, ..p.s }, ..p.clone() };
    let (low_plan, low_narrow) = (lower(&plan), lower(&narrow));
    // Scratch: packed B, packed A, partial tiles, one tile; packed panels end with a vector of slack.
    let stride = |w| panel_stride(w, s.block_depth, lanes);
    let panels = |access, count, w| if access == Access::Packed { count * stride(w) } else { 0 };
    let packed_b = panels(s.b, s.task_columns / width, width);
    let packed_a = panels(s.a, s.group_rows / s.tile_rows, s.tile_rows);
    let blocks = depth.div_ceil(s.block_depth);
    let partial = if blocks > 1 { s.task_rows * s.task_columns } else { 0 };
    let tiles = unit == Unit::Tiles;
    let one_tile = s.tile_rows * width;
    // With AMX two: one is stored while the next is computed.
    let tile_room = if tiles { 2 * one_tile } else { one_tile };
    if tiles {
        let room = b.k.element_at(b.scratch, packed_b + packed_a + partial + tile_room);
        b.k.tile_config(room);
    }
    let products = ranges.map_or(batch, |r| r.products(batch));
    b.tasks(|b, t| {
        let k = &mut b.k;
        let per_batch = k.int((row_blocks * column_blocks) as i64);
        let which = k.div(t, per_batch);
        let rest = k.rem(t, per_batch);
        let columns = k.int(column_blocks as i64);
        let (mi, ni) = (k.div(rest, columns), k.rem(rest, columns));
        let (mut m0, n0) = (k.scale(mi, s.task_rows), k.scale(ni, s.task_columns));
        let place = ranges.map(|r| r.place(k, which));
        let which = place.as_ref().map_or(which, |p| p.bin);
        if let Some(p) = &place {
            m0 = k.add(p.first, m0);
        }
        let base = |k: &mut Emit, p, stride| {
            if batch == 1 {
                return p;
            }
            let at = k.scale(which, stride);
            k.element(p, at)
        };
        let aligned = place.is_none();
        let from = base(k, pa, a_batch);
        let source_a = source(k, unit, from, a_row, a_step, m, aligned);
        let from = match (&place, ranges) {
            (Some(p), Some(r)) => {
                let at = k.scale(p.matrix, r.matrix);
                k.element(pb, at)
            }
            _ => base(k, pb, b_batch),
        };
        let source_b = source(k, unit, from, b_row, b_step, n, true);
        let bp = b.scratch;
        let ap = k.element_at(bp, packed_b);
        let cp = k.element_at(ap, packed_a);
        let tp = k.element_at(cp, partial);
        let limit = |k: &mut Emit, lo, step: usize, all: Val| {
            let step = k.int(step as i64);
            let hi = k.add(lo, step);
            k.min(hi, all)
        };
        // Tiles or panels of `unit` between two rows.
        let count = |k: &mut Emit, lo, hi, unit: usize| {
            let n = k.sub(hi, lo);
            let round = k.int(unit as i64 - 1);
            let n = k.add(n, round);
            let unit = k.int(unit as i64);
            k.div(n, unit)
        };
        let (mut all_m, all_n) = (k.int(m as i64), k.int(n as i64));
        if let Some(p) = &place {
            all_m = p.rows.end;
        }
        let m1 = limit(k, m0, s.task_rows, all_m);
        let n1 = limit(k, n0, s.task_columns, all_n);
        // Counts known now let LLVM unroll what packs a line of panels.
        let across = if n.is_multiple_of(s.task_columns) {
            k.int((s.task_columns / width) as i64)
        } else {
            count(k, n0, n1, width)
        };
        let whole_groups = place.is_none()
            && m.is_multiple_of(s.task_rows)
            && s.task_rows.is_multiple_of(s.group_rows);
        let zero = k.int(0);
        let whole_tiles = if n.is_multiple_of(width) {
            across
        } else {
            let (columns, width) = (k.sub(n1, n0), k.int(width as i64));
            k.div(columns, width)
        };
        let rows = place.as_ref().map(|p| p.rows);
        // Nothing is packed for rows that no expert has, and nothing is done where a range has none left.
        let free = rows.map(|r| r.free);
        let packed = |k: &mut Emit, panels| free.map_or(panels, |f| k.select(f, zero, panels));
        let some = place.is_some().then(|| k.cmp("slt", m0, m1));
        for last in [false, true] {
            // All blocks but the last share code; the last one ends in the epilogue.
            let (from, to) = if last { (blocks - 1, blocks) } else { (0, blocks - 1) };
            if from == to {
                continue;
            }
            let depth = if last { depth - (blocks - 1) * s.block_depth } else { s.block_depth };
            let whole = depth.next_multiple_of(unit.granule());
            let (lo, mut hi) = (b.k.int(from as i64), b.k.int(to as i64));
            if let Some(some) = some {
                hi = b.k.select(some, hi, lo);
            }
            b.nest(lo, hi, 1, |b, block| {
                let k = &mut b.k;
                let k0 = k.scale(block, s.block_depth);
                if s.b == Access::Packed {
                    let panels = packed(k, across);
                    pack::block(k, source_b, n0, panels, width, k0, [depth, whole], bp, lanes);
                }
                b.nest(m0, m1, s.group_rows, |b, mg| {
                    let k = &mut b.k;
                    let end = limit(k, mg, s.group_rows, m1);
                    let down = if whole_groups {
                        k.int((s.group_rows / s.tile_rows) as i64)
                    } else {
                        count(k, mg, end, s.tile_rows)
                    };
                    if s.a == Access::Packed {
                        let panels = packed(k, down);
                        if tiles {
                            pack::row_tiles(k, source_a, mg, panels, s.tile_rows, k0, depth, ap);
                        } else {
                            let depths = [depth, whole];
                            pack::block(
                                k,
                                source_a,
                                mg,
                                panels,
                                s.tile_rows,
                                k0,
                                depths,
                                ap,
                                lanes,
                            );
                        }
                    }
                    // The rows behind these, or the first of the next block.
                    let k = &mut b.k;
                    let more = k.cmp("slt", end, m1);
                    let next = k.int(if last { 0 } else { s.block_depth as i64 });
                    let next = k.add(k0, next);
                    let (rows_ahead, k_ahead) = (k.select(more, end, m0), k.select(more, k0, next));
                    let whole_down = if low == 0 {
                        down
                    } else {
                        let (rows, tall) = (k.sub(end, mg), k.int(s.tile_rows as i64));
                        k.div(rows, tall)
                    };
                    for (plan, low_plan, from, to, some) in [
                        (&plan, &low_plan, zero, whole_tiles, n >= width),
                        (&narrow, &low_narrow, whole_tiles, across, !n.is_multiple_of(width)),
                    ] {
                        if !some {
                            continue;
                        }
                        let tile = |k: &mut Emit, plan, j: Val, i: Val| {
                            let tall = s.tile_rows;
                            let a =
                                Operand::at(k, s.a, source_a, mg, i, tall, k0, whole, ap, lanes);
                            let bo =
                                Operand::at(k, s.b, source_b, n0, j, width, k0, whole, bp, lanes);
                            let row = k.scale(i, tall);
                            let row = k.add(mg, row);
                            let column = k.scale(j, width);
                            let local = k.sub(row, m0);
                            let at = k.scale(local, s.task_columns);
                            let at = k.add(at, column);
                            let partial = (blocks > 1).then(|| k.element(cp, at));
                            let column = k.add(n0, column);
                            let epilogue = Epilogue { plan, batch: which, column };
                            let (depth, scratch) = (whole, tp);
                            // The loop of tile registers has few turns; `ask` is for them.
                            let mut ahead = vec![];
                            if !tiles {
                                let number = k.mul(j, down);
                                let number = k.add(number, i);
                                let all = s.group_rows / s.tile_rows * (s.task_columns / width);
                                let next = [rows_ahead, k_ahead];
                                ahead.extend(ahead::share(
                                    k,
                                    source_a,
                                    next,
                                    s.group_rows,
                                    number,
                                    all,
                                ));
                            }
                            if !tiles && !last {
                                let number = k.sub(row, m0);
                                let tall = k.int(tall as i64);
                                let number = k.div(number, tall);
                                let all = s.task_rows / s.tile_rows;
                                let next = k.int(s.block_depth as i64);
                                let next = [column, k.add(k0, next)];
                                ahead.extend(ahead::share(k, source_b, next, width, number, all));
                            }
                            Tile {
                                ahead,
                                plan,
                                a,
                                b: bo,
                                row,
                                epilogue,
                                depth,
                                partial,
                                block,
                                scratch,
                                rows,
                            }
                        };
                        let ask = |k: &mut Emit, tile: &Tile<'_>, j: Val| {
                            if s.a == Access::Direct && source_a.step == 1 && tiles {
                                tile.a.prefetch(k, s.group_rows, s.tile_rows, depth, j, across);
                            }
                        };
                        if last && tiles && rows.is_none() {
                            // A tile's epilogue is beside the products of the next.
                            let count = b.k.sub(to, from);
                            let all = b.k.mul(count, down);
                            let number = |k: &mut Emit, t: Val| {
                                let (j, i) = (k.div(t, down), k.rem(t, down));
                                let j = k.add(from, j);
                                let two = k.int(2);
                                let turn = k.rem(t, two);
                                let room = k.scale(turn, one_tile);
                                let scratch = k.element(tp, room);
                                (j, Tile { scratch, ..tile(k, plan, j, i) })
                            };
                            b.nest(zero, all, 1, |b, t| {
                                let k = &mut b.k;
                                let one = k.int(1);
                                let some = k.cmp("ne", t, zero);
                                let before = k.max(t, one);
                                let before = k.sub(before, one);
                                let (_, before) = number(k, before);
                                let (j, now) = number(k, t);
                                ask(k, &now, j);
                                now.finish_before(b, &before, some)
                            })?;
                            let k = &mut b.k;
                            let one = k.int(1);
                            let (end, rows) = (k.sub(all, one), k.int(s.tile_rows as i64));
                            // A task may have no columns behind its whole tiles.
                            let some = k.cmp("ne", all, zero);
                            let rows = k.select(some, rows, zero);
                            let (_, end) = number(k, end);
                            end.store_rows(b, zero, rows)?;
                            continue;
                        }
                        // All tiles of the group read a panel of B before the next: it may stay in the first-level
                        // cache.
                        b.nest(from, to, 1, |b, j| {
                            let mut rows = |plan, from, to| {
                                b.nest(from, to, 1, |b, i| {
                                    let now = tile(&mut b.k, plan, j, i);
                                    ask(&mut b.k, &now, j);
                                    if last { now.finish(b) } else { now.set_aside(b) }
                                })
                            };
                            rows(plan, zero, whole_down)?;
                            if low > 0 { rows(low_plan, whole_down, down) } else { Ok(()) }
                        })?;
                    }
                    if let Some(parts) = plan.parts.as_ref().filter(|_| last) {
                        parts.turn(&mut b.k, [mg, end], [n0, n1], lanes);
                    }
                    Ok(())
                })
            })?;
        }
        Ok(())
    })?;
    if tiles {
        b.k.tile_release();
    }
    // Behind it all, a cache line that describes tile registers.
    let scratch_floats = packed_b + packed_a + partial + tile_room + if tiles { TILE } else { 0 };
    Ok(Shape { tasks: products * row_blocks * column_blocks, scratch_floats, tiles })
}
