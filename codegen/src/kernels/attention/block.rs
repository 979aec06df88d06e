//! What attention forward and backward share: how a group of queries and a chunk of keys lie in scratch.
//!
//! Scores are kept transposed, a row of queries for each key. So rows of keys and values are read where they lie, an
//! element at a time for a whole vector of queries; only queries are packed. Maxima and sums over keys are plain
//! vector operations, and nothing is ever reduced across lanes. What is summed for queries stands transposed too, until
//! it is stored.

use neoxc_ir::ops::attention::Form;
use neoxc_ir::ops::attention_grad::{Runs, members};
use neoxc_ir::ops::qkv_split::sharing;
use neoxc_ir::{Function, Op};

use crate::CodegenError;
use crate::emit::{Emit, LINE, Ty, Val};
use crate::kernels::pack::{Source, columns, transpose};

/// Queries of a group: whole register tiles of every shape.
pub const QUERIES: usize = 48;
/// Groups of queries that a chunk of keys is loaded for, at most.
const GROUPS: usize = 4;

/// Sizes of an attention.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub batch: usize,
    /// Heads of queries.
    pub heads: usize,
    /// How many of them share one head of keys and values: neighbours.
    pub sharing: usize,
    pub seq: usize,
    pub width: usize,
    pub lanes: usize,
    pub scale: f64,
    /// How many keys before its own a query sees, if that is not all of them.
    pub window: Option<usize>,
    /// How the gradient's tasks share a head's keys.
    pub runs: Runs,
    /// How many of the heads of queries that share one of keys a task of the gradient takes.
    pub members: usize,
}

impl Sizes {
    pub fn of(f: &Function, op: &Op, lanes: usize) -> Result<Sizes, CodegenError> {
        let q = f.ty(op.operands[0]);
        let size = |n| q.size(n).ok_or_else(|| CodegenError::kernel(&f.name, format!("no `{n}`")));
        let form = Form::of(&op.attrs).map_err(|e| CodegenError::kernel(&f.name, e.to_string()))?;
        let seq = size("seq")?;
        let runs = Runs::of(&op.attrs, seq);
        let members = members(&op.attrs, sharing(q));
        Ok(Sizes {
            batch: size("batch")?,
            heads: size("heads")? * sharing(q),
            sharing: sharing(q),
            members: members.map_err(|e| CodegenError::kernel(&f.name, e.to_string()))?,
            seq,
            runs: runs.map_err(|e| CodegenError::kernel(&f.name, e.to_string()))?,
            width: size("head_dim")?,
            lanes,
            scale: form.scale,
            window: form.window.filter(|w| w + 1 < seq),
        })
    }

    /// The head of keys and values of a head of queries, both counted over all sequences.
    pub fn shared(&self, k: &mut Emit, head: Val) -> Val {
        if self.sharing == 1 {
            return head;
        }
        let sharing = k.int(self.sharing as i64);
        k.div(head, sharing)
    }

    /// Tasks of the gradient that share a head of keys, each with some of its heads of queries.
    pub fn member_parts(&self) -> usize {
        self.sharing.div_ceil(self.members)
    }

    /// Tasks of the gradient.
    pub fn gradient_tasks(&self) -> usize {
        self.key_heads() * self.member_parts() * self.runs.parts()
    }

    /// Heads of keys and values of all sequences.
    pub fn key_heads(&self) -> usize {
        self.batch * self.heads / self.sharing
    }

    /// Whether keys, and queries from a run's first key on, come in wholes of so many.
    pub fn whole(&self, tile: usize) -> bool {
        self.seq.is_multiple_of(tile) && self.runs.begin_at(tile)
    }

    /// Of queries from `query` on, the key from which on they may see any, less `first`: a multiple of `step`, and
    /// none where they see the first of all.
    pub fn ahead(&self, k: &mut Emit, query: Val, first: Val, step: usize) -> Option<Val> {
        let window = k.int(self.window? as i64);
        let (zero, ahead) = (k.int(0), k.sub(query, first));
        let ahead = k.sub(ahead, window);
        let ahead = k.max(ahead, zero);
        let size = k.int(step as i64);
        let steps = k.div(ahead, size);
        Some(k.scale(steps, step))
    }

    /// The query behind those before `last` that see keys before `end`.
    pub fn seeing(&self, k: &mut Emit, end: Val, last: Val) -> Val {
        let Some(window) = self.window else { return last };
        let window = k.int(window as i64);
        let end = k.add(end, window);
        k.min(end, last)
    }

    /// What the largest score of a query is before it has seen any key. With a window that may be after whole chunks,
    /// and two such less each other must be 0.
    pub fn lowest(&self) -> f64 {
        if self.window.is_some() { f32::MIN.into() } else { f64::NEG_INFINITY }
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

    /// Floats of a group's sums along head_dim, whole register tiles and whole squares of vectors.
    pub fn sums(&self) -> usize {
        QUERIES * self.wide()
    }

    /// Vectors of queries.
    pub fn query_vectors(&self) -> usize {
        QUERIES / self.lanes
    }

    /// Rows of a register tile whose columns are queries: with three vectors they leave room for what a step loads.
    pub fn tile_rows(&self) -> usize {
        if self.lanes == 16 { 8 } else { 4 }
    }

    /// Floats of the scores of `keys` keys, `row` apart; the last tile may be ragged.
    pub fn chunk(&self, keys: usize, row: usize) -> usize {
        (keys + self.tile_rows()) * row
    }

    /// Groups of queries that are kept together, where `floats(groups)` are all that one chunk of keys needs: as many
    /// as the second-level cache holds. What becomes of a query does not depend on it.
    pub fn groups_of(&self, l2: usize, floats: impl Fn(usize) -> usize) -> usize {
        let most = self.seq.div_ceil(QUERIES).min(GROUPS);
        (1..=most).rev().find(|n| 4 * floats(*n) <= l2).unwrap_or(1)
    }

    /// Vectors along head_dim in stretches, with the rows of their register tile: as many accumulators as hide the
    /// latency of a multiply-add and fit the registers.
    pub fn stretches(&self) -> Vec<(std::ops::Range<usize>, usize)> {
        let all = self.vectors();
        let most = if self.lanes == 16 { 4 } else { 2 };
        let each = all.div_ceil(all.div_ceil(most));
        let rows = match (self.lanes, each) {
            (16, 1..=2) => 12,
            (16, 3) => 8,
            _ => 6,
        };
        (0..all).step_by(each).map(|j| (j..(j + each).min(all), rows)).collect()
    }
}

/// The number of the group that begins `local` queries after a block's first.
pub fn group(k: &mut Emit, local: Val) -> Val {
    let n = k.int(QUERIES as i64);
    k.div(local, n)
}

/// Where group `number` has its own of what takes `floats` of each.
pub fn of_group(k: &mut Emit, number: Val, p: Val, floats: usize) -> Val {
    let at = k.scale(number, floats);
    k.element(p, at)
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

    /// Asks for the first `count` rows: those that lie far apart come one after the other otherwise, where they are
    /// read or stored.
    pub fn prefetch(self, k: &mut Emit, s: Sizes, count: Val) {
        let zero = k.int(0);
        k.loop_(zero, count, 1, |k, r| {
            let row = self.at(k, r);
            for at in (0..s.width).step_by(LINE) {
                let p = k.element_at(row, at);
                k.prefetch(p, true);
            }
        });
    }

    /// These rows as f32: themselves, or a copy of the rows `first .. end` in `room`.
    pub fn widened(self, k: &mut Emit, s: Sizes, first: Val, end: Val, room: Val) -> Rows {
        let from = self.from(k, first);
        if self.base.ty == Ty::Ptr {
            return from;
        }
        self.copied(k, s, first, end, room)
    }

    /// A copy of the rows `first .. end` as f32 in `room`.
    pub fn copied(self, k: &mut Emit, s: Sizes, first: Val, end: Val, room: Val) -> Rows {
        let from = self.from(k, first);
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

/// Walks the rows of a chunk: those before the group's first query, which all queries see, then those to `count`, where
/// a vector of queries sees a key if it is not later. With a window come others first, which some queries do not see any
/// more. `body` gets the row, and what each vector of queries sees; what it returns goes on to the next row.
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
    let (mut from, mut carried) = (zero, init.to_vec());
    if let Some(window) = s.window {
        let near = k.int(QUERIES as i64 - 1 - window as i64);
        let near = k.sub(near, first);
        let near = k.max(near, zero);
        let near = k.min(near, before);
        carried = k.for_(zero, near, one, &carried, |k, r, acc| {
            let masks = masks(k, s, (first, r), false, Some(window));
            body(k, r, &masks, acc)
        });
        from = near;
    }
    let plain = vec![None; s.query_vectors()];
    let carried = k.for_(from, before, one, &carried, |k, r, acc| body(k, r, &plain, acc));
    // Queries of the group may be too far from its own keys already.
    let window = s.window.filter(|w| *w + 1 < QUERIES);
    k.for_(before, count, one, &carried, |k, r, acc| {
        let masks = masks(k, s, (first, r), true, window);
        body(k, r, &masks, acc)
    })
}

/// Which of a group's queries see row `r` of a chunk whose first key is `first` after them: by `causal`, those that are
/// not before it, and by `window`, those that are not so far behind it.
fn masks(
    k: &mut Emit,
    s: Sizes,
    (first, r): (Val, Val),
    causal: bool,
    window: Option<usize>,
) -> Vec<Option<Val>> {
    let ids = k.lane_ids(s.lanes);
    let key = k.add(first, r);
    let lanes = |k: &mut Emit, key: Val, j: usize| {
        let start = k.int((j * s.lanes) as i64);
        let key = k.sub(key, start);
        let key = k.narrow(key);
        k.splat(key, s.lanes)
    };
    (0..s.query_vectors())
        .map(|j| {
            let seen = causal.then(|| {
                let key = lanes(k, key, j);
                k.cmp("sge", ids, key)
            });
            let Some(window) = window else { return seen };
            let window = k.int(window as i64);
            let last = k.add(key, window);
            let last = lanes(k, last, j);
            let near = k.cmp("sle", ids, last);
            Some(seen.map_or(near, |seen| k.arith("andi", seen, near)))
        })
        .collect()
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

/// Stores the first `queries` of a group's sums, `[head_dim][QUERIES]`, times a vector `factor` for the queries from a
/// given one on, to rows along head_dim.
pub fn store_queries(
    k: &mut Emit,
    s: Sizes,
    sums: Val,
    queries: Val,
    factor: impl Fn(&mut Emit, Val) -> Val,
    to: Rows,
) {
    let zero = k.int(0);
    k.loop_(zero, queries, s.lanes, |k, q| {
        let factor = factor(k, q);
        let from = k.element(sums, q);
        let (whole, left) = (s.width / s.lanes, s.width % s.lanes);
        let square = |k: &mut Emit, j: Val, columns: usize| {
            let at = k.scale(j, s.lanes * QUERIES);
            let from = k.element(from, at);
            let mut v: Vec<Val> = (0..s.lanes)
                .map(|i| {
                    let p = k.element_at(from, i * QUERIES);
                    let x = k.load(Ty::Vec(s.lanes), p);
                    k.mul(x, factor)
                })
                .collect();
            transpose(k, &mut v, s.lanes);
            let column = k.scale(j, s.lanes);
            for (i, v) in v.into_iter().enumerate() {
                let i = k.int(i as i64);
                let row = k.add(q, i);
                let store = |k: &mut Emit| {
                    let to = to.at(k, row);
                    let to = k.element(to, column);
                    if columns == s.lanes {
                        k.store(v, to);
                    } else {
                        let mask = k.mask(columns, s.lanes);
                        k.store_masked(v, to, mask);
                    }
                };
                if s.whole(s.lanes) {
                    store(k);
                } else {
                    let inside = k.cmp("slt", row, queries);
                    k.if_(inside, store);
                }
            }
        };
        let last = k.int(whole as i64);
        k.loop_(zero, last, 1, |k, j| square(k, j, s.lanes));
        if left > 0 {
            square(k, last, left);
        }
    });
}

/// Zeros to `count` floats, whole vectors.
pub fn clear(k: &mut Emit, s: Sizes, p: Val, count: Val) {
    let (zero, none) = (k.int(0), k.float(0.0, Ty::Vec(s.lanes)));
    k.loop_(zero, count, s.lanes, |k, i| {
        let p = k.element(p, i);
        k.store(none, p);
    });
}
