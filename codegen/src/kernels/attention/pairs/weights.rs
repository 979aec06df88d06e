//! Backward, what becomes of a chunk's scores: weights and gradients of scores as pairs, in the layouts of the next
//! matmuls.

use super::{QUERIES, SIDE, VECTORS, each_key, named};
use crate::emit::{Emit, TILE, Ty, Val, math};
use crate::kernels::attention::block::Sizes;
use crate::kernels::dropout::{Row, Weights};

/// A vector of f32.
const V: Ty = Ty::Vec(TILE);

/// Places in scratch that a chunk's weights go through.
#[derive(Clone, Copy)]
pub struct Room {
    /// Scores and their gradients of one group, [key][SIDE].
    pub p: Val,
    pub dp: Val,
    /// Weights and gradients of scores, [key][pairs of the block's queries].
    pub weights: Val,
    pub ds: Val,
    /// Gradients of scores, [pairs of keys][QUERIES].
    pub ds_lines: Val,
}

impl Room {
    /// The room of a chunk's keys from `ahead` on. What is of one group only stays where it is.
    pub fn from(self, k: &mut Emit, ahead: Val) -> Room {
        let at = k.scale(ahead, QUERIES / 2);
        let [weights, ds] = [self.weights, self.ds].map(|p| k.element(p, at));
        Room { weights, ds, ..self }
    }
}

/// Makes weights and gradients of scores, less the scale, of a group of queries `offset` after the block's first, in
/// the layouts that the next matmuls take; zero where a query does not see a key.
pub fn weigh(
    k: &mut Emit,
    s: Sizes,
    (diagonal, end): (Val, Val),
    offset: Val,
    room: Room,
    [minus_lse, delta]: [[Val; VECTORS]; 2],
    drop: Option<(Weights, Vec<Row>, Val)>,
) {
    let (scale2, none) = (k.float(s.scale2(), V), k.float(0.0, V));
    let two = k.int(2);
    let pairs = k.div(offset, two);
    each_key(k, s, (diagonal, end), 2, &[], |k, r, mask, _| {
        let mut ds: Vec<[Val; VECTORS]> = vec![];
        for i in 0..2 {
            let i = k.int(i as i64);
            let r = k.add(r, i);
            let at = k.scale(r, SIDE);
            let (p, dp) = (k.element(room.p, at), k.element(room.dp, at));
            let each: [(Val, Val); VECTORS] = [0, 1].map(|j| {
                let [x, mut dp] = [p, dp].map(|p| {
                    let p = k.element_at(p, j * TILE);
                    k.load(V, p)
                });
                let x = k.fma(x, scale2, minus_lse[j]);
                let w = math::exp2_negative(k, x);
                let mut left = w;
                if let Some((weights, rows, n)) = &drop {
                    let key = k.add(*n, r);
                    let key = named(k, s, key);
                    let factor = weights.factors(k, rows[j], key, TILE);
                    dp = k.mul(dp, factor);
                    left = k.mul(w, factor);
                }
                let g = k.sub(dp, delta[j]);
                let mut g = k.mul(g, w);
                if let Some(keep) = mask.sees(k, r, j) {
                    left = k.select(keep, left, none);
                    g = k.select(keep, g, none);
                }
                (left, g)
            });
            let at = k.scale(r, QUERIES / 2);
            let at = k.add(at, pairs);
            let along = [(room.weights, each[0].0, each[1].0), (room.ds, each[0].1, each[1].1)];
            for (to, first, second) in along {
                let words = k.pairs_along(first, second);
                let to = k.element(to, at);
                k.store(words, to);
            }
            ds.push(each.map(|e| e.1));
        }
        let at = k.div(r, two);
        let at = k.scale(at, QUERIES);
        let at = k.add(at, offset);
        let line = k.element(room.ds_lines, at);
        for (j, (low, high)) in ds[0].into_iter().zip(ds[1]).enumerate() {
            let words = k.pair(low, high);
            let p = k.element_at(line, j * TILE);
            k.store(words, p);
        }
        vec![]
    });
}
