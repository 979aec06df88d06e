//! Gradient of attention by pairs: a task is one head of keys and values, or has some of its keys. A panel of keys stays in
//! cache, with its gradients, while all queries that see it pass, block by block; each block meets the panel's keys chunk
//! by chunk. Heads of queries that share the keys come one after the other, and gradients of keys and values wait in
//! scratch from one to the next.
//!
//! Queries and gradients of outputs are packed once, both along head_dim and along the sequence. Gradients of queries
//! grow in scratch, in f32, over the panels; the order of every sum is that of keys or queries.

use super::weights::{Room, weigh};
use super::{Left, Lines, Pairs, QUERIES, SIDE};
use crate::CodegenError;
use crate::emit::{Emit, TILE, Ty, Val};
use crate::kernels::attention::block::{Rows, load_wide, store_wide};
use crate::kernels::attention::head::Head;
use crate::kernels::attention_grad::deltas;
use crate::kernels::dropout::Weights;
use crate::kernels::{Body, Shape};
use crate::x86::Bf16;

/// Keys of a chunk: matmuls of its weights run over whole blocks in both directions.
const KEYS: usize = QUERIES;
/// A vector of f32.
const V: Ty = Ty::Vec(TILE);

/// Keys of a panel: what is kept of each fits half the second-level cache.
fn panel(at: Pairs, l2: usize) -> usize {
    // Keys, values and transposed keys as bfloat16, two gradients as f32.
    let each = 14 * at.wide();
    let most = (l2 / 2 / each / KEYS).max(1) * KEYS;
    most.min(at.s.runs.keys.next_multiple_of(KEYS))
}

/// Emits the kernel of `inputs` q, k, v, out, lse and dout, and `results` dq, dk and dv.
pub fn emit(
    b: &mut Body<'_>,
    at: Pairs,
    inputs: [Val; 6],
    results: [Val; 3],
    drop: Option<Weights>,
) -> Result<Shape, CodegenError> {
    let s = at.s;
    let (rows, wide, panel) = (at.rows(), at.wide(), panel(at, b.cpu.l2));
    // Blocks are whole in scratch; those of queries behind the last are zeros.
    let tokens = rows.next_multiple_of(QUERIES);
    // Keys and values whose gradients are kept: a panel's, or all that the heads of queries come back to.
    let kept = if s.members == 1 { panel } else { tokens + panel };
    let parts = [
        TILE,
        at.copied(rows),
        at.copied(rows),
        at.copied(QUERIES),
        at.words(tokens),
        at.words(tokens),
        at.words(tokens),
        at.words(tokens),
        tokens * wide,
        tokens,
        tokens,
        at.words(panel),
        kept * wide,
        kept * wide,
        KEYS * SIDE,
        KEYS * SIDE,
        KEYS * QUERIES / 2,
        KEYS * QUERIES / 2,
        KEYS * QUERIES / 2,
    ];
    let [
        config,
        key_room,
        value_room,
        query_room,
        q_width,
        q_tokens,
        d_width,
        d_tokens,
        dq_sums,
        delta,
        minus_lse,
        packed_keys,
        dk_sums,
        dv_sums,
        p,
        dp,
        weights,
        ds,
        ds_lines,
    ] = b.places(parts);
    let room = Room { p, dp, weights, ds, ds_lines };
    if at.unit == Bf16::Tiles {
        b.k.tile_config(config);
    }
    b.tasks(|b, task| {
        let k = &mut b.k;
        let head = Head::of(k, s, task, inputs, results);
        let ([key, value], [dk, dv]) = (head.inputs, head.results);

        let (zero, seq, all) = (k.int(0), k.int(s.seq as i64), k.int(rows as i64));
        // Runs are whole blocks, but for the last, which has zeros behind it.
        let rows_to = |k: &mut Emit, end: Val| {
            let (side, less) = (k.int(SIDE as i64), k.int(SIDE as i64 - 1));
            let end = k.add(end, less);
            let groups = k.div(end, side);
            k.scale(groups, SIDE)
        };
        head.each_run(k, s, |k, first, end| {
            let end = rows_to(k, end);
            at.copy(k, key, (first, end), key_room, first);
            at.copy(k, value, (first, end), value_room, first);
        });
        let keys = at.plain(k, key, key_room);
        let values = at.plain(k, value, value_room);
        head.each_queries(k, s, |k, shared| {
            let (q, [out, dout], dq) = (shared.rows, shared.outputs, shared.result);
            let (lse, token, h) = (shared.lse, shared.token, shared.number);
            clear(k, delta, tokens);
            deltas(k, s, seq, out, dout, delta);
            let minus_log2 = k.float(-std::f64::consts::LOG2_E, V);
            k.loop_(zero, all, TILE, |k, i| {
                let left = k.sub(seq, i);
                let mask = k.first_lanes(TILE, 0, left);
                let from = k.element(lse, i);
                let x = k.load_masked(from, mask);
                let x = k.mul(x, minus_log2);
                let to = k.element(minus_lse, i);
                k.store(x, to);
            });
            clear(k, dq_sums, tokens * wide);
            // Where block `first` of a packed operand starts.
            let block = |k: &mut Emit, p: Val, first: Val| {
                let at = k.scale(first, wide / 2);
                k.element(p, at)
            };
            for (rows, width, tokens) in [(q, q_width, q_tokens), (dout, d_width, d_tokens)] {
                k.loop_(head.first, all, QUERIES, |k, q0| {
                    let step = k.int(QUERIES as i64);
                    let q1 = k.add(q0, step);
                    let q1 = k.min(q1, all);
                    let count = k.sub(q1, q0);
                    at.copy(k, rows, (q0, q1), query_room, zero);
                    let from = at.plain(k, rows, query_room);
                    let from = if at.whole() { from.from(k, q0) } else { from };
                    let lines = Lines { base: block(k, width, q0), row: QUERIES };
                    at.along_width(k, from, count, lines);
                    let lines = block(k, tokens, q0);
                    at.along_tokens(k, from, count, lines);
                });
            }

            head.each_run(k, s, |k, first, end| {
                let end = rows_to(k, end);
                k.loop_(first, end, panel, |k, n0| {
                    let step = k.int(panel as i64);
                    let n1 = k.add(n0, step);
                    let n1 = k.min(n1, end);
                    let count = k.sub(n1, n0);
                    let of_panel = keys.from(k, n0);
                    let across_keys = at.across_tokens(k, of_panel, count, packed_keys);
                    // Those of the panel's keys.
                    let [dk_sums, dv_sums] = [dk_sums, dv_sums].map(|p| match s.members {
                        1 => p,
                        _ => {
                            let at = k.scale(n0, wide);
                            k.element(p, at)
                        }
                    });
                    shared.if_first(k, s, |k| {
                        clear(k, dk_sums, panel * wide);
                        clear(k, dv_sums, panel * wide);
                    });
                    // From the block of the panel's first key on: panels are whole blocks.
                    k.loop_(n0, all, QUERIES, |k, q0| {
                        let step = k.int(QUERIES as i64);
                        let q1 = k.add(q0, step);
                        let q1 = k.min(q1, all);
                        let seen = k.min(n1, q1);
                        let [q_width, q_tokens, d_width, d_tokens] =
                            [q_width, q_tokens, d_width, d_tokens].map(|p| block(k, p, q0));
                        k.loop_(n0, seen, KEYS, |k, n| {
                            let (keys, values) = (keys.from(k, n), values.from(k, n));
                            let local = k.sub(n, n0);
                            let across_keys = across_keys.steps_from(k, local);
                            k.loop_(q0, q1, SIDE, |k, query| {
                                let diagonal = k.sub(query, n);
                                let (side, most) = (k.int(SIDE as i64), k.int(KEYS as i64));
                                let end = k.add(diagonal, side);
                                let end = k.min(end, most);
                                let offset = k.sub(query, q0);
                                let pairs = [(keys, q_width, room.p), (values, d_width, room.dp)];
                                for (rows, lines, to) in pairs {
                                    let lines =
                                        Lines { base: lines, row: QUERIES }.columns(k, offset);
                                    let to = Lines { base: to, row: SIDE };
                                    at.product(
                                        k,
                                        (end, SIDE),
                                        |k, _| at.across(k),
                                        rows,
                                        lines,
                                        to,
                                        true,
                                    );
                                }
                                let known = [minus_lse, delta].map(|p| {
                                    let p = k.element(p, query);
                                    [0, 1].map(|j| {
                                        let p = k.element_at(p, j * TILE);
                                        k.load(V, p)
                                    })
                                });
                                let drop = drop.map(|w| {
                                    let first = k.add(token, query);
                                    let left = k.sub(seq, query);
                                    (w, w.rows(k, first, left, h, SIDE, TILE), n)
                                });
                                weigh(k, s, (diagonal, end), offset, room, known, drop);
                                let (rows, steps) = (k.int(wide as i64), k.div(end, side));
                                let lines =
                                    Lines { base: room.ds_lines, row: QUERIES }.columns(k, offset);
                                let to = k.scale(query, wide);
                                let to = Lines { base: k.element(dq_sums, to), row: SIDE };
                                let steps = |_: &mut Emit, _: Val| (zero, steps);
                                at.product(k, (rows, SIDE), steps, across_keys, lines, to, false);
                            });
                            let side = k.int(SIDE as i64);
                            let most = k.int(KEYS as i64);
                            let count = k.sub(q1, n);
                            let count = k.min(count, most);
                            let groups = k.sub(q1, q0);
                            let groups = k.div(groups, side);
                            // From the group of queries on that sees a tile's first key.
                            let ahead = k.sub(n, q0);
                            let steps = |k: &mut Emit, r: Val| {
                                let first = k.add(ahead, r);
                                let first = k.max(first, zero);
                                (k.div(first, side), groups)
                            };
                            let local = k.scale(local, wide);
                            let sums =
                                [(room.weights, d_tokens, dv_sums), (room.ds, q_tokens, dk_sums)];
                            for (left, lines, to) in sums {
                                let left = Left { base: left, row: QUERIES / 2, step: TILE };
                                let lines = Lines { base: lines, row: wide };
                                let to = Lines { base: k.element(to, local), row: wide };
                                at.product(k, (count, wide), steps, left, lines, to, false);
                            }
                        });
                    });
                    shared.if_last(k, s, |k| {
                        let last = k.min(n1, seq);
                        let count = k.sub(last, n0);
                        let (unit, scale) = (k.float(1.0, V), k.float(s.scale, V));
                        for (from, to, factor) in [(dk_sums, dk, scale), (dv_sums, dv, unit)] {
                            let to = to.from(k, n0);
                            k.loop_(zero, count, 1, |k, r| {
                                let from = Rows { base: from, stride: wide }.at(k, r);
                                let to = to.at(k, r);
                                for j in 0..s.vectors() {
                                    let v = load_wide(k, s, from, j);
                                    let v = k.mul(v, factor);
                                    store_wide(k, s, v, to, j);
                                }
                            });
                        }
                    });
                });
            });
            let scale = k.float(s.scale, V);
            k.loop_(zero, all, SIDE, |k, query| {
                let from = k.scale(query, wide);
                let sums = k.element(dq_sums, from);
                at.store_columns(k, sums, [scale; 2], dq, query);
            });
        });
        Ok(())
    })?;
    let tiles = at.unit == Bf16::Tiles;
    if tiles {
        b.k.tile_release();
    }
    Ok(Shape { tasks: s.gradient_tasks(), scratch_floats: parts.iter().sum(), tiles })
}

/// Zeros to `count` floats, whole vectors.
fn clear(k: &mut Emit, p: Val, count: usize) {
    let none = k.float(0.0, V);
    k.count(count / TILE, |k, i| {
        let i = k.scale(i, TILE);
        let p = k.element(p, i);
        k.store(none, p);
    });
}
