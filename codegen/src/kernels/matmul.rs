//! Matrix products with a fused epilogue: packed panels, register tiles, one task per block of the
//! result.
//!
//! C[batch, m, n] = Σₖ A[batch, m, k]·B[batch, k, n], every operand with its own strides, so no
//! transposed copy is ever made. k is split into blocks whose partial tiles wait in scratch; the
//! order of the sum is fixed by the schedule and does not depend on the number of threads.

use std::collections::HashMap;

use neoxc_ir::ops::matmul::roles;
use neoxc_ir::{Dim, TensorType, ValueId};

use super::pack::{Source, panel};
use super::{Body, Shape, expr};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};

/// The schedule of one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Rows of a register tile.
    pub tile_rows: usize,
    /// Vectors across a register tile.
    pub tile_vectors: usize,
    /// Rows of a task.
    pub task_rows: usize,
    /// Columns of a task.
    pub task_columns: usize,
    /// Steps of the contraction per block.
    pub block_depth: usize,
}

/// Bytes of packed B that should stay in a core's second-level cache.
const PANEL_BYTES: usize = 512 << 10;
/// Fewest tasks worth splitting into: enough for the threads of a small machine.
const MIN_TASKS: usize = 8;

impl Schedule {
    /// Picks tiles that waste the fewest columns, and blocks that keep packed B in cache.
    pub fn choose(m: usize, n: usize, depth: usize, lanes: usize) -> Schedule {
        // (rows, vectors): accumulators fill the register file less what a step loads.
        let tiles: &[(usize, usize)] =
            if lanes == 16 { &[(8, 3), (6, 4), (14, 2)] } else { &[(6, 2), (4, 3)] };
        let waste = |v: usize| n.div_ceil(v * lanes) * v * lanes;
        let (tile_rows, tile_vectors) = tiles
            .iter()
            .copied()
            .min_by_key(|(_, v)| waste(*v))
            .expect("the list of tiles is not empty");
        let width = tile_vectors * lanes;
        let block_depth = depth.min(512);
        let fit = (PANEL_BYTES / (4 * block_depth)).max(width);
        let mut task_columns = n.min(fit).div_ceil(width) * width;
        let mut task_rows = if depth > block_depth { 256 } else { 512 };
        task_rows = task_rows.min(m).div_ceil(tile_rows) * tile_rows;
        let tasks = |r: usize, c: usize| m.div_ceil(r) * n.div_ceil(c);
        while tasks(task_rows, task_columns) < MIN_TASKS {
            if task_columns >= 4 * width && task_columns * 2 >= task_rows {
                task_columns = (task_columns / 2).div_ceil(width) * width;
            } else if task_rows >= 8 * tile_rows {
                task_rows = (task_rows / 2).div_ceil(tile_rows) * tile_rows;
            } else if task_columns >= 2 * width {
                task_columns = (task_columns / 2).div_ceil(width) * width;
            } else {
                break;
            }
        }
        Schedule { tile_rows, tile_vectors, task_rows, task_columns, block_depth }
    }
}

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

struct Plan {
    s: Schedule,
    m: usize,
    n: usize,
    product: ValueId,
    /// Per parameter used by the epilogue: strides along batch, m and n (0 where broadcast).
    strides: HashMap<ValueId, [usize; 3]>,
}

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let f = b.f;
    let op = f.ops.iter().find(|op| op.kind.is("matmul")).ok_or_else(|| b.fail("has no matmul"))?;
    let (va, vb, product) = (op.operands[0], op.operands[1], op.results[0]);
    let (ta, tb, tc) = (f.ty(va), f.ty(vb), f.ty(product));
    let r = roles(ta, tb, &op.attrs).map_err(|e| b.fail(e.0))?;
    let layout = |dims: &[Dim], ty: &TensorType| {
        collapse(dims, ty).ok_or_else(|| b.fail(format!("{ty} is not one matrix")))
    };
    let (a_batch, a_row, a_step) = (layout(&r.batch, ta)?, layout(&r.m, ta)?, layout(&r.k, ta)?);
    let (b_batch, b_row, b_step) = (layout(&r.batch, tb)?, layout(&r.n, tb)?, layout(&r.k, tb)?);
    // The contraction must walk both operands in one order.
    let order = |ty: &TensorType| -> Vec<usize> {
        r.k.iter().filter(|d| d.size > 1).filter_map(|d| ty.position(&d.name)).collect()
    };
    if !order(ta).is_sorted() || !order(tb).is_sorted() {
        return Err(b.fail("contracts dims that the operands hold in different orders"));
    }
    let (batch, m, n, depth) = (size(&r.batch), size(&r.m), size(&r.n), size(&r.k));
    let lanes = b.lanes;
    let s = Schedule::choose(m, n, depth, lanes);
    let mut strides = HashMap::new();
    for p in &f.params {
        if *p != va && *p != vb {
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
    let plan = Plan { s, m, n, product, strides };
    let (row_blocks, column_blocks) = (m.div_ceil(s.task_rows), n.div_ceil(s.task_columns));
    let width = s.tile_vectors * lanes;
    // Scratch: packed B, packed A, partial tiles; each with a vector of slack.
    let packed_b = s.task_columns * s.block_depth + lanes;
    let packed_a = s.tile_rows * s.block_depth + lanes;
    let blocks = depth.div_ceil(s.block_depth);
    let partial = if blocks > 1 { s.task_rows * s.task_columns } else { 0 };
    let pa = b.param(va).ok_or_else(|| b.fail("the first factor is not a parameter"))?;
    let pb = b.param(vb).ok_or_else(|| b.fail("the second factor is not a parameter"))?;
    b.tasks(|b, t| {
        let per_batch = b.k.int((row_blocks * column_blocks) as i64);
        let which = b.k.div(t, per_batch);
        let rest = b.k.rem(t, per_batch);
        let columns = b.k.int(column_blocks as i64);
        let (mi, ni) = (b.k.div(rest, columns), b.k.rem(rest, columns));
        let (m0, n0) = (b.k.scale(mi, s.task_rows), b.k.scale(ni, s.task_columns));
        let base = |k: &mut Emit, p, stride| {
            if batch == 1 {
                return p;
            }
            let at = k.scale(which, stride);
            k.element(p, at)
        };
        let source_a =
            Source { base: base(&mut b.k, pa, a_batch), row: a_row, step: a_step, rows: m };
        let source_b =
            Source { base: base(&mut b.k, pb, b_batch), row: b_row, step: b_step, rows: n };
        let bp = b.scratch;
        let ap = b.k.element_at(bp, packed_b);
        let cp = b.k.element_at(ap, packed_a);
        let limit = |k: &mut Emit, lo, step: usize, all: usize| {
            let (step, all) = (k.int(step as i64), k.int(all as i64));
            let hi = k.add(lo, step);
            k.min(hi, all)
        };
        let m1 = limit(&mut b.k, m0, s.task_rows, m);
        let n1 = limit(&mut b.k, n0, s.task_columns, n);
        for last in [false, true] {
            // All blocks but the last share code; the last one ends in the epilogue.
            let (from, to) = if last { (blocks - 1, blocks) } else { (0, blocks - 1) };
            if from == to {
                continue;
            }
            let this_depth =
                if last { depth - (blocks - 1) * s.block_depth } else { s.block_depth };
            let (lo, hi) = (b.k.int(from as i64), b.k.int(to as i64));
            let mut outcome = Ok(());
            let mut k = std::mem::replace(&mut b.k, Emit::new(""));
            k.loop_(lo, hi, 1, |k, block| {
                std::mem::swap(&mut b.k, k);
                let k0 = b.k.scale(block, s.block_depth);
                b.k.loop_(n0, n1, width, |k, nb| {
                    let at = k.sub(nb, n0);
                    let at = k.scale(at, this_depth);
                    let dst = k.element(bp, at);
                    panel(k, source_b, nb, width, k0, this_depth, dst, lanes);
                });
                let mut k2 = std::mem::replace(&mut b.k, Emit::new(""));
                k2.loop_(m0, m1, s.tile_rows, |k2, mb| {
                    panel(k2, source_a, mb, s.tile_rows, k0, this_depth, ap, lanes);
                    k2.loop_(n0, n1, width, |k2, nb| {
                        std::mem::swap(&mut b.k, k2);
                        let tile =
                            Tile { plan: &plan, m0, n0, mb, nb, block, depth: this_depth, last };
                        let done = tile.emit(b, bp, ap, cp, blocks, which);
                        if done.is_err() {
                            outcome = done;
                        }
                        std::mem::swap(&mut b.k, k2);
                    });
                });
                b.k = k2;
                std::mem::swap(&mut b.k, k);
            });
            b.k = k;
            outcome?;
        }
        Ok(())
    })?;
    Ok(Shape {
        tasks: batch * row_blocks * column_blocks,
        scratch_floats: packed_b + packed_a + partial,
    })
}

/// One register tile.
struct Tile<'a> {
    plan: &'a Plan,
    m0: Val,
    n0: Val,
    mb: Val,
    nb: Val,
    block: Val,
    depth: usize,
    last: bool,
}

impl Tile<'_> {
    fn emit(
        &self,
        b: &mut Body<'_>,
        bp: Val,
        ap: Val,
        cp: Val,
        blocks: usize,
        batch: Val,
    ) -> Result<(), CodegenError> {
        let s = self.plan.s;
        let lanes = b.lanes;
        let width = s.tile_vectors * lanes;
        let k = &mut b.k;
        let local_column = k.sub(self.nb, self.n0);
        let at = k.scale(local_column, self.depth);
        let columns = k.element(bp, at);
        // Partial tiles: [task row][task column].
        let local_row = k.sub(self.mb, self.m0);
        let at = k.scale(local_row, s.task_columns);
        let at = k.add(at, local_column);
        let partial = k.element(cp, at);
        let zero = k.float(0.0, Ty::Vec(lanes));
        let mut init = vec![zero; s.tile_rows * s.tile_vectors];
        if blocks > 1 {
            let none = k.int(0);
            let first = k.cmp("eq", self.block, none);
            for (i, v) in init.iter_mut().enumerate() {
                let (r, c) = (i / s.tile_vectors, i % s.tile_vectors);
                let p = k.element_at(partial, r * s.task_columns + c * lanes);
                let old = k.load(Ty::Vec(lanes), p);
                *v = k.select(first, zero, old);
            }
        }
        let (lo, hi, step) = (k.int(0), k.int(self.depth as i64), k.int(1));
        let acc = k.for_(lo, hi, step, &init, |k, p, acc| {
            let at = k.scale(p, width);
            let row = k.element(columns, at);
            let bs: Vec<Val> = (0..s.tile_vectors)
                .map(|j| {
                    let q = k.element_at(row, j * lanes);
                    k.load(Ty::Vec(lanes), q)
                })
                .collect();
            let at = k.scale(p, s.tile_rows);
            let column = k.element(ap, at);
            let mut out = vec![];
            for i in 0..s.tile_rows {
                let q = k.element_at(column, i);
                let a = k.load(Ty::F32, q);
                let a = k.splat(a, lanes);
                for (j, bv) in bs.iter().enumerate() {
                    out.push(k.fma(a, *bv, acc[i * s.tile_vectors + j]));
                }
            }
            out
        });
        if !self.last {
            for (i, v) in acc.iter().enumerate() {
                let (r, c) = (i / s.tile_vectors, i % s.tile_vectors);
                let p = k.element_at(partial, r * s.task_columns + c * lanes);
                k.store(*v, p);
            }
            return Ok(());
        }
        let ragged_rows = !self.plan.m.is_multiple_of(s.tile_rows);
        for r in 0..s.tile_rows {
            let offset = b.k.int(r as i64);
            let row = b.k.add(self.mb, offset);
            let tiles = &acc[r * s.tile_vectors..(r + 1) * s.tile_vectors];
            if ragged_rows {
                let all = b.k.int(self.plan.m as i64);
                let inside = b.k.cmp("slt", row, all);
                let mut outcome = Ok(());
                let mut k = std::mem::replace(&mut b.k, Emit::new(""));
                k.if_(inside, |k| {
                    std::mem::swap(&mut b.k, k);
                    outcome = self.store_row(b, row, tiles, batch);
                    std::mem::swap(&mut b.k, k);
                });
                b.k = k;
                outcome?;
            } else {
                self.store_row(b, row, tiles, batch)?;
            }
        }
        Ok(())
    }

    fn store_row(
        &self,
        b: &mut Body<'_>,
        row: Val,
        tiles: &[Val],
        batch: Val,
    ) -> Result<(), CodegenError> {
        let lanes = b.lanes;
        let n = self.plan.n;
        let width = self.plan.s.tile_vectors * lanes;
        for (j, acc) in tiles.iter().enumerate() {
            let offset = b.k.int((j * lanes) as i64);
            let column = b.k.add(self.nb, offset);
            let mask = (!n.is_multiple_of(width)).then(|| {
                let ids = b.k.lane_ids(lanes);
                let all = b.k.int(n as i64);
                let left = b.k.sub(all, column);
                let left = b.k.narrow(left);
                let left = b.k.splat(left, lanes);
                b.k.cmp("slt", ids, left)
            });
            let mut known = HashMap::from([(self.plan.product, *acc)]);
            let mut ready = vec![];
            for (i, r) in b.f.results.clone().into_iter().enumerate() {
                let v = self.value(b, r, row, column, batch, mask, &mut known)?;
                ready.push((i, b.k.splat(v, lanes)));
            }
            for (i, v) in ready {
                let at = b.k.scale(batch, self.plan.m * n);
                let line = b.k.scale(row, n);
                let at = b.k.add(at, line);
                let at = b.k.add(at, column);
                let pointer = b.result(i);
                let p = b.k.element(pointer, at);
                match mask {
                    None => b.k.store(v, p),
                    Some(mask) => b.k.store_masked(v, p, mask),
                }
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // one element's whole place
    fn value(
        &self,
        b: &mut Body<'_>,
        v: ValueId,
        row: Val,
        column: Val,
        batch: Val,
        mask: Option<Val>,
        known: &mut HashMap<ValueId, Val>,
    ) -> Result<Val, CodegenError> {
        if let Some(x) = known.get(&v) {
            return Ok(*x);
        }
        let x = if let Some(pointer) = b.param(v) {
            let [sb, sm, sn] = *self
                .plan
                .strides
                .get(&v)
                .ok_or_else(|| b.fail("uses a factor in the epilogue"))?;
            let mut at = b.k.int(0);
            for (index, stride) in [(batch, sb), (row, sm)] {
                if stride > 0 {
                    let part = b.k.scale(index, stride);
                    at = b.k.add(at, part);
                }
            }
            if sn == 1 {
                let at = b.k.add(at, column);
                let p = b.k.element(pointer, at);
                match mask {
                    None => b.k.load(Ty::Vec(b.lanes), p),
                    Some(mask) => b.k.load_masked(p, mask),
                }
            } else {
                let p = b.k.element(pointer, at);
                b.k.load(Ty::F32, p)
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
                args.push(self.value(b, *o, row, column, batch, mask, known)?);
            }
            expr::pointwise(&mut b.k, &op, &args)
                .ok_or_else(|| b.fail(format!("`{}` is not pointwise", op.kind.name())))?
        };
        known.insert(v, x);
        Ok(x)
    }
}
