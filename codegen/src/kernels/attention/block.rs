//! What attention forward and backward share: scores of a block of queries against a chunk of keys.
//!
//! Scores are kept transposed, a row of queries for each key. So rows of keys and values are read where they lie, an
//! element at a time for a whole vector of queries; only the block's queries are packed. Maxima and sums over keys
//! are plain vector operations, and nothing is ever reduced across lanes.

use neoxc_ir::{Function, Op};

use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};
use crate::kernels::pack::{Source, columns};

/// Queries of a block: whole register tiles of every shape below.
pub const QUERIES: usize = 48;
/// Keys of a chunk, whole blocks of queries: its scores fit the first-level cache.
pub const KEYS: usize = 3 * QUERIES;
/// Vectors of queries across a register tile of scores.
const TILE_VECTORS: usize = 3;

/// Sizes of an attention.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
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

    /// The scale of scores whose exponential is to the base 2.
    pub fn scale2(&self) -> f64 {
        self.scale * std::f64::consts::LOG2_E
    }

    /// Vectors along head_dim.
    pub fn vectors(&self) -> usize {
        self.width.div_ceil(self.lanes)
    }

    /// Row length along head_dim in scratch: whole vectors.
    pub fn wide(&self) -> usize {
        self.vectors() * self.lanes
    }

    /// Floats of a packed block of queries, with slack.
    pub fn packed(&self) -> usize {
        QUERIES * self.width + self.lanes
    }

    /// Vectors of queries.
    pub fn query_vectors(&self) -> usize {
        QUERIES / self.lanes
    }

    /// Rows of keys in a register tile of scores: with three vectors they leave room for what a step loads.
    fn tile_keys(&self) -> usize {
        if self.lanes == 16 { 8 } else { 4 }
    }

    /// Floats of a chunk's scores; the last tile may be ragged.
    pub fn chunk(&self) -> usize {
        (KEYS + self.tile_keys()) * QUERIES
    }

    /// Vectors along head_dim in groups, with the rows of their register tile: as many accumulators as hide the
    /// latency of a multiply-add and fit the registers.
    pub fn groups(&self) -> Vec<(std::ops::Range<usize>, usize)> {
        let all = self.vectors();
        let most = if self.lanes == 16 { 4 } else { 2 };
        let groups = all.div_ceil(most);
        let each = all.div_ceil(groups);
        let rows = match (self.lanes, each) {
            (16, 1..=2) => 12,
            (16, 3) => 8,
            _ => 6,
        };
        (0..all).step_by(each).map(|j| (j..(j + each).min(all), rows)).collect()
    }
}

/// A matrix of rows along head_dim: row r is at `base + r·stride`.
#[derive(Clone, Copy)]
pub struct Rows {
    pub base: Val,
    pub stride: usize,
}

impl Rows {
    pub fn at(self, k: &mut Emit, row: Val) -> Val {
        let at = k.scale(row, self.stride);
        k.element(self.base, at)
    }

    /// The rows from `first` on.
    pub fn from(self, k: &mut Emit, first: Val) -> Rows {
        Rows { base: self.at(k, first), ..self }
    }

    /// These rows as f32: themselves, or a copy of the rows `first .. end` in `room`.
    pub fn widened(self, k: &mut Emit, s: Sizes, first: Val, end: Val, room: Val) -> Rows {
        let from = self.from(k, first);
        if self.base.ty == Ty::Ptr {
            return from;
        }
        let to = Rows { base: room, stride: s.wide() };
        let (zero, count) = (k.int(0), k.sub(end, first));
        k.loop_(zero, count, 1, |k, r| {
            let (from, to) = (from.at(k, r), to.at(k, r));
            for j in 0..s.vectors() {
                let v = load_wide(k, s, from, j);
                let to = k.element_at(to, j * s.lanes);
                k.store(v, to);
            }
        });
        to
    }
}

/// Room for `rows` widened rows, of operands that are not f32.
pub fn widened_floats(s: Sizes, rows: usize, operand: Val) -> usize {
    if operand.ty == Ty::Ptr { 0 } else { rows * s.wide() }
}

/// Packs the queries `q0 ..` of a head: `[width][QUERIES]`. Those beyond the sequence repeat its last.
pub fn pack_queries(k: &mut Emit, s: Sizes, rows: Rows, q0: Val, dst: Val) {
    let (base, row) = (rows.base, rows.stride);
    let source = Source { base, row, step: 1, rows: s.seq, aligned: true, two_lines: false };
    let (zero, all) = (k.int(0), k.int(QUERIES as i64));
    k.loop_(zero, all, s.lanes, |k, q| {
        let first = k.add(q0, q);
        let dst = k.element(dst, q);
        columns(k, source, first, s.lanes, zero, s.width, dst, QUERIES, s.lanes);
    });
}

/// `dst[key][query] = row_key · query` for `count` rows; `first` is the first row's key less the block's first
/// query. Queries that lie before a tile's keys are left out where a whole vector tile does.
pub fn scores(k: &mut Emit, s: Sizes, first: Val, count: Val, rows: Rows, packed: Val, dst: Val) {
    let (zero, one, depth) = (k.int(0), k.int(1), k.int(s.width as i64));
    let tile = s.tile_keys();
    let last = k.sub(count, one);
    k.loop_(zero, count, tile, |k, r| {
        let keys: Vec<Val> = (0..tile)
            .map(|i| {
                let i = k.int(i as i64);
                let row = k.add(r, i);
                let row = k.min(row, last);
                rows.at(k, row)
            })
            .collect();
        let key = k.add(first, r);
        let at = k.scale(r, QUERIES);
        let out = k.element(dst, at);
        // From the first group with a query that is not before the key.
        let width = k.int((TILE_VECTORS * s.lanes) as i64);
        let from = k.max(key, zero);
        let from = k.div(from, width);
        let from = k.mul(from, width);
        let all = k.int(QUERIES as i64);
        k.loop_(from, all, TILE_VECTORS * s.lanes, |k, column| {
            let init = vec![k.float(0.0, Ty::Vec(s.lanes)); tile * TILE_VECTORS];
            let columns = k.element(packed, column);
            let out = k.element(out, column);
            let acc = product(
                k,
                (tile, TILE_VECTORS, s.lanes),
                (zero, depth),
                &init,
                |k, i, p| {
                    let at = k.element(keys[i], p);
                    k.load(Ty::F32, at)
                },
                |k, p, j| {
                    let at = k.scale(p, QUERIES);
                    let at = k.element(columns, at);
                    let at = k.element_at(at, j * s.lanes);
                    k.load(Ty::Vec(s.lanes), at)
                },
            );
            for (x, v) in acc.iter().enumerate() {
                let (i, j) = (x / TILE_VECTORS, x % TILE_VECTORS);
                let to = k.element_at(out, i * QUERIES + j * s.lanes);
                k.store(*v, to);
            }
        });
    });
}

/// Walks the rows of a chunk twice: `rows` of them before the block's first query, which all queries see, then
/// those to `count`, where a vector of queries sees a key if it is not later. `body` gets the row, and that mask of
/// each vector of queries; what it returns goes on to the next row.
pub fn each_key(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    count: Val,
    init: &[Val],
    mut body: impl FnMut(&mut Emit, Val, &[Option<Val>], &[Val]) -> Vec<Val>,
) -> Vec<Val> {
    let (zero, one) = (k.int(0), k.int(1));
    let before = k.sub(zero, first);
    let before = k.max(before, zero);
    let before = k.min(before, count);
    let plain = vec![None; s.query_vectors()];
    let carried = k.for_(zero, before, one, init, |k, r, acc| body(k, r, &plain, acc));
    let ids = k.lane_ids(s.lanes);
    k.for_(before, count, one, &carried, |k, r, acc| {
        let key = k.add(first, r);
        let masks: Vec<Option<Val>> = (0..s.query_vectors())
            .map(|j| {
                let start = k.int((j * s.lanes) as i64);
                let key = k.sub(key, start);
                let key = k.narrow(key);
                let key = k.splat(key, s.lanes);
                Some(k.cmp("sge", ids, key))
            })
            .collect();
        body(k, r, &masks, acc)
    })
}

/// `rows × vectors` tile of a small product: `Σ_p a(row, p)·b(p, vector)` on top of `init`, for p in `steps`.
pub fn product(
    k: &mut Emit,
    (rows, vectors, lanes): (usize, usize, usize),
    (from, to): (Val, Val),
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

/// `sums[query] = factor·sums[query] + Σ_key weights[key][query]·rows[key]` for the block's first `queries`, over keys
/// up to each tile's diagonal; `factors` has one factor per query.
#[allow(clippy::too_many_arguments)] // a product has that many parts
pub fn add_to_queries(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    (queries, count): (Val, Val),
    weights: Val,
    rows: Rows,
    sums: Val,
    factors: Option<Val>,
) {
    let zero = k.int(0);
    for (group, tile) in s.groups() {
        k.loop_(zero, queries, tile, |k, q| {
            // Keys before the tile's last query.
            let end = k.int(tile as i64);
            let end = k.add(q, end);
            let end = k.sub(end, first);
            let end = k.min(end, count);
            let at = k.scale(q, s.wide());
            let sums = k.element(sums, at);
            let place = |k: &mut Emit, i: usize, v: usize| {
                k.element_at(sums, i * s.wide() + (group.start + v) * s.lanes)
            };
            let mut init = vec![];
            for i in 0..tile {
                let factor = factors.map(|p| {
                    let p = k.element(p, q);
                    let p = k.element_at(p, i);
                    let x = k.load(Ty::F32, p);
                    k.splat(x, s.lanes)
                });
                for v in 0..group.len() {
                    let p = place(k, i, v);
                    let x = k.load(Ty::Vec(s.lanes), p);
                    init.push(factor.map_or(x, |f| k.mul(x, f)));
                }
            }
            let acc = product(
                k,
                (tile, group.len(), s.lanes),
                (zero, end),
                &init,
                |k, i, p| {
                    let at = k.scale(p, QUERIES);
                    let at = k.add(at, q);
                    let at = k.element(weights, at);
                    let at = k.element_at(at, i);
                    k.load(Ty::F32, at)
                },
                |k, p, v| {
                    let row = rows.at(k, p);
                    load_wide(k, s, row, group.start + v)
                },
            );
            for (x, sum) in acc.iter().enumerate() {
                let p = place(k, x / group.len(), x % group.len());
                k.store(*sum, p);
            }
        });
    }
}

/// Where a row of vectors along head_dim is loaded or stored: whole vectors, then a masked one.
pub fn load_wide(k: &mut Emit, s: Sizes, p: Val, j: usize) -> Val {
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
pub fn store_wide(k: &mut Emit, s: Sizes, v: Val, p: Val, j: usize) {
    let left = s.width - j * s.lanes;
    let at = k.element_at(p, j * s.lanes);
    if left >= s.lanes {
        k.store(v, at);
    } else {
        let mask = k.mask(left, s.lanes);
        k.store_masked(v, at, mask);
    }
}
