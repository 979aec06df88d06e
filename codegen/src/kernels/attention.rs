//! Causal attention forward: a task is one block of queries of one head. Keys come in chunks; maxima, sums and
//! outputs so far are rescaled when a chunk has a larger score, so memory does not grow with the sequence.

pub mod block;
pub mod pairs;

use super::dropout::Weights;
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val, math};
use block::{KEYS, QUERIES, Rows, Sizes, add_to_queries, each_key, pack_queries, scores};
use block::{store_wide, widened_floats};
use pairs::Pairs;

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
    let drop = Weights::of(b, op, 3)?;
    if let Some(at) = Pairs::of(b, s, q) {
        return pairs::forward::emit(b, at, [q, key, value], (out, lse), drop);
    }
    let blocks = s.seq.div_ceil(QUERIES);
    let (wide_keys, wide_values) = (widened_floats(s, KEYS, key), widened_floats(s, KEYS, value));
    let parts = [
        s.packed(),
        s.chunk(),
        QUERIES * s.wide(),
        QUERIES,
        QUERIES,
        QUERIES,
        wide_keys,
        wide_values,
    ];
    let [packed, p, sums, max, sum, rescale, key_room, value_room] = b.places(parts);
    b.tasks(|b, t| {
        let k = &mut b.k;
        let n = k.int(blocks as i64);
        let (head, number) = (k.div(t, n), k.rem(t, n));
        let q0 = k.scale(number, QUERIES);
        let at = k.scale(head, s.seq * s.width);
        let rows = |k: &mut Emit, p| Rows { base: k.element(p, at), stride: s.width };
        let (q, key, value) = (rows(k, q), rows(k, key), rows(k, value));
        let (zero, all, step) = (k.int(0), k.int(s.seq as i64), k.int(QUERIES as i64));
        let q1 = k.add(q0, step);
        let q1 = k.min(q1, all);
        let queries = k.sub(q1, q0);
        let heads = k.int(s.heads as i64);
        let (batch, h) = (k.div(head, heads), k.rem(head, heads));
        let token = k.scale(batch, s.seq);
        let first = k.add(token, q0);
        let drop = drop.map(|w| (w, w.rows(k, first, queries, h, QUERIES, s.lanes)));

        pack_queries(k, s, q, q0, packed);
        let (none, low) =
            (k.float(0.0, Ty::Vec(s.lanes)), k.float(f64::NEG_INFINITY, Ty::Vec(s.lanes)));
        for j in 0..s.query_vectors() {
            for (p, x) in [(max, low), (sum, none)] {
                let p = k.element_at(p, j * s.lanes);
                k.store(x, p);
            }
        }
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
            let keys = key.widened(k, s, n, end, key_room);
            let values = value.widened(k, s, n, end, value_room);
            scores(k, s, first, count, keys, packed, p);
            let state = State { max, sum, rescale };
            softmax(k, s, first, count, p, state, |k, r, j, e| match &drop {
                None => e,
                Some((weights, rows)) => {
                    let key = k.add(n, r);
                    let factors = weights.factors(k, rows[j], key, s.lanes);
                    k.mul(e, factors)
                }
            });
            add_to_queries(k, s, first, (queries, count), p, values, sums, Some(rescale));
        });
        let row = s.heads * s.width;
        let at = k.scale(token, row);
        let column = k.scale(h, s.width);
        let at = k.add(at, column);
        let out = Rows { base: k.element(out, at), stride: row }.from(k, q0);
        k.loop_(zero, queries, 1, |k, i| {
            let at = k.element(sum, i);
            let (total, one) = (k.load(Ty::F32, at), k.float(1.0, Ty::F32));
            let inverse = k.div(one, total);
            let inverse = k.splat(inverse, s.lanes);
            let at = k.scale(i, s.wide());
            let (from, to) = (k.element(sums, at), out.at(k, i));
            for j in 0..s.vectors() {
                let p = k.element_at(from, j * s.lanes);
                let x = k.load(Ty::Vec(s.lanes), p);
                let x = k.mul(x, inverse);
                store_wide(k, s, x, to, j);
            }
        });
        if let Some(lse) = lse {
            let at = k.scale(head, s.seq);
            let at = k.add(at, q0);
            let lse = k.element(lse, at);
            log_sum(k, s.lanes, s.query_vectors(), (max, sum), lse, queries);
        }
        Ok(())
    })?;
    Ok(Shape {
        tasks: s.batch * s.heads * blocks,
        scratch_floats: parts.iter().sum(),
        tiles: false,
    })
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

/// Scores of a chunk to weights, `2^(scale·(score - max))` as `change` has them, in place. What is dropped counts in
/// the sum.
fn softmax(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    count: Val,
    p: Val,
    state: State,
    change: impl Fn(&mut Emit, Val, usize, Val) -> Val,
) {
    let ty = Ty::Vec(s.lanes);
    let vectors = s.query_vectors();
    let place = |k: &mut Emit, r: Val, j: usize| {
        let at = k.scale(r, QUERIES);
        let at = k.element(p, at);
        k.element_at(at, j * s.lanes)
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
                let left = change(k, r, j, e);
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
