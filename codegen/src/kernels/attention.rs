//! Causal attention forward: a task is one block of queries of one head. Keys come in chunks, and each passes all groups
//! of the block's queries while it is in cache; maxima, sums and outputs so far are rescaled when a chunk has a larger
//! score, so memory does not grow with the sequence.

pub mod block;
pub mod head;
pub mod pairs;
pub mod products;

use super::dropout::Weights;
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val, math};
use block::{
    QUERIES, Rows, Sizes, clear, each_key, of_group, pack_queries, store_queries, widened_floats,
};
use pairs::Pairs;
use products::{add_to_queries, scores};

/// Keys of a chunk, whole groups of queries: their scores by a group fit the first-level cache.
const KEYS: usize = 3 * QUERIES;

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
    let groups = groups(b, s);
    let block = groups * QUERIES;
    let blocks = s.seq.div_ceil(block);
    let (wide_keys, wide_values) = (widened_floats(s, KEYS, key), widened_floats(s, KEYS, value));
    let parts = [
        groups * s.packed(),
        s.chunk(KEYS, QUERIES),
        groups * s.sums(),
        block,
        block,
        QUERIES,
        wide_keys,
        wide_values,
    ];
    let [packed, p, sums, max, sum, rescale, key_room, value_room] = b.places(parts);
    let heads = s.batch * s.heads;
    b.tasks(|b, t| {
        let k = &mut b.k;
        // The last blocks have the most keys, and come first.
        let (n, last) = (k.int(heads as i64), k.int(blocks as i64 - 1));
        let (head, number) = (k.rem(t, n), k.div(t, n));
        let number = k.sub(last, number);
        let q0 = k.scale(number, block);
        let shared = s.shared(k, head);
        let rows = |k: &mut Emit, p, head| {
            let at = k.scale(head, s.seq * s.width);
            Rows { base: k.element(p, at), stride: s.width }
        };
        let (q, key, value) = (rows(k, q, head), rows(k, key, shared), rows(k, value, shared));
        let (zero, all, step) = (k.int(0), k.int(s.seq as i64), k.int(block as i64));
        let q1 = k.add(q0, step);
        let q1 = k.min(q1, all);
        let heads = k.int(s.heads as i64);
        let (batch, h) = (k.div(head, heads), k.rem(head, heads));
        let token = k.scale(batch, s.seq);
        // The packed queries, sums, running statistics and size of the group that begins with query `first`.
        let group = |k: &mut Emit, first: Val| {
            let local = k.sub(first, q0);
            let number = block::group(k, local);
            let packed = of_group(k, number, packed, s.packed());
            let sums = of_group(k, number, sums, s.sums());
            let [max, sum] = [max, sum].map(|p| k.element(p, local));
            let left = k.sub(q1, first);
            let most = k.int(QUERIES as i64);
            let queries = k.min(left, most);
            (packed, sums, State { max, sum, rescale }, queries)
        };

        let low = k.float(f64::NEG_INFINITY, Ty::Vec(s.lanes));
        let none = k.float(0.0, Ty::Vec(s.lanes));
        k.loop_(q0, q1, QUERIES, |k, first| {
            let (packed, sums, state, _) = group(k, first);
            pack_queries(k, s, q, first, packed);
            for j in 0..s.query_vectors() {
                for (p, x) in [(state.max, low), (state.sum, none)] {
                    let p = k.element_at(p, j * s.lanes);
                    k.store(x, p);
                }
            }
            let floats = k.int(s.sums() as i64);
            clear(k, s, sums, floats);
        });
        let p = Rows { base: p, stride: QUERIES };
        k.loop_(zero, q1, KEYS, |k, n| {
            let step = k.int(KEYS as i64);
            let end = k.add(n, step);
            let end = k.min(end, q1);
            let keys = key.widened(k, s, n, end, key_room);
            let values = value.widened(k, s, n, end, value_room);
            let from = k.max(q0, n);
            k.loop_(from, q1, QUERIES, |k, query| {
                let (packed, sums, state, queries) = group(k, query);
                let after = k.add(query, queries);
                let end = k.min(end, after);
                let (count, first) = (k.sub(end, n), k.sub(n, query));
                let drop = drop.map(|w| {
                    let token = k.add(token, query);
                    (w, w.rows(k, token, queries, h, QUERIES, s.lanes))
                });
                scores(k, s, first, count, keys, packed, p, Some(values));
                softmax(k, s, first, count, p, state, |k, r, j, e| match &drop {
                    None => e,
                    Some((weights, rows)) => {
                        let key = k.add(n, r);
                        let factors = weights.factors(k, rows[j], key, s.lanes);
                        k.mul(e, factors)
                    }
                });
                add_to_queries(k, s, first, count, p, values, sums, Some(rescale));
            });
        });
        let row = s.heads * s.width;
        let at = k.scale(token, row);
        let column = k.scale(h, s.width);
        let at = k.add(at, column);
        let out = Rows { base: k.element(out, at), stride: row };
        k.loop_(q0, q1, QUERIES, |k, first| {
            let (_, sums, State { max, sum, .. }, queries) = group(k, first);
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
                let at = k.scale(head, s.seq);
                let at = k.add(at, first);
                let lse = k.element(lse, at);
                log_sum(k, s.lanes, s.query_vectors(), (max, sum), lse, queries);
            }
        });
        Ok(())
    })?;
    Ok(Shape { tasks: heads * blocks, scratch_floats: parts.iter().sum(), tiles: false })
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

/// Scores of a chunk to weights, `2^(scale·(score - max))` as `change` has them, in place. What is dropped counts in
/// the sum.
fn softmax(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    count: Val,
    p: Rows,
    state: State,
    change: impl Fn(&mut Emit, Val, usize, Val) -> Val,
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
