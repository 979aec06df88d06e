//! Causal attention forward: a task is one block of queries of one head. Scores of the block live
//! in scratch (block × keys), never in memory.

use neoxc_ir::{Function, Op};

use super::dropout::{Row, Weights};
use super::pack::{Source, panel};
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val, math};

/// Queries per block.
pub(super) const BLOCK: usize = 64;
/// Queries (or keys) per register tile.
pub(super) const TILE: usize = 8;
/// Vectors across a panel of packed keys.
pub(super) const PANEL_VECTORS: usize = 3;

/// Sizes of an attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub seq: usize,
    pub width: usize,
    pub lanes: usize,
    pub scale: f64,
}

impl Sizes {
    pub fn of(f: &Function, op: &Op, lanes: usize) -> Result<Sizes, CodegenError> {
        let q = f.ty(op.operands[0]);
        let size = |n| q.size(n).ok_or_else(|| CodegenError::kernel(&f.name, format!("no `{n}`")));
        let scale = op.attrs.float("scale");
        Ok(Sizes {
            batch: size("batch")?,
            heads: size("heads")?,
            seq: size("seq")?,
            width: size("head_dim")?,
            lanes,
            scale: scale.ok_or_else(|| CodegenError::kernel(&f.name, "has no `scale`"))?,
        })
    }

    /// Keys per packed panel.
    pub fn panel(&self) -> usize {
        PANEL_VECTORS * self.lanes
    }

    /// Row length of the scores in scratch: whole panels.
    pub fn row(&self) -> usize {
        self.seq.div_ceil(self.panel()) * self.panel()
    }

    /// Floats of one head's packed keys (or values), with slack.
    pub fn packed(&self) -> usize {
        self.row() * self.width + self.lanes
    }
}

/// `rows × vectors` tile of a small product: `Σ_p a(row, p)·b(p, vector)` on top of `init`.
#[allow(clippy::too_many_arguments)] // a product has that many parts
pub(super) fn product(
    k: &mut Emit,
    rows: usize,
    vectors: usize,
    lanes: usize,
    from: Val,
    to: Val,
    init: &[Val],
    a: impl Fn(&mut Emit, usize, Val) -> Val,
    b: impl Fn(&mut Emit, Val, usize) -> Val,
) -> Vec<Val> {
    let step = k.int(1);
    k.for_(from, to, step, init, |k, p, acc| {
        let bs: Vec<Val> = (0..vectors).map(|j| b(k, p, j)).collect();
        let mut out = vec![];
        for i in 0..rows {
            let x = a(k, i, p);
            let x = k.splat(x, lanes);
            for (j, bv) in bs.iter().enumerate() {
                out.push(k.fma(x, *bv, acc[i * vectors + j]));
            }
        }
        out
    })
}

/// Packs the first `keys` rows of a head's keys or values: panels `[width][panel keys]`.
pub(super) fn pack_head(k: &mut Emit, s: Sizes, base: Val, keys: Val, dst: Val) {
    let source =
        Source { base, row: s.width, step: 1, rows: s.seq, aligned: true, two_lines: false };
    let zero = k.int(0);
    k.loop_(zero, keys, s.panel(), |k, first| {
        let at = k.scale(first, s.width);
        let to = k.element(dst, at);
        panel(k, source, first, s.panel(), zero, s.width, to, s.lanes);
    });
}

/// `dst[i][j] = x_i · packed_j` for the block's queries `q0 ..` and keys up to each tile's diagonal.
/// `rows(k, query)` gives the pointer of a query's row.
pub(super) fn scores(
    k: &mut Emit,
    s: Sizes,
    q0: Val,
    packed: Val,
    dst: Val,
    rows: impl Fn(&mut Emit, Val) -> Val,
) {
    let all = k.int(s.seq as i64);
    let (zero, block) = (k.int(0), k.int(BLOCK as i64));
    k.loop_(zero, block, TILE, |k, m| {
        let first = k.add(q0, m);
        let pointers: Vec<Val> = (0..TILE)
            .map(|i| {
                let i = k.int(i as i64);
                let q = k.add(first, i);
                let last = k.int(s.seq as i64 - 1);
                let q = k.min(q, last);
                rows(k, q)
            })
            .collect();
        let tile = k.int(TILE as i64);
        let keys = k.add(first, tile);
        let keys = k.min(keys, all);
        k.loop_(zero, keys, s.panel(), |k, n| {
            let at = k.scale(n, s.width);
            let columns = k.element(packed, at);
            let init = vec![k.float(0.0, Ty::Vec(s.lanes)); TILE * PANEL_VECTORS];
            let depth = k.int(s.width as i64);
            let acc = product(
                k,
                TILE,
                PANEL_VECTORS,
                s.lanes,
                zero,
                depth,
                &init,
                |k, i, p| {
                    let at = k.element(pointers[i], p);
                    k.load(Ty::F32, at)
                },
                |k, p, j| {
                    let at = k.scale(p, s.panel());
                    let at = k.element(columns, at);
                    let at = k.element_at(at, j * s.lanes);
                    k.load(Ty::Vec(s.lanes), at)
                },
            );
            let at = k.scale(m, s.row());
            let at = k.add(at, n);
            let out = k.element(dst, at);
            for (x, v) in acc.iter().enumerate() {
                let (i, j) = (x / PANEL_VECTORS, x % PANEL_VECTORS);
                let to = k.element_at(out, i * s.row() + j * s.lanes);
                k.store(*v, to);
            }
        });
    });
}

/// Where a row of vectors along head_dim is loaded or stored: whole vectors, then a masked one.
pub(super) fn load_wide(k: &mut Emit, s: Sizes, p: Val, j: usize) -> Val {
    let left = s.width - j * s.lanes;
    let at = k.element_at(p, j * s.lanes);
    if left >= s.lanes {
        k.load(Ty::Vec(s.lanes), at)
    } else {
        let mask = k.mask(left, s.lanes);
        k.load_masked(at, mask)
    }
}

/// The other direction.
pub(super) fn store_wide(k: &mut Emit, s: Sizes, v: Val, p: Val, j: usize) {
    let left = s.width - j * s.lanes;
    let at = k.element_at(p, j * s.lanes);
    if left >= s.lanes {
        k.store(v, at);
    } else {
        let mask = k.mask(left, s.lanes);
        k.store_masked(v, at, mask);
    }
}

/// Vectors along head_dim, in groups that leave room for `TILE` rows of accumulators.
pub(super) fn wide_groups(s: Sizes) -> Vec<std::ops::Range<usize>> {
    let vectors = s.width.div_ceil(s.lanes);
    (0..vectors).step_by(2).map(|j| j..(j + 2).min(vectors)).collect()
}

/// A lane mask of the keys `n ..` that are at most `last`.
pub(super) fn causal_lanes(k: &mut Emit, s: Sizes, n: Val, last: Val) -> Val {
    let ids = k.lane_ids(s.lanes);
    let left = k.sub(last, n);
    let left = k.narrow(left);
    let left = k.splat(left, s.lanes);
    k.cmp("sle", ids, left)
}

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let op = b.f.ops.first().ok_or_else(|| b.fail("is empty"))?;
    let s = Sizes::of(b.f, op, b.lanes)?;
    let pointer = |i: usize| b.param(op.operands[i]).ok_or_else(|| b.fail("lost an operand"));
    let (q, key, value) = (pointer(0)?, pointer(1)?, pointer(2)?);
    let made = |v| b.f.results.iter().position(|r| *r == v).map(|i| b.result(i));
    let out = made(op.results[0]).ok_or_else(|| b.fail("does not return its output"))?;
    // The log-sum-exp is only for the backward pass.
    let lse = made(op.results[1]);
    let weights = Weights::of(b, op, 3)?;
    let blocks = s.seq.div_ceil(BLOCK);
    let scratch = b.scratch;
    b.tasks(|b, t| {
        let k = &mut b.k;
        let n = k.int(blocks as i64);
        let (head, block) = (k.div(t, n), k.rem(t, n));
        let q0 = k.scale(block, BLOCK);
        let at = k.scale(head, s.seq * s.width);
        let (q, key, value) = (k.element(q, at), k.element(key, at), k.element(value, at));
        let (all, step) = (k.int(s.seq as i64), k.int(BLOCK as i64));
        let q1 = k.add(q0, step);
        let q1 = k.min(q1, all);
        let p = k.element_at(scratch, s.packed());
        pack_head(k, s, key, q1, scratch);
        scores(k, s, q0, scratch, p, |k, row| {
            let at = k.scale(row, s.width);
            k.element(q, at)
        });
        let at = k.scale(head, s.seq);
        let lse = lse.map(|p| k.element(p, at));
        let zero = k.int(0);
        // Softmax of each row, unnormalised; 1/sum is kept behind the scores.
        let sums = k.element_at(p, BLOCK * s.row());
        k.loop_(q0, q1, 1, |k, i| {
            let local = k.sub(i, q0);
            let at = k.scale(local, s.row());
            let row = k.element(p, at);
            let drop = weights.map(|w| {
                let heads = k.int(s.heads as i64);
                let (batch, h) = (k.div(head, heads), k.rem(head, heads));
                let token = k.scale(batch, s.seq);
                let token = k.add(token, i);
                (w, w.row(k, token, h))
            });
            softmax(k, s, row, i, local, sums, lse, drop);
        });
        let heads = k.int(s.heads as i64);
        let (batch, h) = (k.div(head, heads), k.rem(head, heads));
        let at = k.scale(batch, s.seq * s.heads * s.width);
        let column = k.scale(h, s.width);
        let at = k.add(at, column);
        let out = k.element(out, at);
        k.loop_(q0, q1, TILE, |k, m| {
            let local = k.sub(m, q0);
            let at = k.scale(local, s.row());
            let rows = k.element(p, at);
            let tile = k.int(TILE as i64);
            let keys = k.add(m, tile);
            let keys = k.min(keys, all);
            for group in wide_groups(s) {
                let init = vec![k.float(0.0, Ty::Vec(s.lanes)); TILE * group.len()];
                let acc = product(
                    k,
                    TILE,
                    group.len(),
                    s.lanes,
                    zero,
                    keys,
                    &init,
                    |k, i, j| {
                        let at = k.element(rows, j);
                        let at = k.element_at(at, i * s.row());
                        k.load(Ty::F32, at)
                    },
                    |k, j, v| {
                        let at = k.scale(j, s.width);
                        let row = k.element(value, at);
                        load_wide(k, s, row, group.start + v)
                    },
                );
                for i in 0..TILE {
                    let offset = k.int(i as i64);
                    let query = k.add(m, offset);
                    let inside = k.cmp("slt", query, all);
                    k.if_(inside, |k| {
                        let at = k.add(local, offset);
                        let at = k.element(sums, at);
                        let inverse = k.load(Ty::F32, at);
                        let inverse = k.splat(inverse, s.lanes);
                        let at = k.scale(query, s.heads * s.width);
                        let to = k.element(out, at);
                        for v in 0..group.len() {
                            let x = k.mul(acc[i * group.len() + v], inverse);
                            store_wide(k, s, x, to, group.start + v);
                        }
                    });
                }
            }
        });
        Ok(())
    })?;
    Ok(Shape {
        tasks: s.batch * s.heads * blocks,
        scratch_floats: s.packed() + BLOCK * s.row() + BLOCK + s.lanes,
        tiles: false,
    })
}

/// One row: `exp(scale·(x - max))` in place up to the diagonal, zero behind it; stores 1/sum and lse. What
/// is dropped counts in the sum.
#[allow(clippy::too_many_arguments)] // one row's whole surroundings
fn softmax(
    k: &mut Emit,
    s: Sizes,
    row: Val,
    i: Val,
    local: Val,
    sums: Val,
    lse: Option<Val>,
    drop: Option<(Weights, Row)>,
) {
    let ty = Ty::Vec(s.lanes);
    let (zero, one) = (k.int(0), k.int(1));
    let end = k.add(i, one);
    let step = k.int(s.lanes as i64);
    let low = k.float(f64::NEG_INFINITY, ty);
    let max = k.for_(zero, end, step, &[low], |k, n, acc| {
        let at = k.element(row, n);
        let x = k.load(ty, at);
        let keep = causal_lanes(k, s, n, i);
        let x = k.select(keep, x, low);
        vec![k.max(acc[0], x)]
    });
    let max = k.reduce_max(max[0]);
    let scale = k.float(s.scale, Ty::F32);
    let top = k.mul(max, scale);
    let (scales, tops) = (k.splat(scale, s.lanes), k.splat(top, s.lanes));
    let minus = k.neg(tops);
    let none = k.float(0.0, ty);
    let sum = k.for_(zero, end, step, &[none], |k, n, acc| {
        let at = k.element(row, n);
        let x = k.load(ty, at);
        let x = k.fma(x, scales, minus);
        let e = math::exp(k, x);
        let keep = causal_lanes(k, s, n, i);
        let e = k.select(keep, e, none);
        let left = match drop {
            None => e,
            Some((weights, row)) => {
                let factors = weights.factors(k, row, n, keep);
                k.mul(e, factors)
            }
        };
        k.store(left, at);
        vec![k.add(acc[0], e)]
    });
    let sum = k.reduce_add(sum[0]);
    // The tile's product reads keys up to its last row's diagonal: zeros behind this row's own.
    let count = k.int((s.lanes - 1) as i64);
    let written = k.add(end, count);
    let written = k.div(written, step);
    let written = k.mul(written, step);
    let tile = k.int(TILE as i64);
    let until = k.add(end, tile);
    k.loop_(written, until, s.lanes, |k, n| {
        let width = k.int((s.row() - s.lanes) as i64);
        let inside = k.cmp("sle", n, width);
        k.if_(inside, |k| {
            let at = k.element(row, n);
            k.store(none, at);
        });
    });
    let unit = k.float(1.0, Ty::F32);
    let inverse = k.div(unit, sum);
    let at = k.element(sums, local);
    k.store(inverse, at);
    if let Some(lse) = lse {
        let log = math::log(k, sum);
        let value = k.add(top, log);
        let at = k.element(lse, i);
        k.store(value, at);
    }
}
