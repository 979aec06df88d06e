//! Causal attention forward: a task is one block of queries of one head. Keys come in chunks, and each passes all groups
//! of the block's queries while it is in cache; maxima, sums and outputs so far are rescaled when a chunk has a larger
//! score, so memory does not grow with the sequence.

pub mod block;
pub mod head;
pub mod matmuls;
pub mod pairs;

use super::dropout::{Row, Weights};
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val, math};
use block::{
    QUERIES, Rows, Sizes, clear, each_key, of_group, pack_queries, store_queries, widened_floats,
};
use matmuls::{add_to_queries, scores};
use pairs::Pairs;

/// Keys of a chunk, whole groups of queries: their scores by a group fit the first-level cache.
const KEYS: usize = 3 * QUERIES;

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let op = b.f.ops.first().ok_or_else(|| b.fail("is empty"))?;
    let s = Sizes::of(b.f, op, b.lanes)?;
    let pointer = |i: usize| b.param(op.operands[i]).ok_or_else(|| b.fail("lost an operand"));
    let inputs = [pointer(0)?, pointer(1)?, pointer(2)?];
    let made = |v| b.f.results.iter().position(|r| *r == v).map(|i| b.result(i));
    let out = made(op.results[0]).ok_or_else(|| b.fail("does not return its output"))?;
    // The log-sum-exp is only for the backward pass.
    let lse = made(op.results[1]);
    let drop = Weights::of(b, op, 3)?;
    if let Some(at) = Pairs::of(b, s, inputs[0]) {
        return pairs::forward::emit(b, at, inputs, (out, lse), drop);
    }
    let groups = groups(b, s);
    let (room, scratch_floats) = Room::of(b, s, groups, inputs);
    let blocks = s.seq.div_ceil(groups * QUERIES);
    b.tasks(|b, t| {
        let k = &mut b.k;
        let task = Task::of(k, s, room, (groups, blocks), inputs, t);
        task.begin(k);
        task.add_keys(k, drop);
        task.finish(k, out, lse);
        Ok(())
    })?;
    Ok(Shape { tasks: s.batch * s.heads * blocks, scratch_floats, tiles: false })
}

/// Places in scratch that a task works in.
#[derive(Clone, Copy)]
struct Room {
    /// Packed queries of each group.
    packed: Val,
    /// A chunk's scores by one group, then its weights: [key][QUERIES].
    p: Val,
    /// What each group has summed of the values.
    sums: Val,
    /// What is known per query, of the whole block or, what rescales, of one group.
    state: State,
    /// A chunk's keys and values as f32, where they are not.
    keys: Val,
    values: Val,
}

impl Room {
    /// Room for `groups` groups and the operands q, k and v, and the floats that it takes.
    fn of(b: &mut Body<'_>, s: Sizes, groups: usize, [_, key, value]: [Val; 3]) -> (Room, usize) {
        let block = groups * QUERIES;
        let parts = [
            groups * s.packed(),
            s.chunk(KEYS, QUERIES),
            groups * s.sums(),
            block,
            block,
            QUERIES,
            widened_floats(s, KEYS, key),
            widened_floats(s, KEYS, value),
        ];
        let [packed, p, sums, max, sum, rescale, keys, values] = b.places(parts);
        let state = State { max, sum, rescale };
        (Room { packed, p, sums, state, keys, values }, parts.iter().sum())
    }
}

/// What a task is: a block of queries of one head.
struct Task {
    s: Sizes,
    room: Room,
    /// Number of the head among all sequences', and in its sequence.
    head: Val,
    of_sequence: Val,
    /// Number of the sequence's first token.
    token: Val,
    /// Rows of q, k and v.
    rows: [Rows; 3],
    /// The block's first query, and the one behind its last.
    q0: Val,
    q1: Val,
}

/// A group of the block's queries: packed, with its sums, running statistics and number of queries.
struct Group {
    packed: Val,
    sums: Val,
    state: State,
    queries: Val,
}

impl Task {
    /// Task `t` on `inputs` q, k and v, of heads with `blocks` blocks of `groups` groups.
    fn of(
        k: &mut Emit,
        s: Sizes,
        room: Room,
        (groups, blocks): (usize, usize),
        inputs: [Val; 3],
        t: Val,
    ) -> Task {
        let block = groups * QUERIES;
        // The last blocks have the most keys, and come first.
        let (n, last) = (k.int((s.batch * s.heads) as i64), k.int(blocks as i64 - 1));
        let (head, number) = (k.rem(t, n), k.div(t, n));
        let number = k.sub(last, number);
        let q0 = k.scale(number, block);
        let shared = s.shared(k, head);
        let rows = |k: &mut Emit, p, head| {
            let at = k.scale(head, s.seq * s.width);
            Rows { base: k.element(p, at), stride: s.width }
        };
        let [q, key, value] = inputs;
        let rows = [rows(k, q, head), rows(k, key, shared), rows(k, value, shared)];
        let (all, step) = (k.int(s.seq as i64), k.int(block as i64));
        let q1 = k.add(q0, step);
        let q1 = k.min(q1, all);
        let heads = k.int(s.heads as i64);
        let (batch, of_sequence) = (k.div(head, heads), k.rem(head, heads));
        let token = k.scale(batch, s.seq);
        Task { s, room, head, of_sequence, token, rows, q0, q1 }
    }

    /// The group that begins with query `first`.
    fn group(&self, k: &mut Emit, first: Val) -> Group {
        let (s, room) = (self.s, self.room);
        let local = k.sub(first, self.q0);
        let number = block::group(k, local);
        let packed = of_group(k, number, room.packed, s.packed());
        let sums = of_group(k, number, room.sums, s.sums());
        let [max, sum] = [room.state.max, room.state.sum].map(|p| k.element(p, local));
        let left = k.sub(self.q1, first);
        let most = k.int(QUERIES as i64);
        let queries = k.min(left, most);
        Group { packed, sums, state: State { max, sum, ..room.state }, queries }
    }

    /// Packs the block's queries; nothing is summed yet.
    fn begin(&self, k: &mut Emit) {
        let s = self.s;
        let low = k.float(s.lowest(), Ty::Vec(s.lanes));
        let none = k.float(0.0, Ty::Vec(s.lanes));
        k.loop_(self.q0, self.q1, QUERIES, |k, first| {
            let Group { packed, sums, state, .. } = self.group(k, first);
            pack_queries(k, s, self.rows[0], first, packed);
            for j in 0..s.query_vectors() {
                for (p, x) in [(state.max, low), (state.sum, none)] {
                    let p = k.element_at(p, j * s.lanes);
                    k.store(x, p);
                }
            }
            let floats = k.int(s.sums() as i64);
            clear(k, s, sums, floats);
        });
    }

    /// Adds what the block's queries see of all keys, chunk by chunk.
    fn add_keys(&self, k: &mut Emit, drop: Option<Weights>) {
        let (s, room) = (self.s, self.room);
        let [_, key, value] = self.rows;
        let zero = k.int(0);
        let first = s.ahead(k, self.q0, zero, QUERIES).unwrap_or(zero);
        k.loop_(first, self.q1, KEYS, |k, n| {
            let step = k.int(KEYS as i64);
            let end = k.add(n, step);
            let end = k.min(end, self.q1);
            let keys = key.widened(k, s, n, end, room.keys);
            let values = value.widened(k, s, n, end, room.values);
            let from = k.max(self.q0, n);
            let to = s.seeing(k, end, self.q1);
            k.loop_(from, to, QUERIES, |k, query| {
                self.add_chunk(k, query, (n, end), [keys, values], drop);
            });
        });
    }

    /// Adds the chunk of keys `n .. end`, and its values, to the group that begins with query `query`.
    fn add_chunk(
        &self,
        k: &mut Emit,
        query: Val,
        (n, end): (Val, Val),
        [mut keys, mut values]: [Rows; 2],
        drop: Option<Weights>,
    ) {
        let s = self.s;
        let mut n = n;
        if let Some(ahead) = s.ahead(k, query, n, QUERIES) {
            (keys, values) = (keys.from(k, ahead), values.from(k, ahead));
            n = k.add(n, ahead);
        }
        let p = Rows { base: self.room.p, stride: QUERIES };
        let Group { packed, sums, state, queries } = self.group(k, query);
        let after = k.add(query, queries);
        let end = k.min(end, after);
        let (count, first) = (k.sub(end, n), k.sub(n, query));
        let drop = drop.map(|weights| {
            let token = k.add(self.token, query);
            let rows = weights.rows(k, token, queries, self.of_sequence, QUERIES, s.lanes);
            Drop { weights, rows, keys: n }
        });
        scores(k, s, first, count, keys, packed, p, Some(values));
        softmax(k, s, first, count, p, state, drop);
        add_to_queries(k, s, first, count, p, values, sums, Some(state.rescale));
    }

    /// Stores the block's outputs and log-sum-exps.
    fn finish(&self, k: &mut Emit, out: Val, lse: Option<Val>) {
        let s = self.s;
        let row = s.heads * s.width;
        let at = k.scale(self.token, row);
        let column = k.scale(self.of_sequence, s.width);
        let at = k.add(at, column);
        let out = Rows { base: k.element(out, at), stride: row };
        k.loop_(self.q0, self.q1, QUERIES, |k, first| {
            let Group { sums, state: State { max, sum, .. }, queries, .. } = self.group(k, first);
            let inverse = |k: &mut Emit, q: Val| {
                let one = k.float(1.0, Ty::Vec(s.lanes));
                let p = k.element(sum, q);
                let total = k.load(Ty::Vec(s.lanes), p);
                k.div(one, total)
            };
            let out = out.from(k, first);
            out.prefetch(k, s, queries);
            store_queries(k, s, sums, queries, inverse, out);
            if let Some(lse) = lse {
                let at = k.scale(self.head, s.seq);
                let at = k.add(at, first);
                let lse = k.element(lse, at);
                log_sum(k, s.lanes, s.query_vectors(), (max, sum), lse, queries);
            }
        });
    }
}

/// What drops weights of a group of queries: a state for each vector of them, and a chunk's first key.
pub(super) struct Drop {
    pub weights: Weights,
    pub rows: Vec<Row>,
    pub keys: Val,
}

impl Drop {
    /// The factors of the weights of a chunk's key `r` by vector `j` of the queries.
    pub fn factors(&self, k: &mut Emit, r: Val, j: usize, lanes: usize) -> Val {
        let key = k.add(self.keys, r);
        self.weights.factors(k, self.rows[j], key, lanes)
    }
}

/// Groups of queries of a task: as many as the cache holds beside a chunk of keys and values, but so few that no core
/// waits for others.
fn groups(b: &Body<'_>, s: Sizes) -> usize {
    let chunk = s.chunk(KEYS, QUERIES) + 2 * KEYS * s.wide();
    let most = s.groups_of(b.cpu.l2, |n| n * (s.packed() + s.sums()) + chunk);
    let tasks = |n: usize| s.batch * s.heads * s.seq.div_ceil(n * QUERIES);
    (1..=most).rev().find(|n| tasks(*n) >= 8 * b.cpu.cores).unwrap_or(1)
}

/// Places of what is known per query: the largest score so far to the base 2, the sum of exponentials less that, and
/// by what this chunk rescales what was summed before.
#[derive(Clone, Copy)]
struct State {
    max: Val,
    sum: Val,
    rescale: Val,
}

/// Stores the log-sum-exp of the first `count` queries in so many `vectors`, from maxima to the base 2 and sums.
fn log_sum(
    k: &mut Emit,
    lanes: usize,
    vectors: usize,
    (max, sum): (Val, Val),
    to: Val,
    count: Val,
) {
    let ln2 = k.float(std::f64::consts::LN_2, Ty::Vec(lanes));
    for j in 0..vectors {
        let [top, total] = [max, sum].map(|p| {
            let p = k.element_at(p, j * lanes);
            k.load(Ty::Vec(lanes), p)
        });
        let log = math::log(k, total);
        let x = k.fma(top, ln2, log);
        let mask = k.first_lanes(lanes, j, count);
        let p = k.element_at(to, j * lanes);
        k.store_masked(x, p, mask);
    }
}

/// The larger of two, without the care that `maximum` takes of NaN: a score that is NaN makes its weight one.
fn larger(k: &mut Emit, a: Val, b: Val) -> Val {
    let more = k.cmp("ogt", a, b);
    k.select(more, a, b)
}

/// Scores of a chunk to weights, `2^(scale·(score - max))`, in place. What is dropped counts in the sum.
fn softmax(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    count: Val,
    p: Rows,
    state: State,
    drop: Option<Drop>,
) {
    let ty = Ty::Vec(s.lanes);
    let vectors = s.query_vectors();
    let place = |k: &mut Emit, r: Val, j: usize| {
        let row = p.at(k, r);
        k.element_at(row, j * s.lanes)
    };
    let low = k.float(f64::NEG_INFINITY, ty);
    let top = each_key(k, s, first, count, &vec![low; vectors], |k, r, masks, acc| {
        (0..vectors)
            .map(|j| {
                let at = place(k, r, j);
                let mut x = k.load(ty, at);
                if let Some(keep) = masks[j] {
                    x = k.select(keep, x, low);
                }
                larger(k, acc[j], x)
            })
            .collect()
    });
    let (scale, none) = (k.float(s.scale2(), ty), k.float(0.0, ty));
    let mut minus = vec![];
    let mut factors = vec![];
    for (j, top) in top.into_iter().enumerate() {
        let top = k.mul(top, scale);
        let at = k.element_at(state.max, j * s.lanes);
        let old = k.load(ty, at);
        let new = larger(k, old, top);
        k.store(new, at);
        let change = k.sub(old, new);
        let factor = math::exp2_negative(k, change);
        let at = k.element_at(state.rescale, j * s.lanes);
        k.store(factor, at);
        minus.push(k.neg(new));
        factors.push(factor);
    }
    let sums = each_key(k, s, first, count, &vec![none; vectors], |k, r, masks, acc| {
        (0..vectors)
            .map(|j| {
                let at = place(k, r, j);
                let x = k.load(ty, at);
                let x = k.fma(x, scale, minus[j]);
                let mut e = math::exp2_negative(k, x);
                if let Some(keep) = masks[j] {
                    e = k.select(keep, e, none);
                }
                let left = match &drop {
                    None => e,
                    Some(drop) => {
                        let factors = drop.factors(k, r, j, s.lanes);
                        k.mul(e, factors)
                    }
                };
                k.store(left, at);
                k.add(acc[j], e)
            })
            .collect()
    });
    for (j, (sum, factor)) in sums.into_iter().zip(factors).enumerate() {
        let at = k.element_at(state.sum, j * s.lanes);
        let old = k.load(ty, at);
        let sum = k.fma(old, factor, sum);
        k.store(sum, at);
    }
}
