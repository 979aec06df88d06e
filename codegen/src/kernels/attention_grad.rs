//! Causal attention backward: a task is one head of keys and values of one sequence, with all heads of queries that share
//! it. Weights are recomputed from the log-sum-exp, chunk of keys by chunk of keys for one block of queries after the
//! other, in a fixed order. A block is several groups of queries: what a chunk reads and adds to comes from memory once
//! for all of them.
//!
//! Where heads are few, tasks share a head's keys, a part each. Gradients of queries then are sums in parts, which another
//! kernel adds up.

use super::attention::block::{
    QUERIES, Rows, Sizes, clear, each_key, group, load_wide, of_group, pack_queries, store_queries,
    store_wide, widened_floats,
};
use super::attention::head::Head;
use super::attention::pairs::{self, Pairs};
use super::attention::products::{add_to_keys, add_to_queries, scores};
use super::dropout::{Row, Weights};
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
    // Sums over blocks of queries grow in the results, or apart where those would round each of them.
    let apart = |p: Val| if p.ty == Ty::Ptr { 0 } else { s.seq * s.wide() };
    let groups = s.groups_of(b.cpu.l2, |n| {
        let weights = 2 * s.chunk(KEYS, row(n));
        n * (2 * s.packed() + s.sums() + 2 * QUERIES * s.wide()) + weights + 4 * KEYS * s.wide()
    });
    let (block, row) = (groups * QUERIES, row(groups));
    // Rows of a register tile of keys begin with the groups of queries; where they do not, a tile has keys that only
    // the next group sees, and this one needs zeros for them.
    let keys_of_group = if s.runs.begin_at(QUERIES) { QUERIES } else { 2 * QUERIES };
    let parts = [
        groups * s.packed(),
        groups * s.packed(),
        s.chunk(KEYS, row),
        s.chunk(KEYS, row),
        groups * s.sums(),
        block,
        block,
        apart(results[1]),
        apart(results[2]),
        widened_floats(s, s.seq, inputs[1]),
        widened_floats(s, s.seq, inputs[2]),
        widened_floats(s, block, inputs[0]),
        block * s.wide(),
    ];
    let [
        packed_q,
        packed_d,
        p,
        ds,
        sums,
        minus_lse,
        delta,
        dk_sums,
        dv_sums,
        key_room,
        value_room,
        q_room,
        d_room,
    ] = b.places(parts);
    let (p, ds) = (Rows { base: p, stride: row }, Rows { base: ds, stride: row });
    b.tasks(|b, task| {
        let k = &mut b.k;
        let head = Head::of(k, s, task, inputs, results);
        let ([key, value], [dk_out, dv_out]) = (head.inputs, head.results);
        // Rows as f32: themselves, or what is in scratch.
        let in_room = |rows: Rows, room: Val| match rows.base.ty {
            Ty::Ptr => rows,
            _ => Rows { base: room, stride: s.wide() },
        };
        let [dk, dv] = [(dk_out, dk_sums), (dv_out, dv_sums)].map(|(out, room)| in_room(out, room));

        let (zero, all) = (k.int(0), k.int(s.seq as i64));
        let none = k.float(0.0, Ty::Vec(s.lanes));
        let (keys, values) = (in_room(key, key_room), in_room(value, value_room));
        head.each_run(k, s, |k, first, end| {
            k.loop_(first, end, 1, |k, r| {
                let (a, b) = (dk.at(k, r), dv.at(k, r));
                for j in 0..s.vectors() {
                    store_wide(k, s, none, a, j);
                    store_wide(k, s, none, b, j);
                }
            });
            for (rows, room) in [(key, key_room), (value, value_room)] {
                let room = in_room(rows, room).at(k, first);
                rows.widened(k, s, first, end, room);
            }
        });
        head.each_queries(k, s, |k, shared| {
            let (q, [out, dout], lse) = (shared.rows, shared.outputs, shared.lse);
            let dq = shared.result;
            // Queries before all of the task's keys see none.
            k.loop_(zero, head.first, 1, |k, r| {
                let row = dq.at(k, r);
                (0..s.vectors()).for_each(|j| store_wide(k, s, none, row, j));
            });
            k.loop_(head.first, all, block, |k, q0| {
                let step = k.int(block as i64);
                let q1 = k.add(q0, step);
                let q1 = k.min(q1, all);
                let queries = k.sub(q1, q0);
                let of_q = q.widened(k, s, q0, q1, q_room);
                let (out, lse) = (out.from(k, q0), k.element(lse, q0));
                // Rows of the output's gradient lie far apart, where few of them fit the cache.
                let of_d = dout.copied(k, s, q0, q1, d_room);
                statistics(k, s, queries, out, of_d, lse, (minus_lse, delta));
                k.loop_(q0, q1, QUERIES, |k, first| {
                    let local = k.sub(first, q0);
                    let number = group(k, local);
                    let to = of_group(k, number, packed_q, s.packed());
                    pack_queries(k, s, q, first, to);
                    let to = of_group(k, number, packed_d, s.packed());
                    pack_queries(k, s, dout, first, to);
                });
                let floats = k.int((groups * s.sums()) as i64);
                clear(k, s, sums, floats);
                head.each_run(k, s, |k, first, end| {
                    let seen = k.min(end, q1);
                    k.loop_(first, seen, KEYS, |k, n| {
                        let step = k.int(KEYS as i64);
                        let end = k.add(n, step);
                        let end = k.min(end, seen);
                        let count = k.sub(end, n);
                        let (keys, values) = (keys.from(k, n), values.from(k, n));
                        let (dk, dv) = (dk.from(k, n), dv.from(k, n));
                        let ahead = k.sub(n, q0);
                        let ahead = k.max(ahead, zero);
                        let from = group(k, ahead);
                        let from = k.scale(from, QUERIES);
                        let from = k.add(q0, from);
                        k.loop_(from, q1, QUERIES, |k, query| {
                            let local = k.sub(query, q0);
                            let (number, size) = (group(k, local), k.int(keys_of_group as i64));
                            let after = k.add(query, size);
                            let last = k.min(end, after);
                            let (count, first) = (k.sub(last, n), k.sub(n, query));
                            let [p, ds] =
                                [p, ds].map(|p| Rows { base: k.element(p.base, local), ..p });
                            let packed_q = of_group(k, number, packed_q, s.packed());
                            let packed_d = of_group(k, number, packed_d, s.packed());
                            let sums = of_group(k, number, sums, s.sums());
                            let token = k.add(shared.token, query);
                            let left = k.sub(q1, query);
                            let drop = drop.map(|w| {
                                (w, w.rows(k, token, left, shared.number, QUERIES, s.lanes))
                            });
                            let known = Known::of(k, s, [minus_lse, delta], local);
                            scores(k, s, first, count, keys, packed_q, p, Some(dk));
                            scores(k, s, first, count, values, packed_d, ds, Some(dv));
                            weights(k, s, first, count, n, (p, ds), &known, &drop);
                            add_to_queries(k, s, first, count, ds, keys, sums, None);
                        });
                        // dv += pᵀ dout, dk += dsᵀ q: contraction over the block's queries.
                        let first = k.sub(n, q0);
                        for (weights, source, target) in [(p, of_d, dv), (ds, of_q, dk)] {
                            add_to_keys(k, s, first, (queries, count), weights, source, target);
                        }
                    });
                });
                k.loop_(q0, q1, QUERIES, |k, first| {
                    let local = k.sub(first, q0);
                    let (number, n) = (group(k, local), k.int(QUERIES as i64));
                    let sums = of_group(k, number, sums, s.sums());
                    let left = k.sub(q1, first);
                    let queries = k.min(left, n);
                    let to = dq.from(k, first);
                    let one = k.float(1.0, Ty::Vec(s.lanes));
                    store_queries(k, s, sums, queries, |_, _| one, to);
                });
            });
        });
        for (from, to) in [(dk, dk_out), (dv, dv_out)] {
            if to.base.ty != Ty::Ptr {
                head.each_run(k, s, |k, first, end| copy(k, s, (first, end), from, to));
            }
        }
        Ok(())
    })?;
    Ok(Shape { tasks: s.gradient_tasks(), scratch_floats: parts.iter().sum(), tiles: false })
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

/// Turns a chunk's scores and products of values with dout into weights p and ds, in place; zero where a query does
/// not see a key.
#[allow(clippy::too_many_arguments)] // a chunk's whole surroundings
fn weights(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    count: Val,
    n: Val,
    (p, ds): (Rows, Rows),
    known: &Known,
    drop: &Option<(Weights, Vec<Row>)>,
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
            if let Some((weights, rows)) = drop {
                let key = k.add(n, r);
                let factors = weights.factors(k, rows[j], key, s.lanes);
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
