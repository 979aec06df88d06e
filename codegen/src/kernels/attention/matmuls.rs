//! The matmuls of attention in f32, on register tiles.
//!
//! Where a group of queries is the columns, vectors that lie before all keys of a tile are left out: the tile gets
//! narrower along the diagonal, and no sum gains a term by it.

use super::block::{QUERIES, Rows, Sizes, load_wide, store_wide};
use crate::emit::{Emit, LINE, Ty, Val};

/// Vectors of queries across a register tile.
const TILE_VECTORS: usize = 3;

/// For each vector of a tile's columns from query `column` on: the row of the chunk from which on it sees no key.
/// `first` is the first row's key less the group's first query.
fn limits(k: &mut Emit, s: Sizes, first: Val, count: Val, column: Val) -> Vec<Val> {
    let zero = k.int(0);
    let ahead = k.sub(column, first);
    (1..=TILE_VECTORS)
        .map(|j| {
            let end = k.int((j * s.lanes) as i64);
            let end = k.add(ahead, end);
            let end = k.min(end, count);
            k.max(end, zero)
        })
        .collect()
}

/// `to[key][query] = row_key · query` for `count` rows of keys and the group that is `packed`; `first` is the first
/// row's key less the group's first query. Meanwhile the next rows come into the first-level cache, and as many of
/// `soon` into the second.
#[allow(clippy::too_many_arguments)] // a matmul has that many parts
pub fn scores(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    count: Val,
    rows: Rows,
    packed: Val,
    to: Rows,
    soon: Option<Rows>,
) {
    let (zero, one, depth) = (k.int(0), k.int(1), k.int(s.width as i64));
    let tile = s.tile_rows();
    let last = k.sub(count, one);
    let all = k.int(QUERIES as i64);
    // Steps that read a line of every row: so many lines are asked for.
    let steps = (LINE / tile).min(s.width);
    let steps = if s.width.is_multiple_of(steps) { steps } else { 1 };
    k.loop_(zero, all, TILE_VECTORS * s.lanes, |k, column| {
        let mut from = zero;
        for (left_out, limit) in limits(k, s, first, count, column).into_iter().enumerate() {
            let vectors = TILE_VECTORS - left_out;
            let start = k.int((left_out * s.lanes) as i64);
            let column = k.add(column, start);
            let columns = k.element(packed, column);
            k.loop_(from, limit, tile, |k, r| {
                let keys: Vec<Val> = (0..tile)
                    .map(|i| {
                        let i = k.int(i as i64);
                        let mut row = k.add(r, i);
                        if !s.whole(tile) {
                            row = k.min(row, last);
                        }
                        rows.at(k, row)
                    })
                    .collect();
                let height = k.int(tile as i64);
                let next = k.add(r, height);
                let next = rows.at(k, next);
                let soon = soon.map(|rows| rows.at(k, r));
                let out = to.at(k, r);
                let out = k.element(out, column);
                let init = vec![k.float(0.0, Ty::Vec(s.lanes)); tile * vectors];
                let acc = matmul(
                    k,
                    (tile, vectors, s.lanes),
                    (zero, depth, steps),
                    &init,
                    |k, p| {
                        let at = k.scale(p, tile);
                        let next = k.element(next, at);
                        k.prefetch(next, false);
                        if let Some(soon) = soon {
                            let soon = k.element(soon, at);
                            k.prefetch(soon, true);
                        }
                    },
                    |k, i, p| {
                        let at = k.element(keys[i], p);
                        k.load(Ty::F32, at)
                    },
                    |k, p, j| {
                        let at = k.scale(p, QUERIES);
                        let at = k.element(columns, at);
                        let at = k.element_at(at, j * s.lanes);
                        k.load(Ty::Vec(s.lanes), at)
                    },
                );
                for (x, v) in acc.iter().enumerate() {
                    let (i, j) = (x / vectors, x % vectors);
                    let to = k.element_at(out, i * to.stride + j * s.lanes);
                    k.store(*v, to);
                }
            });
            from = limit;
        }
    });
}

/// `sums[column][query] = factor·sums[column][query] + Σ_key weights[key][query]·rows[key][column]` for a group of
/// queries, over the keys that each vector sees; `factors` has one factor per query.
#[allow(clippy::too_many_arguments)] // a matmul has that many parts
pub fn add_to_queries(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    count: Val,
    weights: Rows,
    rows: Rows,
    sums: Val,
    factors: Option<Val>,
) {
    let (zero, all, width) = (k.int(0), k.int(QUERIES as i64), k.int(s.width as i64));
    let (tile, ty) = (s.tile_rows(), Ty::Vec(s.lanes));
    k.loop_(zero, all, TILE_VECTORS * s.lanes, |k, column| {
        let limits = limits(k, s, first, count, column);
        let weights = Rows { base: k.element(weights.base, column), ..weights };
        let sums = k.element(sums, column);
        let factors: Option<Vec<Val>> = factors.map(|p| {
            let p = k.element(p, column);
            let load = |j| {
                let p = k.element_at(p, j * s.lanes);
                k.load(ty, p)
            };
            (0..TILE_VECTORS).map(load).collect()
        });
        k.loop_(zero, width, tile, |k, c| {
            let at = k.scale(c, QUERIES);
            let sums = k.element(sums, at);
            let place =
                |k: &mut Emit, i: usize, j: usize| k.element_at(sums, i * QUERIES + j * s.lanes);
            let columns: Vec<Val> = (0..tile)
                .map(|i| {
                    let i = k.int(i as i64);
                    let mut c = k.add(c, i);
                    if !s.width.is_multiple_of(tile) {
                        let last = k.int(s.width as i64 - 1);
                        c = k.min(c, last);
                    }
                    k.element(rows.base, c)
                })
                .collect();
            let mut acc = vec![];
            for i in 0..tile {
                for j in 0..TILE_VECTORS {
                    let p = place(k, i, j);
                    let x = k.load(ty, p);
                    acc.push(factors.as_ref().map_or(x, |f| k.mul(x, f[j])));
                }
            }
            let mut from = zero;
            for (left_out, limit) in limits.iter().enumerate() {
                let vectors = TILE_VECTORS - left_out;
                let taken: Vec<usize> =
                    (0..acc.len()).filter(|x| x % TILE_VECTORS >= left_out).collect();
                let init: Vec<Val> = taken.iter().map(|x| acc[*x]).collect();
                let sums = matmul(
                    k,
                    (tile, vectors, s.lanes),
                    (from, *limit, 1),
                    &init,
                    |_, _| (),
                    |k, i, p| {
                        let at = k.scale(p, rows.stride);
                        let at = k.element(columns[i], at);
                        k.load(Ty::F32, at)
                    },
                    |k, p, j| {
                        let row = weights.at(k, p);
                        let at = k.element_at(row, (left_out + j) * s.lanes);
                        k.load(ty, at)
                    },
                );
                taken.into_iter().zip(sums).for_each(|(x, sum)| acc[x] = sum);
                from = *limit;
            }
            for (x, sum) in acc.into_iter().enumerate() {
                let p = place(k, x / TILE_VECTORS, x % TILE_VECTORS);
                k.store(sum, p);
            }
        });
    });
}

/// `target[key] += Σ_query weights[key][query]·source[query]` for a chunk's `count` keys, over those of `queries`
/// queries that see any of a tile's; `first` is the chunk's first key less the first query.
pub fn add_to_keys(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    (queries, count): (Val, Val),
    weights: Rows,
    source: Rows,
    target: Rows,
) {
    let (zero, one) = (k.int(0), k.int(1));
    for (part, tile) in s.stretches() {
        k.loop_(zero, count, tile, |k, r| {
            let from = k.add(first, r);
            let from = k.max(from, zero);
            let from = k.min(from, queries);
            let row = weights.at(k, r);
            let to = match s.window {
                None => queries,
                Some(window) => {
                    let height = k.int(tile as i64);
                    let end = k.add(r, height);
                    let end = k.min(end, count);
                    let end = k.add(first, end);
                    let window = k.int(window as i64);
                    let end = k.add(end, window);
                    k.min(end, queries)
                }
            };
            // Rows beyond the last repeat it, and are not stored.
            let last = k.sub(count, one);
            let ragged = !s.whole(tile);
            let rows: Vec<(Val, Val)> = (0..tile)
                .map(|i| {
                    let i = k.int(i as i64);
                    let row = k.add(r, i);
                    let inside = k.cmp("slt", row, count);
                    let row = if ragged { k.min(row, last) } else { row };
                    (inside, target.at(k, row))
                })
                .collect();
            let mut init = vec![];
            for (_, row) in &rows {
                for v in part.clone() {
                    init.push(load_wide(k, s, *row, v));
                }
            }
            let acc = matmul(
                k,
                (tile, part.len(), s.lanes),
                (from, to, 1),
                &init,
                |_, _| (),
                |k, i, p| {
                    let at = k.element(row, p);
                    let at = k.element_at(at, i * weights.stride);
                    k.load(Ty::F32, at)
                },
                |k, p, v| {
                    let row = source.at(k, p);
                    load_wide(k, s, row, part.start + v)
                },
            );
            for (i, (inside, row)) in rows.into_iter().enumerate() {
                let store = |k: &mut Emit| {
                    for (v, j) in part.clone().enumerate() {
                        store_wide(k, s, acc[i * part.len() + v], row, j);
                    }
                };
                if ragged { k.if_(inside, store) } else { store(k) }
            }
        });
    }
}

/// `rows × vectors` tile of a matmul: `Σ_p a(row, p)·b(p, vector)` on top of `init`, for p in `from .. to`. So many
/// `steps`, of which the range is a multiple, are one iteration of the loop, and `each` comes once in it.
fn matmul(
    k: &mut Emit,
    (rows, vectors, lanes): (usize, usize, usize),
    (from, to, steps): (Val, Val, usize),
    init: &[Val],
    each: impl Fn(&mut Emit, Val),
    a: impl Fn(&mut Emit, usize, Val) -> Val,
    b: impl Fn(&mut Emit, Val, usize) -> Val,
) -> Vec<Val> {
    let by = k.int(steps as i64);
    k.for_(from, to, by, init, |k, p, acc| {
        each(k, p);
        let mut sums = acc.to_vec();
        for step in 0..steps {
            let step = k.int(step as i64);
            let p = k.add(p, step);
            let bs: Vec<Val> = (0..vectors).map(|j| b(k, p, j)).collect();
            for i in 0..rows {
                let x = a(k, i, p);
                let x = k.splat(x, lanes);
                for (j, bv) in bs.iter().enumerate() {
                    let sum = &mut sums[i * vectors + j];
                    *sum = k.fma(x, *bv, *sum);
                }
            }
        }
        sums
    })
}
