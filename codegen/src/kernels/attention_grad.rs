//! Causal attention backward: a task is one head of one sequence. Weights are recomputed from the
//! log-sum-exp, block of queries by block of queries, in a fixed order.

use neoxc_ir::DType;

use super::attention::{
    BLOCK, Sizes, TILE, causal_lanes, load_wide, pack_head, product, scores, store_wide,
    wide_groups,
};
use super::dropout::{Row, Weights};
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val, math};

/// A matrix of rows along head_dim: row r is at `base + r·stride`.
#[derive(Clone, Copy)]
struct Rows {
    base: Val,
    stride: usize,
}

impl Rows {
    fn at(self, k: &mut Emit, row: Val) -> Val {
        let at = k.scale(row, self.stride);
        k.element(self.base, at)
    }
}

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let op = b.f.ops.first().ok_or_else(|| b.fail("is empty"))?;
    let s = Sizes::of(b.f, op, b.lanes)?;
    let mut inputs = vec![];
    for o in &op.operands {
        inputs.push(b.param(*o).ok_or_else(|| b.fail("lost an operand"))?);
    }
    let results = [b.result(0), b.result(1), b.result(2)];
    let drop = Weights::of(b, op, 6)?;
    // Sums over blocks of queries grow in the results, or apart where those would round each of them.
    let apart = match b.f.ty(op.results[1]).dtype {
        DType::F32 => 0,
        _ => s.seq * s.width,
    };
    let scratch = b.scratch;
    b.tasks(|b, head| {
        let k = &mut b.k;
        let at = k.scale(head, s.seq * s.width);
        let rows = |k: &mut Emit, p| Rows { base: k.element(p, at), stride: s.width };
        let (q, key, value) = (rows(k, inputs[0]), rows(k, inputs[1]), rows(k, inputs[2]));
        let [dq, dk_out, dv_out] = results.map(|p| rows(k, p));
        let heads = k.int(s.heads as i64);
        let (batch, h) = (k.div(head, heads), k.rem(head, heads));
        let at_out = k.scale(batch, s.seq * s.heads * s.width);
        let column = k.scale(h, s.width);
        let at_out = k.add(at_out, column);
        let wide = |k: &mut Emit, p| Rows { base: k.element(p, at_out), stride: s.heads * s.width };
        let (out, dout) = (wide(k, inputs[3]), wide(k, inputs[5]));
        let at = k.scale(head, s.seq);
        let lse = k.element(inputs[4], at);

        let packed_k = scratch;
        let packed_v = k.element_at(packed_k, s.packed());
        let p = k.element_at(packed_v, s.packed());
        let ds = k.element_at(p, BLOCK * s.row());
        let sums = k.element_at(ds, BLOCK * s.row());
        let [dk, dv] = match apart {
            0 => [dk_out, dv_out],
            n => [0, n].map(|at| Rows { base: k.element_at(sums, at), stride: s.width }),
        };
        let (zero, all) = (k.int(0), k.int(s.seq as i64));
        pack_head(k, s, key.base, all, packed_k);
        pack_head(k, s, value.base, all, packed_v);
        let none = k.float(0.0, Ty::Vec(s.lanes));
        k.loop_(zero, all, 1, |k, r| {
            let (a, b) = (dk.at(k, r), dv.at(k, r));
            for j in 0..s.width.div_ceil(s.lanes) {
                store_wide(k, s, none, a, j);
                store_wide(k, s, none, b, j);
            }
        });
        k.loop_(zero, all, BLOCK, |k, q0| {
            let block = k.int(BLOCK as i64);
            let end = k.add(q0, block);
            let q1 = k.min(end, all);
            scores(k, s, q0, packed_k, p, |k, row| q.at(k, row));
            scores(k, s, q0, packed_v, ds, |k, row| dout.at(k, row));
            k.loop_(q0, end, 1, |k, i| {
                let local = k.sub(i, q0);
                let at = k.scale(local, s.row());
                let (p, ds) = (k.element(p, at), k.element(ds, at));
                let drop = drop.map(|w| {
                    // Rows beyond the sequence have no weights.
                    let top = k.int(s.seq as i64 - 1);
                    let query = k.min(i, top);
                    let token = k.scale(batch, s.seq);
                    let token = k.add(token, query);
                    (w, w.row(k, token, h))
                });
                weights(k, s, i, all, q1, p, ds, lse, out, dout, drop);
            });
            // dv += pᵀ dout, dk += dsᵀ q: contraction over the block's queries.
            k.loop_(zero, q1, TILE, |k, j0| {
                for (weights, source, target) in [(p, dout, dv), (ds, q, dk)] {
                    add_columns(k, s, j0, q0, q1, weights, source, target);
                }
            });
            // dq = ds k: contraction over the keys up to the diagonal.
            k.loop_(q0, q1, TILE, |k, m| {
                let local = k.sub(m, q0);
                let at = k.scale(local, s.row());
                let rows = k.element(ds, at);
                let tile = k.int(TILE as i64);
                let keys = k.add(m, tile);
                let keys = k.min(keys, all);
                for group in wide_groups(s) {
                    let n = group.len();
                    let acc = product(
                        k,
                        TILE,
                        n,
                        s.lanes,
                        zero,
                        keys,
                        &vec![none; TILE * n],
                        |k, i, j| {
                            let at = k.element(rows, j);
                            let at = k.element_at(at, i * s.row());
                            k.load(Ty::F32, at)
                        },
                        |k, j, v| {
                            let row = key.at(k, j);
                            load_wide(k, s, row, group.start + v)
                        },
                    );
                    store_rows(k, s, m, all, dq, group.clone(), &acc);
                }
            });
        });
        if apart > 0 {
            for (from, to) in [(dk, dk_out), (dv, dv_out)] {
                k.loop_(zero, all, 1, |k, r| {
                    let (from, to) = (from.at(k, r), to.at(k, r));
                    for j in 0..s.width.div_ceil(s.lanes) {
                        let v = load_wide(k, s, from, j);
                        store_wide(k, s, v, to, j);
                    }
                });
            }
        }
        Ok(())
    })?;
    Ok(Shape {
        tasks: s.batch * s.heads,
        scratch_floats: 2 * s.packed() + 2 * BLOCK * s.row() + s.lanes + 2 * apart,
        tiles: false,
    })
}

/// Turns a row of scores and of dout·vᵀ into weights p and ds; zero behind the diagonal up to the
/// block's last key, and everywhere in rows beyond the sequence.
#[allow(clippy::too_many_arguments)] // one row's whole surroundings
fn weights(
    k: &mut Emit,
    s: Sizes,
    i: Val,
    all: Val,
    q1: Val,
    p: Val,
    ds: Val,
    lse: Val,
    out: Rows,
    dout: Rows,
    drop: Option<(Weights, Row)>,
) {
    let ty = Ty::Vec(s.lanes);
    let none = k.float(0.0, ty);
    let zero = k.int(0);
    let inside = k.cmp("slt", i, all);
    let minus_one = k.int(-1);
    let last = k.select(inside, i, minus_one);
    let top = k.int(s.seq as i64 - 1);
    let safe = k.min(i, top);
    let (o, d) = (out.at(k, safe), dout.at(k, safe));
    let mut delta = none;
    for j in 0..s.width.div_ceil(s.lanes) {
        let (x, y) = (load_wide(k, s, o, j), load_wide(k, s, d, j));
        delta = k.fma(x, y, delta);
    }
    let delta = k.reduce_add(delta);
    let delta = k.splat(delta, s.lanes);
    let at = k.element(lse, safe);
    let lse = k.load(Ty::F32, at);
    let lse = k.splat(lse, s.lanes);
    let minus = k.neg(lse);
    let scale = k.float(s.scale, ty);
    k.loop_(zero, q1, s.lanes, |k, n| {
        let (pp, pd) = (k.element(p, n), k.element(ds, n));
        let (x, dp) = (k.load(ty, pp), k.load(ty, pd));
        let keep = causal_lanes(k, s, n, last);
        let x = k.fma(x, scale, minus);
        let w = math::exp(k, x);
        let w = k.select(keep, w, none);
        let (dp, left) = match drop {
            None => (dp, w),
            Some((weights, row)) => {
                let factors = weights.factors(k, row, n, keep);
                (k.mul(dp, factors), k.mul(w, factors))
            }
        };
        let g = k.sub(dp, delta);
        let g = k.mul(g, scale);
        let g = k.mul(g, w);
        let g = k.select(keep, g, none);
        k.store(left, pp);
        k.store(g, pd);
    });
}

/// `target[j] += Σ_i weights[i][j]·source[i]` for keys `j0 .. j0 + TILE`.
#[allow(clippy::too_many_arguments)] // a product has that many parts
fn add_columns(
    k: &mut Emit,
    s: Sizes,
    j0: Val,
    q0: Val,
    q1: Val,
    weights: Val,
    source: Rows,
    target: Rows,
) {
    let all = k.int(s.seq as i64);
    // Queries before the first key of the tile have zero weight.
    let block = k.int(BLOCK as i64);
    let zero = k.int(0);
    let skip = k.sub(j0, q0);
    let from = k.max(skip, zero);
    let from = k.min(from, block);
    let to = k.sub(q1, q0);
    for group in wide_groups(s) {
        let n = group.len();
        let mut init = vec![];
        for i in 0..TILE {
            let offset = k.int(i as i64);
            let j = k.add(j0, offset);
            let top = k.int(s.seq as i64 - 1);
            let j = k.min(j, top);
            let row = target.at(k, j);
            for v in group.clone() {
                init.push(load_wide(k, s, row, v));
            }
        }
        let acc = product(
            k,
            TILE,
            n,
            s.lanes,
            from,
            to,
            &init,
            |k, i, p| {
                let at = k.scale(p, s.row());
                let at = k.add(at, j0);
                let at = k.element(weights, at);
                let at = k.element_at(at, i);
                k.load(Ty::F32, at)
            },
            |k, p, v| {
                let row = k.add(q0, p);
                let row = source.at(k, row);
                load_wide(k, s, row, group.start + v)
            },
        );
        store_rows(k, s, j0, all, target, group, &acc);
    }
}

/// Stores a tile of rows, leaving out those beyond the sequence.
fn store_rows(
    k: &mut Emit,
    s: Sizes,
    first: Val,
    all: Val,
    target: Rows,
    group: std::ops::Range<usize>,
    acc: &[Val],
) {
    for i in 0..TILE {
        let offset = k.int(i as i64);
        let row = k.add(first, offset);
        let inside = k.cmp("slt", row, all);
        k.if_(inside, |k| {
            let to = target.at(k, row);
            for (v, j) in group.clone().enumerate() {
                store_wide(k, s, acc[i * group.len() + v], to, j);
            }
        });
    }
}
