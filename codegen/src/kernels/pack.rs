//! Packing of a matrix into panels, transposing in registers where the source needs it.
//!
//! A panel is `[k][width]`: for each step of the contraction the `width` elements that a register
//! tile needs, contiguous. Rows beyond the matrix repeat its last row; they only feed results that
//! are never stored.

use crate::emit::{Emit, Ty, Val};

/// A matrix operand: element (r, k) is at `base + r·row + k·step`.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// First element.
    pub base: Val,
    /// Stride of the row (m or n) index.
    pub row: usize,
    /// Stride of the contraction index.
    pub step: usize,
    /// Number of rows.
    pub rows: usize,
}

/// Packs rows `first .. first + width` and contraction steps `k0 .. k0 + depth` (depth known) to
/// `panel`. `width` is at most `lanes` times a whole number; each stored vector is whole, so
/// `panel` needs `lanes` floats of slack at its end, and panels are written in rising order.
pub fn panel(
    k: &mut Emit,
    s: Source,
    first: Val,
    width: usize,
    k0: Val,
    depth: usize,
    panel: Val,
    lanes: usize,
) {
    for part in (0..width).step_by(lanes) {
        let offset = k.int(part as i64);
        let first = k.add(first, offset);
        let dst = k.element_at(panel, part);
        if s.row == 1 {
            contiguous(k, s, first, (width - part).min(lanes), k0, depth, dst, width, lanes);
        } else {
            transposed(k, s, first, (width - part).min(lanes), k0, depth, dst, width, lanes);
        }
    }
}

/// The source is contiguous along rows: one vector per step.
#[allow(clippy::too_many_arguments)] // a kernel's whole addressing
fn contiguous(
    k: &mut Emit,
    s: Source,
    first: Val,
    count: usize,
    k0: Val,
    depth: usize,
    dst: Val,
    width: usize,
    lanes: usize,
) {
    let ids = k.lane_ids(lanes);
    let (all, most) = (k.int(s.rows as i64), k.int(count as i64));
    let left = k.sub(all, first);
    let left = k.min(left, most);
    let left = k.narrow(left);
    let left = k.splat(left, lanes);
    let mask = k.cmp("slt", ids, left);
    k.count(depth, |k, p| {
        let at = k.add(k0, p);
        let at = k.scale(at, s.step);
        let at = k.add(at, first);
        let from = k.element(s.base, at);
        let v = k.load_masked(from, mask);
        let to = k.scale(p, width);
        let to = k.element(dst, to);
        k.store(v, to);
    });
}

/// The source is contiguous along the contraction (or along nothing): `lanes` rows are loaded and
/// transposed in registers.
#[allow(clippy::too_many_arguments)] // a kernel's whole addressing
fn transposed(
    k: &mut Emit,
    s: Source,
    first: Val,
    count: usize,
    k0: Val,
    depth: usize,
    dst: Val,
    width: usize,
    lanes: usize,
) {
    let last = k.int(s.rows as i64 - 1);
    let rows: Vec<Val> = (0..count)
        .map(|r| {
            let r = k.int(r as i64);
            let row = k.add(first, r);
            let row = k.min(row, last);
            let at = k.scale(row, s.row);
            k.element(s.base, at)
        })
        .collect();
    let block = |k: &mut Emit, p: Val, steps: usize| {
        let at = k.add(k0, p);
        let at = k.scale(at, s.step);
        let mut v: Vec<Val> = (0..lanes)
            .map(|r| {
                let from = k.element(rows[r.min(count - 1)], at);
                if s.step == 1 {
                    if steps == lanes {
                        k.load(Ty::Vec(lanes), from)
                    } else {
                        let mask = k.mask(steps, lanes);
                        k.load_masked(from, mask)
                    }
                } else {
                    strided(k, from, s.step, steps, lanes)
                }
            })
            .collect();
        transpose(k, &mut v, lanes);
        let to = k.scale(p, width);
        let to = k.element(dst, to);
        for (i, v) in v.into_iter().take(steps).enumerate() {
            let to = k.element_at(to, i * width);
            k.store(v, to);
        }
    };
    let whole = depth / lanes * lanes;
    let (lo, hi) = (k.int(0), k.int(whole as i64));
    if whole > 0 {
        k.loop_(lo, hi, lanes, |k, p| block(k, p, lanes));
    }
    if whole < depth {
        block(k, hi, depth - whole);
    }
}

/// `steps` elements `stride` apart, one by one: layouts that are contiguous along nothing are rare.
fn strided(k: &mut Emit, from: Val, stride: usize, steps: usize, lanes: usize) -> Val {
    let mut v = k.float(0.0, Ty::Vec(lanes));
    let t = k.ty(Ty::Vec(lanes));
    for i in 0..steps {
        let p = k.element_at(from, i * stride);
        let x = k.load(Ty::F32, p);
        v = k.def(Ty::Vec(lanes), &format!("vector.insert {x}, {v}[{i}] : f32 into {t}"));
    }
    v
}

/// Transposes `lanes` vectors of `lanes` elements: log₂ rounds of perfect shuffles.
fn transpose(k: &mut Emit, v: &mut Vec<Val>, lanes: usize) {
    let t = k.ty(Ty::Vec(lanes));
    let pattern = |start: usize| -> String {
        let items: Vec<String> = (0..lanes / 2)
            .flat_map(|i| [(start + i).to_string(), (start + i + lanes).to_string()])
            .collect();
        items.join(", ")
    };
    let (low, high) = (pattern(0), pattern(lanes / 2));
    for _ in 0..lanes.ilog2() {
        let mut next = vec![];
        for i in 0..lanes / 2 {
            let (a, b) = (v[i], v[i + lanes / 2]);
            for p in [&low, &high] {
                next.push(
                    k.def(Ty::Vec(lanes), &format!("vector.shuffle {a}, {b} [{p}] : {t}, {t}")),
                );
            }
        }
        *v = next;
    }
}
