//! Attention forward by pairs: a task is a block of queries of one head, which goes in groups through chunks of keys.
//!
//! Values are packed along the sequence. They wait in scratch for the other heads of queries that share them, and for the
//! next block, which packs only its own; the first task of a call packs all that it sees.

use super::{Lines, Pairs, QUERIES, SIDE, VECTORS, each_key, named, sees};
use crate::CodegenError;
use crate::emit::{Emit, TILE, Ty, Val, math};
use crate::kernels::attention::block::{Rows, Sizes};
use crate::kernels::attention::{larger, log_sum};
use crate::kernels::dropout::{Row, Weights};
use crate::kernels::{Body, Shape};
use crate::x86::Bf16;

/// Keys of a chunk, whole blocks of queries: their scores by a group of queries fit the first-level cache.
const KEYS: usize = 2 * QUERIES;
/// A vector of f32.
const V: Ty = Ty::Vec(TILE);

/// What a task is: a block of queries of one of the heads that share a head of keys and values. Those come one after the
/// other, then the next block.
struct Task {
    shared: Val,
    number: Val,
    /// None where heads share nothing.
    member: Option<Val>,
}

impl Task {
    /// Task `t` of heads with `blocks` blocks.
    fn of(k: &mut Emit, s: Sizes, t: Val, blocks: Val) -> Task {
        let (at, member) = match s.sharing {
            1 => (t, None),
            sharing => {
                let sharing = k.int(sharing as i64);
                (k.div(t, sharing), Some(k.rem(t, sharing)))
            }
        };
        Task { shared: k.div(at, blocks), number: k.rem(at, blocks), member }
    }
}

/// Emits the kernel of q, k and v at `[q, key, value]`, with the output and the log-sum-exp at `out` and `lse`.
pub fn emit(
    b: &mut Body<'_>,
    at: Pairs,
    [q, key, value]: [Val; 3],
    (out, lse): (Val, Option<Val>),
    drop: Option<Weights>,
) -> Result<Shape, CodegenError> {
    let s = at.s;
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
    let [config, key_room, value_room, query_room, packed_values, packed, scores, sums, max, sum] =
        b.places(parts);
    if at.unit == Bf16::Tiles {
        b.k.tile_config(config);
    }
    let blocks = rows.div_ceil(QUERIES);
    let begin = b.begin;
    b.tasks(|b, t| {
        let k = &mut b.k;
        let n = k.int(blocks as i64);
        let Task { shared, number, member } = Task::of(k, s, t, n);
        let head = match member {
            None => shared,
            Some(member) => {
                let first = k.scale(shared, s.sharing);
                k.add(first, member)
            }
        };
        let q0 = k.scale(number, QUERIES);
        let (zero, all, step) = (k.int(0), k.int(rows as i64), k.int(QUERIES as i64));
        let q1 = k.add(q0, step);
        let q1 = k.min(q1, all);
        let rows = |k: &mut Emit, p, head| {
            let place = k.scale(head, s.seq * s.width);
            Rows { base: k.element(p, place), stride: s.width }
        };
        let (q, key, value) = (rows(k, q, head), rows(k, key, shared), rows(k, value, shared));
        let heads = k.int(s.heads as i64);
        let (batch, h) = (k.div(head, heads), k.rem(head, heads));
        let token = k.scale(batch, s.seq);

        let first = k.cmp("eq", t, begin);
        let new = match member {
            None => k.select(first, zero, q0),
            // The first of those that share the keys has packed this block's.
            Some(member) => {
                let here = k.cmp("eq", member, zero);
                let new = k.select(here, q0, q1);
                k.select(first, zero, new)
            }
        };
        at.copy(k, key, (new, q1), key_room, new);
        at.copy(k, value, (new, q1), value_room, new);
        let keys = at.plain(k, key, key_room);
        let values = at.plain(k, value, value_room).from(k, new);
        let count = k.sub(q1, new);
        let to = k.scale(new, wide / 2);
        let to = k.element(packed_values, to);
        let values = at.across_tokens(k, values, count, to);
        let values = super::Left { base: packed_values, ..values };

        at.copy(k, q, (q0, q1), query_room, zero);
        let queries = k.sub(q1, q0);
        let from = at.plain(k, q, query_room);
        let from = if at.whole() { from.from(k, q0) } else { from };
        let packed = Lines { base: packed, row: QUERIES };
        at.along_width(k, from, queries, packed);
        let (none, low) = (k.float(0.0, V), k.float(f64::NEG_INFINITY, V));
        for j in 0..QUERIES / TILE {
            for (p, x) in [(max, low), (sum, none)] {
                let p = k.element_at(p, j * TILE);
                k.store(x, p);
            }
        }
        k.count(QUERIES * wide / TILE, |k, i| {
            let i = k.scale(i, TILE);
            let p = k.element(sums, i);
            k.store(none, p);
        });
        let group = |k: &mut Emit, query: Val| {
            let offset = k.sub(query, q0);
            let at = k.scale(offset, wide);
            let sums = Lines { base: k.element(sums, at), row: SIDE };
            let [max, sum] = [max, sum].map(|p| k.element(p, offset));
            (offset, sums, max, sum)
        };
        k.loop_(zero, q1, KEYS, |k, n| {
            let (keys, values) = (keys.from(k, n), values.steps_from(k, n));
            k.loop_(q0, q1, SIDE, |k, query| {
                let (offset, sums, max, sum) = group(k, query);
                let diagonal = k.sub(query, n);
                let (side, most) = (k.int(SIDE as i64), k.int(KEYS as i64));
                let end = k.add(diagonal, side);
                let end = k.min(end, most);
                let lines = packed.columns(k, offset);
                let to = Lines { base: scores, row: SIDE };
                at.product(k, (end, SIDE), |k, _| at.across(k), keys, lines, to, true);
                let drop = drop.map(|w| {
                    let first = k.add(token, query);
                    let all = k.int(s.seq as i64);
                    let left = k.sub(all, query);
                    Drop { weights: w, rows: w.rows(k, first, left, h, SIDE, TILE), keys: n }
                });
                let rescale = softmax(k, at, (diagonal, end), scores, (max, sum), drop);
                k.count(wide, |k, i| {
                    let line = sums.at(k, i);
                    for (j, factor) in rescale.iter().enumerate() {
                        let p = k.element_at(line.base, j * TILE);
                        let x = k.load(V, p);
                        let x = k.mul(x, *factor);
                        k.store(x, p);
                    }
                });
                let rows = k.int(wide as i64);
                let steps = k.div(end, side);
                let weights = Lines { base: scores, row: 2 * SIDE };
                at.product(k, (rows, SIDE), |_, _| (zero, steps), values, weights, sums, false);
            });
        });
        let row = s.heads * s.width;
        let from = k.scale(token, row);
        let column = k.scale(h, s.width);
        let from = k.add(from, column);
        let out = Rows { base: k.element(out, from), stride: row };
        let from = k.scale(head, s.seq);
        let lse = lse.map(|p| k.element(p, from));
        k.loop_(q0, q1, SIDE, |k, query| {
            let (_, sums, max, sum) = group(k, query);
            let one = k.float(1.0, V);
            let inverse = [0, 1].map(|j| {
                let p = k.element_at(sum, j * TILE);
                let sum = k.load(V, p);
                k.div(one, sum)
            });
            at.store_columns(k, sums.base, inverse, out, query);
            if let Some(lse) = lse {
                let all = k.int(s.seq as i64);
                let (to, left) = (k.element(lse, query), k.sub(all, query));
                log_sum(k, TILE, VECTORS, (max, sum), to, left);
            }
        });
        Ok(())
    })?;
    let tiles = at.unit == Bf16::Tiles;
    if tiles {
        b.k.tile_release();
    }
    Ok(Shape { tasks: s.batch * s.heads * blocks, scratch_floats: parts.iter().sum(), tiles })
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
    let top = each_key(k, range, 4, &[low; VECTORS], |k, r, masked, acc| {
        let mut out = vec![];
        for (j, top) in acc.iter().enumerate() {
            let mut four = vec![];
            for i in 0..4 {
                let p = place(k, r, i, j);
                let mut x = k.load(V, p);
                if masked {
                    let i = k.int(i as i64);
                    let r = k.add(r, i);
                    let keep = sees(k, diagonal, r, j);
                    x = k.select(keep, x, low);
                }
                four.push(x);
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
    let total = each_key(k, range, 2, &[none; VECTORS], |k, r, masked, acc| {
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
                if masked {
                    let keep = sees(k, diagonal, r, j);
                    e = k.select(keep, e, none);
                }
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
