//! Causal attention backward: a task is one head of keys and values of one sequence, with all heads of queries that share
//! it. Weights are recomputed from the log-sum-exp, chunk of keys by chunk of keys for one block of queries after the
//! other, in a fixed order. A block is several groups of queries: what a chunk reads and adds to comes from memory once
//! for all of them.
//!
//! Where heads are few, tasks share a head's keys, a part each. Gradients of queries then are sums in parts, which another
//! kernel adds up.

use super::attention::Drop;
use super::attention::block::{
    QUERIES, Rows, Sizes, clear, each_key, group, load_wide, of_group, pack_queries, store_queries,
    store_wide, widened_floats,
};
use super::attention::head::{Head, Queries};
use super::attention::matmuls::{add_to_keys, add_to_queries, scores};
use super::attention::pairs::{self, Pairs};
use super::dropout::Weights;
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, LINE, Ty, Val, math};

/// Keys of a chunk, whole groups of queries.
const KEYS: usize = 2 * QUERIES;

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let op = b.f.ops.first().ok_or_else(|| b.fail("is empty"))?;
    let s = Sizes::of(b.f, op, b.lanes)?;
    let mut given = vec![];
    for o in &op.operands {
        given.push(b.param(*o).ok_or_else(|| b.fail("lost an operand"))?);
    }
    let inputs = [0, 1, 2, 3, 4, 5].map(|i| given[i]);
    let results = [b.result(0), b.result(1), b.result(2)];
    let drop = Weights::of(b, op, 6)?;
    if let Some(at) = Pairs::of(b, s, inputs[0]) {
        return pairs::gradient::emit(b, at, inputs, results, drop);
    }
    let groups = s.groups_of(b.cpu.l2, |n| {
        let weights = 2 * s.chunk(KEYS, row(n));
        n * (2 * s.packed() + s.sums() + 2 * QUERIES * s.wide()) + weights + 4 * KEYS * s.wide()
    });
    let (room, scratch_floats) = Room::of(b, s, groups, inputs, results);
    b.tasks(|b, task| {
        let k = &mut b.k;
        let head = Head::of(k, s, task, inputs, results);
        let task = Task::of(s, room, groups, drop, &head);
        task.begin(k, &head);
        head.each_queries(k, s, |k, shared| task.queries(k, &head, &shared));
        for (from, to) in [(task.dk, head.results[0]), (task.dv, head.results[1])] {
            if to.base.ty != Ty::Ptr {
                head.each_run(k, s, |k, first, end| copy(k, s, (first, end), from, to));
            }
        }
        Ok(())
    })?;
    Ok(Shape { tasks: s.gradient_tasks(), scratch_floats, tiles: false })
}

/// Places in scratch that a task works in.
#[derive(Clone, Copy)]
struct Room {
    /// Packed queries of each group, and gradients of its outputs.
    packed_q: Val,
    packed_d: Val,
    /// Weights of a chunk by a block, and gradients of its scores.
    p: Rows,
    ds: Rows,
    /// What each group has summed of the keys.
    sums: Val,
    /// What is known of each query.
    minus_lse: Val,
    delta: Val,
    /// Gradients of all keys and values, where results would round each sum.
    dk: Val,
    dv: Val,
    /// All keys and values, and a block's queries, as f32, where they are not.
    keys: Val,
    values: Val,
    q: Val,
    /// A block's gradients of outputs, whose rows lie far apart.
    d: Val,
}

impl Room {
    /// Room for `groups` groups, q, k and v, and dq, dk and dv; and the floats that it takes.
    fn of(
        b: &mut Body<'_>,
        s: Sizes,
        groups: usize,
        inputs: [Val; 6],
        [_, dk, dv]: [Val; 3],
    ) -> (Room, usize) {
        // Sums over blocks of queries grow in the results, or apart where those would round each of them.
        let apart = |p: Val| if p.ty == Ty::Ptr { 0 } else { s.seq * s.wide() };
        let (block, row) = (groups * QUERIES, row(groups));
        let parts = [
            groups * s.packed(),
            groups * s.packed(),
            s.chunk(KEYS, row),
            s.chunk(KEYS, row),
            groups * s.sums(),
            block,
            block,
            apart(dk),
            apart(dv),
            widened_floats(s, s.seq, inputs[1]),
            widened_floats(s, s.seq, inputs[2]),
            widened_floats(s, block, inputs[0]),
            block * s.wide(),
        ];
        let [packed_q, packed_d, p, ds, sums, rest @ ..] = b.places(parts);
        let [minus_lse, delta, dk, dv, keys, values, q, d] = rest;
        let [p, ds] = [p, ds].map(|base| Rows { base, stride: row });
        let room =
            Room { packed_q, packed_d, p, ds, sums, minus_lse, delta, dk, dv, keys, values, q, d };
        (room, parts.iter().sum())
    }
}

/// What a task has: one head of keys and values, or some of its keys.
#[derive(Clone, Copy)]
struct Task {
    s: Sizes,
    room: Room,
    groups: usize,
    drop: Option<Weights>,
    /// Keys, values and their gradients as f32, where they lie or in scratch.
    keys: Rows,
    values: Rows,
    dk: Rows,
    dv: Rows,
}

/// A block of queries `q0 .. q1`, their number, and rows of q and of gradients of outputs as f32.
#[derive(Clone, Copy)]
struct Block {
    q0: Val,
    q1: Val,
    queries: Val,
    of_q: Rows,
    of_d: Rows,
}

impl Task {
    fn of(s: Sizes, room: Room, groups: usize, drop: Option<Weights>, head: &Head) -> Task {
        // Rows as f32: themselves, or what is in scratch.
        let in_room = |rows: Rows, room: Val| match rows.base.ty {
            Ty::Ptr => rows,
            _ => Rows { base: room, stride: s.wide() },
        };
        let ([key, value], [dk, dv]) = (head.inputs, head.results);
        Task {
            s,
            room,
            groups,
            drop,
            keys: in_room(key, room.keys),
            values: in_room(value, room.values),
            dk: in_room(dk, room.dk),
            dv: in_room(dv, room.dv),
        }
    }

    /// Begins the gradients of the task's keys and values, and widens those.
    fn begin(&self, k: &mut Emit, head: &Head) {
        let s = self.s;
        let none = k.float(0.0, Ty::Vec(s.lanes));
        head.each_run(k, s, |k, first, end| {
            k.loop_(first, end, 1, |k, r| {
                let (a, b) = (self.dk.at(k, r), self.dv.at(k, r));
                for j in 0..s.vectors() {
                    store_wide(k, s, none, a, j);
                    store_wide(k, s, none, b, j);
                }
            });
            for (rows, to) in head.inputs.into_iter().zip([self.keys, self.values]) {
                let room = to.at(k, first);
                rows.widened(k, s, first, end, room);
            }
        });
    }

    /// Passes all queries of one of the heads that share the keys, block by block.
    fn queries(&self, k: &mut Emit, head: &Head, shared: &Queries) {
        let s = self.s;
        let block = self.groups * QUERIES;
        let (zero, all) = (k.int(0), k.int(s.seq as i64));
        let none = k.float(0.0, Ty::Vec(s.lanes));
        // Queries before all of the task's keys see none.
        k.loop_(zero, head.first, 1, |k, r| {
            let row = shared.result.at(k, r);
            (0..s.vectors()).for_each(|j| store_wide(k, s, none, row, j));
        });
        k.loop_(head.first, all, block, |k, q0| {
            let step = k.int(block as i64);
            let q1 = k.add(q0, step);
            let q1 = k.min(q1, all);
            let block = self.pack_block(k, shared, (q0, q1));
            head.each_run(k, s, |k, first, end| {
                let seen = k.min(end, q1);
                let first = match s.ahead(k, q0, first, KEYS) {
                    None => first,
                    Some(ahead) => k.add(first, ahead),
                };
                k.loop_(first, seen, KEYS, |k, n| {
                    let step = k.int(KEYS as i64);
                    let end = k.add(n, step);
                    let end = k.min(end, seen);
                    self.add_chunk(k, shared, block, (n, end));
                });
            });
            self.store_block(k, shared, (q0, q1));
        });
    }

    /// Packs the queries `q0 .. q1` and the gradients of their outputs, with what is known of them.
    fn pack_block(&self, k: &mut Emit, shared: &Queries, (q0, q1): (Val, Val)) -> Block {
        let (s, room) = (self.s, self.room);
        let (q, [out, dout]) = (shared.rows, shared.outputs);
        let queries = k.sub(q1, q0);
        let of_q = q.widened(k, s, q0, q1, room.q);
        let (out, lse) = (out.from(k, q0), k.element(shared.lse, q0));
        // Rows of the output's gradient lie far apart, where few of them fit the cache.
        let of_d = dout.copied(k, s, q0, q1, room.d);
        statistics(k, s, queries, out, of_d, lse, (room.minus_lse, room.delta));
        k.loop_(q0, q1, QUERIES, |k, first| {
            let local = k.sub(first, q0);
            let number = group(k, local);
            let to = of_group(k, number, room.packed_q, s.packed());
            pack_queries(k, s, q, first, to);
            let to = of_group(k, number, room.packed_d, s.packed());
            pack_queries(k, s, dout, first, to);
        });
        let floats = k.int((self.groups * s.sums()) as i64);
        clear(k, s, room.sums, floats);
        Block { q0, q1, queries, of_q, of_d }
    }

    /// Adds what a block of queries makes of the chunk of keys `n .. end` to all three gradients.
    fn add_chunk(&self, k: &mut Emit, shared: &Queries, block: Block, (n, end): (Val, Val)) {
        let (s, Block { q0, q1, queries, of_q, of_d }) = (self.s, block);
        let count = k.sub(end, n);
        let chunk = [self.keys.from(k, n), self.values.from(k, n)];
        let [dk, dv] = [self.dk.from(k, n), self.dv.from(k, n)];
        let (zero, ahead) = (k.int(0), k.sub(n, q0));
        let ahead = k.max(ahead, zero);
        let from = group(k, ahead);
        let from = k.scale(from, QUERIES);
        let from = k.add(q0, from);
        let to = s.seeing(k, end, q1);
        k.loop_(from, to, QUERIES, |k, query| {
            self.add_to_group(k, shared, block, query, (n, end), chunk, [dk, dv]);
        });
        // dv += pᵀ dout, dk += dsᵀ q: contraction over the block's queries.
        let first = k.sub(n, q0);
        for (weights, source, target) in [(self.room.p, of_d, dv), (self.room.ds, of_q, dk)] {
            add_to_keys(k, s, first, (queries, count), weights, source, target);
        }
    }

    /// Makes weights of the chunk `n .. end` by the group that begins with query `query`, and adds to the gradients of its
    /// queries. The gradients of keys and values, which come next, are asked for.
    #[allow(clippy::too_many_arguments)] // a chunk's whole surroundings
    fn add_to_group(
        &self,
        k: &mut Emit,
        shared: &Queries,
        block: Block,
        query: Val,
        (n, end): (Val, Val),
        [mut keys, mut values]: [Rows; 2],
        [dk, dv]: [Rows; 2],
    ) {
        let (s, room) = (self.s, self.room);
        // Rows of a register tile of keys begin with the groups of queries; where they do not, a tile has keys that only
        // the next group sees, and this one needs zeros for them.
        let keys_of_group = if s.runs.begin_at(QUERIES) { QUERIES } else { 2 * QUERIES };
        let local = k.sub(query, block.q0);
        let (number, size) = (group(k, local), k.int(keys_of_group as i64));
        let after = k.add(query, size);
        let last = k.min(end, after);
        let mut n = n;
        let ahead = s.ahead(k, query, n, QUERIES);
        if let Some(ahead) = ahead {
            (keys, values) = (keys.from(k, ahead), values.from(k, ahead));
            n = k.add(n, ahead);
        }
        let (count, first) = (k.sub(last, n), k.sub(n, query));
        let [mut p, mut ds] =
            [room.p, room.ds].map(|p| Rows { base: k.element(p.base, local), ..p });
        if let Some(ahead) = ahead {
            (p, ds) = (p.from(k, ahead), ds.from(k, ahead));
        }
        let packed_q = of_group(k, number, room.packed_q, s.packed());
        let packed_d = of_group(k, number, room.packed_d, s.packed());
        let sums = of_group(k, number, room.sums, s.sums());
        let token = k.add(shared.token, query);
        let left = k.sub(block.q1, query);
        let drop = self.drop.map(|weights| {
            let rows = weights.rows(k, token, left, shared.number, QUERIES, s.lanes);
            Drop { weights, rows, keys: n }
        });
        let known = Known::of(k, s, [room.minus_lse, room.delta], local);
        scores(k, s, first, count, keys, packed_q, p, Some(dk));
        scores(k, s, first, count, values, packed_d, ds, Some(dv));
        weights(k, s, (first, count), (p, ds), &known, &drop);
        add_to_queries(k, s, first, count, ds, keys, sums, None);
    }

    /// Stores the gradients of the queries `q0 .. q1`.
    fn store_block(&self, k: &mut Emit, shared: &Queries, (q0, q1): (Val, Val)) {
        let s = self.s;
        k.loop_(q0, q1, QUERIES, |k, first| {
            let local = k.sub(first, q0);
            let (number, n) = (group(k, local), k.int(QUERIES as i64));
            let sums = of_group(k, number, self.room.sums, s.sums());
            let left = k.sub(q1, first);
            let queries = k.min(left, n);
            let to = shared.result.from(k, first);
            let one = k.float(1.0, Ty::Vec(s.lanes));
            store_queries(k, s, sums, queries, |_, _| one, to);
        });
    }
}

/// Floats from the weights of one key to those of the next, by so many groups: an odd number of cache lines, for rows
/// to spread over all of a cache.
fn row(groups: usize) -> usize {
    groups * QUERIES + LINE
}

/// Copies the rows `first .. end` along head_dim.
fn copy(k: &mut Emit, s: Sizes, (first, end): (Val, Val), from: Rows, to: Rows) {
    k.loop_(first, end, 1, |k, r| {
        let (from, to) = (from.at(k, r), to.at(k, r));
        for j in 0..s.vectors() {
            let v = load_wide(k, s, from, j);
            store_wide(k, s, v, to, j);
        }
    });
}

/// Vectors of a group's queries: minus the log-sum-exp to the base 2, and out·dout.
struct Known {
    minus_lse: Vec<Val>,
    delta: Vec<Val>,
}

impl Known {
    /// Of the group `local` queries after the block's first.
    fn of(k: &mut Emit, s: Sizes, places: [Val; 2], local: Val) -> Known {
        let [minus_lse, delta] = places.map(|p| {
            let p = k.element(p, local);
            let load = |j| {
                let p = k.element_at(p, j * s.lanes);
                k.load(Ty::Vec(s.lanes), p)
            };
            (0..s.query_vectors()).map(load).collect()
        });
        Known { minus_lse, delta }
    }
}

/// out·dout of `queries` rows.
pub(super) fn deltas(k: &mut Emit, s: Sizes, queries: Val, out: Rows, dout: Rows, to: Val) {
    let (zero, none) = (k.int(0), k.float(0.0, Ty::Vec(s.lanes)));
    k.loop_(zero, queries, 1, |k, i| {
        let (o, d) = (out.at(k, i), dout.at(k, i));
        let mut delta = none;
        for j in 0..s.vectors() {
            let (x, y) = (load_wide(k, s, o, j), load_wide(k, s, d, j));
            delta = k.fma(x, y, delta);
        }
        let delta = k.reduce_add(delta);
        let p = k.element(to, i);
        k.store(delta, p);
    });
}

/// What is known of a block's `queries`: minus the log-sum-exp to the base 2, and out·dout. Zeros behind.
fn statistics(
    k: &mut Emit,
    s: Sizes,
    queries: Val,
    out: Rows,
    dout: Rows,
    lse: Val,
    (minus_lse, delta): (Val, Val),
) {
    let (zero, step) = (k.int(0), k.int(QUERIES as i64));
    let none = k.float(0.0, Ty::Vec(s.lanes));
    let minus_log2 = k.float(-std::f64::consts::LOG2_E, Ty::Vec(s.lanes));
    k.loop_(zero, queries, QUERIES, |k, q| {
        let left = k.sub(queries, q);
        let left = k.min(left, step);
        for j in 0..s.query_vectors() {
            let mask = k.first_lanes(s.lanes, j, left);
            let [from, to, sums] = [lse, minus_lse, delta].map(|p| {
                let p = k.element(p, q);
                k.element_at(p, j * s.lanes)
            });
            let x = k.load_masked(from, mask);
            let x = k.mul(x, minus_log2);
            k.store(x, to);
            k.store(none, sums);
        }
    });
    deltas(k, s, queries, out, dout, delta);
}

/// Turns a chunk's scores and the dot products of values with dout into weights p and ds, in place; zero where a query does
/// not see a key.
fn weights(
    k: &mut Emit,
    s: Sizes,
    (first, count): (Val, Val),
    (p, ds): (Rows, Rows),
    known: &Known,
    drop: &Option<Drop>,
) {
    let ty = Ty::Vec(s.lanes);
    let none = k.float(0.0, ty);
    let (scale2, scale) = (k.float(s.scale2(), ty), k.float(s.scale, ty));
    each_key(k, s, first, count, &[], |k, r, masks, _| {
        let (p, ds) = (p.at(k, r), ds.at(k, r));
        for (j, mask) in masks.iter().enumerate() {
            let (pp, pd) = (k.element_at(p, j * s.lanes), k.element_at(ds, j * s.lanes));
            let (x, mut dp) = (k.load(ty, pp), k.load(ty, pd));
            let x = k.fma(x, scale2, known.minus_lse[j]);
            let w = math::exp2_negative(k, x);
            let mut left = w;
            if let Some(drop) = drop {
                let factors = drop.factors(k, r, j, s.lanes);
                dp = k.mul(dp, factors);
                left = k.mul(w, factors);
            }
            let g = k.sub(dp, known.delta[j]);
            let g = k.mul(g, scale);
            let mut g = k.mul(g, w);
            if let Some(keep) = mask {
                left = k.select(*keep, left, none);
                g = k.select(*keep, g, none);
            }
            k.store(left, pp);
            k.store(g, pd);
        }
        vec![]
    });
}
