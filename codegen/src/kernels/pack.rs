//! Packing of a matrix into panels, transposing in registers where the source needs it.
//!
//! A panel is `[k][width]`: for each step of the contraction the `width` elements that a register
//! tile needs, contiguous. Rows beyond the matrix repeat its last row; they only feed results that
//! are never stored.

use crate::emit::{Emit, LINE, TILE, Ty, Val};

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
    /// Whether panels start at multiples of their width.
    pub aligned: bool,
    /// Whether it holds bfloat16, contiguous along the rows, of which two steps make a step of words.
    pub two_lines: bool,
}

impl Source {
    /// Pointer to the line of step `p`, the first of two.
    fn line(self, k: &mut Emit, p: Val) -> Val {
        let at = k.scale(p, if self.two_lines { 2 * self.step } else { self.step });
        k.element(self.base, at)
    }

    /// Rows `row ..` of a line.
    fn load(self, k: &mut Emit, line: Val, row: Val, lanes: usize, mask: Option<Val>) -> Val {
        let from = k.element(line, row);
        if self.two_lines {
            let next = k.element_at(from, self.step);
            return k.load_pairs(from, next, lanes, mask);
        }
        match mask {
            None => k.load(Ty::Vec(lanes), from),
            Some(mask) => k.load_masked(from, mask),
        }
    }
}

/// How many steps ahead lines are asked for: steps lie pages apart, where no hardware looks ahead.
const PREFETCH_STEPS: usize = 12;

/// Floats from one panel of a packed block to the next: a cache line apart from a round number, so
/// that panels written side by side do not share one cache set.
pub fn panel_stride(width: usize, depth: usize, lanes: usize) -> usize {
    width * depth + lanes
}

/// Packs `panels` panels of `width` rows from row `first` on, [`panel_stride`] apart. A source that is
/// contiguous along its rows is read step by step, whole cache lines at a time. The panels are `depths[1]` steps
/// deep, of which the source has `depths[0]`; the others are zero.
#[allow(clippy::too_many_arguments)] // a kernel's whole addressing
pub fn block(
    k: &mut Emit,
    s: Source,
    first: Val,
    panels: Val,
    width: usize,
    k0: Val,
    [depth, whole]: [usize; 2],
    dst: Val,
    lanes: usize,
) {
    let stride = panel_stride(width, whole, lanes);
    let zero = k.int(0);
    if depth < whole {
        let none = k.float(0.0, Ty::Vec(lanes));
        k.loop_(zero, panels, 1, |k, j| {
            let at = k.scale(j, stride);
            let panel = k.element(dst, at);
            for at in (depth * width..whole * width).step_by(lanes) {
                let to = k.element_at(panel, at);
                k.store(none, to);
            }
        });
    }
    if s.row != 1 {
        k.loop_(zero, panels, 1, |k, j| {
            let row = k.scale(j, width);
            let row = k.add(first, row);
            let at = k.scale(j, stride);
            let to = k.element(dst, at);
            panel(k, s, row, width, k0, depth, to, lanes);
        });
        return;
    }
    // The panel's vectors: where they begin, how many rows they take, and how many they load: half a vector where that
    // is all the panel is wide.
    let vectors: Vec<[usize; 3]> = (0..width)
        .step_by(lanes)
        .map(|part| {
            let count = (width - part).min(lanes);
            [part, count, if count.is_power_of_two() { count } else { lanes }]
        })
        .collect();
    let lines = |k: &mut Emit, masked: bool| {
        k.count(depth, |k, p| {
            let at = k.add(k0, p);
            let line = s.line(k, at);
            let ahead = k.element_at(line, PREFETCH_STEPS * s.step);
            let to = k.scale(p, width);
            let to = k.element(dst, to);
            k.loop_(zero, panels, 1, |k, j| {
                let row = k.scale(j, width);
                let row = k.add(first, row);
                let at = k.scale(j, stride);
                let to = k.element(to, at);
                for part in (0..width).step_by(LINE) {
                    let soon = k.element(ahead, row);
                    let soon = k.element_at(soon, part);
                    k.prefetch(soon, false);
                }
                for &[part, count, n] in &vectors {
                    let offset = k.int(part as i64);
                    let row = k.add(row, offset);
                    let mask = masked.then(|| rows_left(k, s.rows, row, count, n));
                    let v = s.load(k, line, row, n, mask);
                    let to = k.element_at(to, part);
                    k.store(v, to);
                }
            });
        });
    };
    let over: usize = vectors.iter().map(|[_, count, n]| n - count).sum();
    if s.aligned && s.rows.is_multiple_of(width) && over == 0 {
        lines(k, false);
        return;
    }
    // What a vector loads beyond its panel does no harm, and is masked only where it may be behind the last row.
    let end = k.scale(panels, width);
    let end = k.add(first, end);
    let over = k.int(over as i64);
    let end = k.add(end, over);
    let all = k.int(s.rows as i64);
    for (order, masked) in [("sle", false), ("sgt", true)] {
        let here = k.cmp(order, end, all);
        k.if_(here, |k| lines(k, masked));
    }
}

/// A mask of the lanes that are rows of the matrix, and among the first `count`.
fn rows_left(k: &mut Emit, rows: usize, first: Val, count: usize, lanes: usize) -> Val {
    let ids = k.lane_ids(lanes);
    let (all, most) = (k.int(rows as i64), k.int(count as i64));
    let left = k.sub(all, first);
    let left = k.min(left, most);
    let left = k.narrow(left);
    let left = k.splat(left, lanes);
    k.cmp("slt", ids, left)
}

/// Packs rows `first .. first + width` and contraction steps `k0 .. k0 + depth` (depth known) to
/// `panel`. Each stored vector is whole, so `panel` needs `lanes` floats of slack at its end, and panels are
/// written in rising order.
#[allow(clippy::too_many_arguments)] // a kernel's whole addressing
fn panel(
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
        columns(k, s, first, (width - part).min(lanes), k0, depth, dst, width, lanes);
    }
}

/// Packs at most a vector of rows, `count` of them, of a source that is contiguous along the contraction or along
/// nothing: to steps `width` floats apart. `lanes` rows are loaded and transposed in registers.
#[allow(clippy::too_many_arguments)] // a kernel's whole addressing
pub fn columns(
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

/// Packs rows of words for AMX: `panels` panels of `height` rows from row `first` on, [`panel_stride`] apart, each
/// a sequence of blocks of 16 steps, in which each row's 16 words are together. Zeros behind the last step.
#[allow(clippy::too_many_arguments)] // a kernel's whole addressing
pub fn row_tiles(
    k: &mut Emit,
    s: Source,
    first: Val,
    panels: Val,
    height: usize,
    k0: Val,
    depth: usize,
    dst: Val,
) {
    let stride = panel_stride(height, depth.next_multiple_of(TILE), TILE);
    let (zero, last) = (k.int(0), k.int(s.rows as i64 - 1));
    k.loop_(zero, panels, 1, |k, j| {
        let row = k.scale(j, height);
        let row = k.add(first, row);
        let at = k.scale(j, stride);
        let panel = k.element(dst, at);
        let block = |k: &mut Emit, p: Val, steps: usize| {
            let at = k.scale(p, height);
            let to = k.element(panel, at);
            let from = k.add(k0, p);
            for part in (0..height).step_by(TILE) {
                let offset = k.int(part as i64);
                let row = k.add(row, offset);
                let mut v = vec![];
                if s.two_lines {
                    let mask = rows_left(k, s.rows, row, TILE, TILE);
                    for i in 0..TILE {
                        let i = k.int(i.min(steps - 1) as i64);
                        let step = k.add(from, i);
                        let line = s.line(k, step);
                        if part == 0 {
                            // The lines of the next block: both that make a step of words.
                            for ahead in [2 * TILE, 2 * TILE + 1] {
                                let soon = k.element(line, row);
                                let soon = k.element_at(soon, ahead * s.step);
                                k.prefetch(soon, false);
                            }
                        }
                        v.push(s.load(k, line, row, TILE, Some(mask)));
                    }
                    v[steps..].fill(k.float(0.0, Ty::Vec(TILE)));
                    transpose(k, &mut v, TILE);
                } else {
                    let mask = (steps < TILE).then(|| k.mask(steps, TILE));
                    for i in 0..TILE {
                        let i = k.int(i as i64);
                        let row = k.add(row, i);
                        let row = k.min(row, last);
                        let at = k.scale(row, s.row);
                        let line = k.element(s.base, at);
                        v.push(s.load(k, line, from, TILE, mask));
                    }
                }
                for (i, v) in v.into_iter().enumerate() {
                    let to = k.element_at(to, (part + i) * TILE);
                    k.store(v, to);
                }
            }
        };
        let whole = depth / TILE * TILE;
        let (lo, hi) = (k.int(0), k.int(whole as i64));
        if whole > 0 {
            k.loop_(lo, hi, TILE, |k, p| block(k, p, TILE));
        }
        if whole < depth {
            block(k, hi, depth - whole);
        }
    });
}

/// Transposes `lanes` vectors of `lanes` elements: log₂ rounds of perfect shuffles.
pub fn transpose(k: &mut Emit, v: &mut Vec<Val>, lanes: usize) {
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
