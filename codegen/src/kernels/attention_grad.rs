//! Causal attention backward: a task is one head of one sequence. Weights are recomputed from the log-sum-exp, chunk
//! of keys by chunk of keys for one block of queries after the other, in a fixed order.

use super::attention::block::{
    KEYS, QUERIES, Rows, Sizes, add_to_queries, each_key, load_wide, pack_queries, product, scores,
    store_wide, widened_floats,
};
use super::attention::pairs::{self, Pairs};
use super::dropout::{Row, Weights};
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val, math};

/// What a task has of one head.
pub(super) struct Head {
    /// Rows of q, k and v.
    pub inputs: [Rows; 3],
    /// Rows of the output and of its gradient.
    pub outputs: [Rows; 2],
    /// The log-sum-exp of each query.
    pub lse: Val,
    /// Rows of dq, dk and dv.
    pub results: [Rows; 3],
    /// Number of the sequence's first token.
    pub token: Val,
    /// Number of the head in its sequence.
    pub number: Val,
}

impl Head {
    /// Head `head` of all sequences, of q, k, v, out, lse and dout, and of dq, dk and dv.
    pub fn of(k: &mut Emit, s: Sizes, head: Val, inputs: [Val; 6], results: [Val; 3]) -> Head {
        let at = k.scale(head, s.seq * s.width);
        let rows = |k: &mut Emit, p| Rows { base: k.element(p, at), stride: s.width };
        let [q, key, value, out, lse, dout] = inputs;
        let inputs = [q, key, value].map(|p| rows(k, p));
        let results = results.map(|p| rows(k, p));
        let heads = k.int(s.heads as i64);
        let (batch, number) = (k.div(head, heads), k.rem(head, heads));
        let row = s.heads * s.width;
        let at = k.scale(batch, s.seq * row);
        let column = k.scale(number, s.width);
        let at = k.add(at, column);
        let outputs = [out, dout].map(|p| Rows { base: k.element(p, at), stride: row });
        let at = k.scale(head, s.seq);
        let lse = k.element(lse, at);
        let token = k.scale(batch, s.seq);
        Head { inputs, outputs, lse, results, token, number }
    }
}

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
    let parts = [
        s.packed(),
        s.packed(),
        s.chunk(),
        s.chunk(),
        QUERIES * s.wide(),
        2 * QUERIES,
        apart(results[1]),
        apart(results[2]),
        widened_floats(s, s.seq, inputs[1]),
        widened_floats(s, s.seq, inputs[2]),
        widened_floats(s, QUERIES, inputs[0]),
        widened_floats(s, QUERIES, inputs[5]),
    ];
    let [
        packed_q,
        packed_d,
        p,
        ds,
        sums,
        stats,
        dk_sums,
        dv_sums,
        key_room,
        value_room,
        q_room,
        d_room,
    ] = b.places(parts);
    b.tasks(|b, head| {
        let k = &mut b.k;
        let head = Head::of(k, s, head, inputs, results);
        let ([q, key, value], [out, dout], lse) = (head.inputs, head.outputs, head.lse);
        let [dq, dk_out, dv_out] = head.results;
        let [dk, dv] =
            [(dk_out, dk_sums), (dv_out, dv_sums)].map(|(out, room)| match out.base.ty {
                Ty::Ptr => out,
                _ => Rows { base: room, stride: s.wide() },
            });

        let (zero, all) = (k.int(0), k.int(s.seq as i64));
        let none = k.float(0.0, Ty::Vec(s.lanes));
        k.loop_(zero, all, 1, |k, r| {
            let (a, b) = (dk.at(k, r), dv.at(k, r));
            for j in 0..s.vectors() {
                store_wide(k, s, none, a, j);
                store_wide(k, s, none, b, j);
            }
        });
        let keys = key.widened(k, s, zero, all, key_room);
        let values = value.widened(k, s, zero, all, value_room);
        k.loop_(zero, all, QUERIES, |k, q0| {
            let block = k.int(QUERIES as i64);
            let q1 = k.add(q0, block);
            let q1 = k.min(q1, all);
            let queries = k.sub(q1, q0);
            pack_queries(k, s, q, q0, packed_q);
            pack_queries(k, s, dout, q0, packed_d);
            let q = q.widened(k, s, q0, q1, q_room);
            let d = dout.widened(k, s, q0, q1, d_room);
            let out = out.from(k, q0);
            let given = k.element(lse, q0);
            let known = statistics(k, s, queries, out, d, given, stats);
            let token = k.add(head.token, q0);
            let drop = drop.map(|w| (w, w.rows(k, token, queries, head.number, QUERIES, s.lanes)));
            k.count(QUERIES * s.vectors(), |k, i| {
                let at = k.scale(i, s.lanes);
                let p = k.element(sums, at);
                k.store(none, p);
            });
            k.loop_(zero, q1, KEYS, |k, n| {
                let step = k.int(KEYS as i64);
                let end = k.add(n, step);
                let end = k.min(end, q1);
                let (count, first) = (k.sub(end, n), k.sub(n, q0));
                let (keys, values) = (keys.from(k, n), values.from(k, n));
                scores(k, s, first, count, keys, packed_q, p);
                scores(k, s, first, count, values, packed_d, ds);
                weights(k, s, first, count, n, (p, ds), &known, &drop);
                // dv += pᵀ dout, dk += dsᵀ q: contraction over the block's queries.
                for (weights, source, target) in [(p, d, dv), (ds, q, dk)] {
                    let target = target.from(k, n);
                    add_to_keys(k, s, first, (queries, count), weights, source, target);
                }
                add_to_queries(k, s, first, (queries, count), ds, keys, sums, None);
            });
            let dq = dq.from(k, q0);
            copy(k, s, queries, Rows { base: sums, stride: s.wide() }, dq);
        });
        for (from, to) in [(dk, dk_out), (dv, dv_out)] {
            if to.base.ty != Ty::Ptr {
                copy(k, s, all, from, to);
            }
        }
        Ok(())
    })?;
    Ok(Shape { tasks: s.batch * s.heads, scratch_floats: parts.iter().sum(), tiles: false })
}

/// Copies rows along head_dim.
fn copy(k: &mut Emit, s: Sizes, count: Val, from: Rows, to: Rows) {
    let zero = k.int(0);
    k.loop_(zero, count, 1, |k, r| {
        let (from, to) = (from.at(k, r), to.at(k, r));
        for j in 0..s.vectors() {
            let v = load_wide(k, s, from, j);
            store_wide(k, s, v, to, j);
        }
    });
}

/// Vectors of a block's queries: minus the log-sum-exp to the base 2, and out·dout.
struct Known {
    minus_lse: Vec<Val>,
    delta: Vec<Val>,
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

fn statistics(
    k: &mut Emit,
    s: Sizes,
    queries: Val,
    out: Rows,
    dout: Rows,
    lse: Val,
    stats: Val,
) -> Known {
    let none = k.float(0.0, Ty::Vec(s.lanes));
    for j in 0..s.query_vectors() {
        let p = k.element_at(stats, j * s.lanes);
        k.store(none, p);
    }
    deltas(k, s, queries, out, dout, stats);
    let minus_log2 = k.float(-std::f64::consts::LOG2_E, Ty::Vec(s.lanes));
    let mut known = Known { minus_lse: vec![], delta: vec![] };
    for j in 0..s.query_vectors() {
        let mask = k.first_lanes(s.lanes, j, queries);
        let p = k.element_at(lse, j * s.lanes);
        let x = k.load_masked(p, mask);
        known.minus_lse.push(k.mul(x, minus_log2));
        let p = k.element_at(stats, j * s.lanes);
        known.delta.push(k.load(Ty::Vec(s.lanes), p));
    }
    known
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
    (p, ds): (Val, Val),
    known: &Known,
    drop: &Option<(Weights, Vec<Row>)>,
) {
    let ty = Ty::Vec(s.lanes);
    let none = k.float(0.0, ty);
    let (scale2, scale) = (k.float(s.scale2(), ty), k.float(s.scale, ty));
    each_key(k, s, first, count, &[], |k, r, masks, _| {
        let at = k.scale(r, QUERIES);
        let (p, ds) = (k.element(p, at), k.element(ds, at));
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

/// `target[key] += Σ_query weights[key][query]·source[query]` for a chunk's `count` keys, over queries from each
/// tile's first key on.
fn add_to_keys(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    (queries, count): (Val, Val),
    weights: Val,
    source: Rows,
    target: Rows,
) {
    let zero = k.int(0);
    for (group, tile) in s.groups() {
        k.loop_(zero, count, tile, |k, r| {
            let from = k.add(first, r);
            let from = k.max(from, zero);
            let from = k.min(from, queries);
            let at = k.scale(r, QUERIES);
            let weights = k.element(weights, at);
            // Rows beyond the last repeat it, and are not stored.
            let one = k.int(1);
            let last = k.sub(count, one);
            let rows: Vec<(Val, Val)> = (0..tile)
                .map(|i| {
                    let i = k.int(i as i64);
                    let row = k.add(r, i);
                    let inside = k.cmp("slt", row, count);
                    let row = k.min(row, last);
                    (inside, target.at(k, row))
                })
                .collect();
            let mut init = vec![];
            for (_, row) in &rows {
                for v in group.clone() {
                    init.push(load_wide(k, s, *row, v));
                }
            }
            let acc = product(
                k,
                (tile, group.len(), s.lanes),
                (from, queries),
                &init,
                |k, i, p| {
                    let at = k.element(weights, p);
                    let at = k.element_at(at, i * QUERIES);
                    k.load(Ty::F32, at)
                },
                |k, p, v| {
                    let row = source.at(k, p);
                    load_wide(k, s, row, group.start + v)
                },
            );
            for (i, (inside, row)) in rows.into_iter().enumerate() {
                k.if_(inside, |k| {
                    for (v, j) in group.clone().enumerate() {
                        store_wide(k, s, acc[i * group.len() + v], row, j);
                    }
                });
            }
        });
    }
}
