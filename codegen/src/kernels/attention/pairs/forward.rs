//! Attention forward by pairs: a task is a block of queries of one head, which goes in groups through chunks of keys.
//!
//! Values are packed along the sequence. They wait in scratch for the other heads of queries that share them, and for the
//! next block, which packs only its own; the first task of a call packs all that it sees.

use super::{Left, Lines, Pairs, QUERIES, SIDE, STEP, VECTORS, each_key, named};
use crate::CodegenError;
use crate::emit::{Emit, TILE, Ty, Val, math};
use crate::kernels::attention::block::Rows;
use crate::kernels::attention::{larger, log_sum};
use crate::kernels::dropout::{Row, Weights};
use crate::kernels::{Body, Shape};
use crate::x86::Bf16;

/// Keys of a chunk, whole blocks of queries: their scores by a group of queries fit the first-level cache.
const KEYS: usize = 2 * QUERIES;
/// A vector of f32.
const V: Ty = Ty::Vec(TILE);

/// Emits the kernel of q, k and v, with the output and the log-sum-exp at `out` and `lse`.
pub fn emit(
    b: &mut Body<'_>,
    at: Pairs,
    inputs: [Val; 3],
    (out, lse): (Val, Option<Val>),
    drop: Option<Weights>,
) -> Result<Shape, CodegenError> {
    let s = at.s;
    let (room, scratch_floats) = Room::of(b, at);
    let tiles = at.unit == Bf16::Tiles;
    if tiles {
        b.k.tile_config(room.config);
    }
    let blocks = at.rows().div_ceil(QUERIES);
    let begin = b.begin;
    b.tasks(|b, t| {
        let k = &mut b.k;
        let task = Task::of(k, at, room, blocks, inputs, t);
        let first = k.cmp("eq", t, begin);
        let new = task.new_keys(k, first);
        let (keys, values) = task.pack_keys(k, new);
        let packed = task.pack_queries(k);
        task.clear(k);
        task.add_keys(k, keys, values, packed, drop);
        task.finish(k, out, lse);
        Ok(())
    })?;
    if tiles {
        b.k.tile_release();
    }
    Ok(Shape { tasks: s.batch * s.heads * blocks, scratch_floats, tiles })
}

/// Places in scratch that a task works in.
#[derive(Clone, Copy)]
struct Room {
    config: Val,
    /// Copies of the rows of a head's keys and values, and of a block's queries, where those are not read where they
    /// lie.
    keys: Val,
    values: Val,
    queries: Val,
    /// Values packed along the sequence, and queries along head_dim.
    packed_values: Val,
    packed: Val,
    /// A chunk's scores by one group, [key][SIDE].
    scores: Val,
    /// What each group has summed of the values, the largest score of each query so far, and its sum of exponentials.
    sums: Val,
    max: Val,
    sum: Val,
}

impl Room {
    /// The places, and the floats that they take.
    fn of(b: &mut Body<'_>, at: Pairs) -> (Room, usize) {
        let (rows, wide) = (at.rows(), at.wide());
        let parts = [
            TILE,
            at.copied(rows),
            at.copied(rows),
            at.copied(QUERIES),
            at.words(rows),
            at.words(QUERIES),
            KEYS * SIDE,
            QUERIES * wide,
            QUERIES,
            QUERIES,
        ];
        let [config, keys, values, queries, packed_values, packed, scores, sums, max, sum] =
            b.places(parts);
        let room =
            Room { config, keys, values, queries, packed_values, packed, scores, sums, max, sum };
        (room, parts.iter().sum())
    }
}

/// What a task is: a block of queries of one of the heads that share a head of keys and values. Those come one after the
/// other, then the next block.
struct Task {
    at: Pairs,
    room: Room,
    /// Which of the heads that share the keys it has; none where heads share nothing.
    member: Option<Val>,
    /// Number of the head among all sequences', and in its sequence.
    head: Val,
    of_sequence: Val,
    /// Number of the sequence's first token.
    token: Val,
    /// Rows of q, k and v.
    rows: [Rows; 3],
    /// The block's first query, and the one behind its last, with the zeros behind the sequence.
    q0: Val,
    q1: Val,
}

/// A group of the block's queries: its offset in the block, and its sums and statistics.
struct Group {
    offset: Val,
    sums: Lines,
    max: Val,
    sum: Val,
}

impl Task {
    /// Task `t` on `inputs` q, k and v, of heads with `blocks` blocks.
    fn of(k: &mut Emit, at: Pairs, room: Room, blocks: usize, inputs: [Val; 3], t: Val) -> Task {
        let s = at.s;
        let n = k.int(blocks as i64);
        let (t, member) = match s.sharing {
            1 => (t, None),
            sharing => {
                let sharing = k.int(sharing as i64);
                (k.div(t, sharing), Some(k.rem(t, sharing)))
            }
        };
        let (shared, number) = (k.div(t, n), k.rem(t, n));
        let head = match member {
            None => shared,
            Some(member) => {
                let first = k.scale(shared, s.sharing);
                k.add(first, member)
            }
        };
        let q0 = k.scale(number, QUERIES);
        let (all, step) = (k.int(at.rows() as i64), k.int(QUERIES as i64));
        let q1 = k.add(q0, step);
        let q1 = k.min(q1, all);
        let rows = |k: &mut Emit, p, head| {
            let place = k.scale(head, s.seq * s.width);
            Rows { base: k.element(p, place), stride: s.width }
        };
        let [q, key, value] = inputs;
        let rows = [rows(k, q, head), rows(k, key, shared), rows(k, value, shared)];
        let heads = k.int(s.heads as i64);
        let (batch, of_sequence) = (k.div(head, heads), k.rem(head, heads));
        let token = k.scale(batch, s.seq);
        Task { at, room, member, head, of_sequence, token, rows, q0, q1 }
    }

    /// The first key that is not packed yet; `first` is whether this is the first task of the call.
    fn new_keys(&self, k: &mut Emit, first: Val) -> Val {
        let zero = k.int(0);
        let seen = self.at.s.ahead(k, self.q0, zero, QUERIES).unwrap_or(zero);
        match self.member {
            None => k.select(first, seen, self.q0),
            // The first of those that share the keys has packed this block's.
            Some(member) => {
                let here = k.cmp("eq", member, zero);
                let new = k.select(here, self.q0, self.q1);
                k.select(first, seen, new)
            }
        }
    }

    /// Packs the keys and values from `new` on that the block sees; gives all that are packed.
    fn pack_keys(&self, k: &mut Emit, new: Val) -> (Left, Left) {
        let (at, room, [_, key, value]) = (self.at, self.room, self.rows);
        at.copy(k, key, (new, self.q1), room.keys, new);
        at.copy(k, value, (new, self.q1), room.values, new);
        let keys = at.plain(k, key, room.keys);
        let values = at.plain(k, value, room.values).from(k, new);
        let count = k.sub(self.q1, new);
        let to = k.scale(new, at.wide() / 2);
        let to = k.element(room.packed_values, to);
        let values = at.across_tokens(k, values, count, to);
        (keys, Left { base: room.packed_values, ..values })
    }

    /// Packs the block's queries.
    fn pack_queries(&self, k: &mut Emit) -> Lines {
        let (at, room, q) = (self.at, self.room, self.rows[0]);
        let zero = k.int(0);
        at.copy(k, q, (self.q0, self.q1), room.queries, zero);
        let queries = k.sub(self.q1, self.q0);
        let from = at.plain(k, q, room.queries);
        let from = if at.whole() { from.from(k, self.q0) } else { from };
        let packed = Lines { base: room.packed, row: QUERIES };
        at.along_width(k, from, queries, packed);
        packed
    }

    /// Begins sums and statistics.
    fn clear(&self, k: &mut Emit) {
        let (none, low) = (k.float(0.0, V), k.float(self.at.s.lowest(), V));
        for j in 0..QUERIES / TILE {
            for (p, x) in [(self.room.max, low), (self.room.sum, none)] {
                let p = k.element_at(p, j * TILE);
                k.store(x, p);
            }
        }
        k.count(QUERIES * self.at.wide() / TILE, |k, i| {
            let i = k.scale(i, TILE);
            let p = k.element(self.room.sums, i);
            k.store(none, p);
        });
    }

    /// The group that begins with query `query`.
    fn group(&self, k: &mut Emit, query: Val) -> Group {
        let offset = k.sub(query, self.q0);
        let at = k.scale(offset, self.at.wide());
        let sums = Lines { base: k.element(self.room.sums, at), row: SIDE };
        let [max, sum] = [self.room.max, self.room.sum].map(|p| k.element(p, offset));
        Group { offset, sums, max, sum }
    }

    /// Adds what the block's queries see of all keys, chunk by chunk.
    fn add_keys(
        &self,
        k: &mut Emit,
        keys: Left,
        values: Left,
        packed: Lines,
        drop: Option<Weights>,
    ) {
        let (zero, size) = (k.int(0), k.int(KEYS as i64));
        let first = self.at.s.ahead(k, self.q0, zero, QUERIES).unwrap_or(zero);
        k.loop_(first, self.q1, KEYS, |k, n| {
            let (keys, values) = (keys.from(k, n), values.steps_from(k, n));
            let to = match self.at.s.window {
                None => self.q1,
                Some(_) => {
                    let end = k.add(n, size);
                    self.at.s.seeing(k, end, self.q1)
                }
            };
            k.loop_(self.q0, to, SIDE, |k, query| {
                self.add_chunk(k, query, n, (keys, values, packed), drop);
            });
        });
    }

    /// Adds the chunk of keys from `n` on, and its values, to the group that begins with query `query`.
    fn add_chunk(
        &self,
        k: &mut Emit,
        query: Val,
        n: Val,
        (mut keys, mut values, packed): (Left, Left, Lines),
        drop: Option<Weights>,
    ) {
        let (at, s) = (self.at, self.at.s);
        let Group { offset, sums, max, sum } = self.group(k, query);
        let (zero, side, mut most) = (k.int(0), k.int(SIDE as i64), k.int(KEYS as i64));
        let mut n = n;
        if let Some(ahead) = s.ahead(k, query, n, SIDE) {
            (keys, values) = (keys.from(k, ahead), values.steps_from(k, ahead));
            (n, most) = (k.add(n, ahead), k.sub(most, ahead));
        }
        let diagonal = k.sub(query, n);
        let end = k.add(diagonal, side);
        let end = k.min(end, most);
        let lines = packed.columns(k, offset);
        let to = Lines { base: self.room.scores, row: SIDE };
        at.matmul(k, (end, SIDE), |k, _| at.across(k), keys, lines, to, true);
        let drop = drop.map(|weights| {
            let first = k.add(self.token, query);
            let all = k.int(s.seq as i64);
            let left = k.sub(all, query);
            let rows = weights.rows(k, first, left, self.of_sequence, SIDE, TILE);
            Drop { weights, rows, keys: n }
        });
        let rescale = softmax(k, at, (diagonal, end), self.room.scores, (max, sum), drop);
        k.count(at.wide(), |k, i| {
            let line = sums.at(k, i);
            for (j, factor) in rescale.iter().enumerate() {
                let p = k.element_at(line.base, j * TILE);
                let x = k.load(V, p);
                let x = k.mul(x, *factor);
                k.store(x, p);
            }
        });
        let rows = k.int(at.wide() as i64);
        let steps = k.div(end, side);
        let weights = Lines { base: self.room.scores, row: 2 * SIDE };
        at.matmul(k, (rows, SIDE), |_, _| (zero, steps), values, weights, sums, false);
    }

    /// Stores the block's outputs and log-sum-exps.
    fn finish(&self, k: &mut Emit, out: Val, lse: Option<Val>) {
        let s = self.at.s;
        let row = s.heads * s.width;
        let from = k.scale(self.token, row);
        let column = k.scale(self.of_sequence, s.width);
        let from = k.add(from, column);
        let out = Rows { base: k.element(out, from), stride: row };
        let from = k.scale(self.head, s.seq);
        let lse = lse.map(|p| k.element(p, from));
        k.loop_(self.q0, self.q1, SIDE, |k, query| {
            let Group { sums, max, sum, .. } = self.group(k, query);
            let one = k.float(1.0, V);
            let inverse = [0, 1].map(|j| {
                let p = k.element_at(sum, j * TILE);
                let sum = k.load(V, p);
                k.div(one, sum)
            });
            self.at.store_columns(k, sums.base, inverse, out, query);
            if let Some(lse) = lse {
                let all = k.int(s.seq as i64);
                let (to, left) = (k.element(lse, query), k.sub(all, query));
                log_sum(k, TILE, VECTORS, (max, sum), to, left);
            }
        });
    }
}

/// What drops weights of a group of queries: a state for each vector of them, and a chunk's first key.
struct Drop {
    weights: Weights,
    rows: Vec<Row>,
    keys: Val,
}

/// Scores of a chunk to weights, `2^(scale·(score - max))`, as pairs of keys in the place of the first. Gives what
/// rescales the sums so far. What is dropped counts in the sum.
fn softmax(
    k: &mut Emit,
    at: Pairs,
    (diagonal, end): (Val, Val),
    scores: Val,
    (max, sum): (Val, Val),
    drop: Option<Drop>,
) -> Vec<Val> {
    let s = at.s;
    let low = k.float(f64::NEG_INFINITY, V);
    let range = (diagonal, end);
    let place = |k: &mut Emit, r: Val, i: usize, j: usize| {
        let at = k.scale(r, SIDE);
        let line = k.element(scores, at);
        k.element_at(line, i * SIDE + j * TILE)
    };
    // Four keys at a time, so that maxima do not wait for each other.
    let top = each_key(k, s, range, STEP, &[low; VECTORS], |k, r, mask, acc| {
        let mut out = vec![];
        for (j, top) in acc.iter().enumerate() {
            let mut four = vec![];
            for i in 0..STEP {
                let p = place(k, r, i, j);
                let x = k.load(V, p);
                let i = k.int(i as i64);
                let r = if mask.is_none() { r } else { k.add(r, i) };
                four.push(mask.choose(k, r, j, x, low));
            }
            let (a, b) = (larger(k, four[0], four[1]), larger(k, four[2], four[3]));
            let most = larger(k, a, b);
            out.push(larger(k, *top, most));
        }
        out
    });
    let (scale, none) = (k.float(s.scale2(), V), k.float(0.0, V));
    let (mut minus, mut factors) = (vec![], vec![]);
    for (j, top) in top.into_iter().enumerate() {
        let top = k.mul(top, scale);
        let p = k.element_at(max, j * TILE);
        let old = k.load(V, p);
        let new = larger(k, old, top);
        k.store(new, p);
        let change = k.sub(old, new);
        factors.push(math::exp2_negative(k, change));
        minus.push(k.neg(new));
    }
    let total = each_key(k, s, range, 2, &[none; VECTORS], |k, r, mask, acc| {
        let mut out = vec![];
        for (j, total) in acc.iter().enumerate() {
            let mut pair = vec![];
            let mut both = *total;
            for i in 0..2 {
                let p = place(k, r, i, j);
                let x = k.load(V, p);
                let x = k.fma(x, scale, minus[j]);
                let mut e = math::exp2_negative(k, x);
                let i = k.int(i as i64);
                let r = k.add(r, i);
                e = mask.choose(k, r, j, e, none);
                both = k.add(both, e);
                if let Some(d) = &drop {
                    let key = k.add(d.keys, r);
                    let key = named(k, s, key);
                    let factor = d.weights.factors(k, d.rows[j], key, TILE);
                    e = k.mul(e, factor);
                }
                pair.push(e);
            }
            out.push((both, k.pair(pair[0], pair[1])));
        }
        // Stored only now: the pairs take the place of scores that all of them were made of.
        for (j, (_, words)) in out.iter().enumerate() {
            let p = place(k, r, 0, j);
            k.store(*words, p);
        }
        out.into_iter().map(|(both, _)| both).collect()
    });
    for (j, (total, factor)) in total.into_iter().zip(&factors).enumerate() {
        let p = k.element_at(sum, j * TILE);
        let old = k.load(V, p);
        let new = k.fma(old, *factor, total);
        k.store(new, p);
    }
    factors
}
