//! The layouts in which matmuls of pairs take their operands.

use super::{Left, Lines, Pairs, SIDE};
use crate::emit::{Emit, TILE, Ty, Val};
use crate::kernels::attention::block::{Rows, load_wide};
use crate::kernels::pack::transpose;

impl Pairs {
    /// Words of one operand, whole rows.
    pub fn words(self, rows: usize) -> usize {
        rows * self.wide() / 2
    }

    /// Words for copies of `rows` rows that can't be read where they lie.
    pub fn copied(self, rows: usize) -> usize {
        if self.whole() { 0 } else { self.words(rows) }
    }

    /// Rows as words from where `rows` lie, or from their copy in `room`.
    pub fn plain(self, k: &mut Emit, rows: Rows, room: Val) -> Left {
        let (base, width) = match self.whole() {
            true => (k.words(rows.base), rows.stride),
            false => (room, self.wide()),
        };
        Left { base, row: width / 2, step: TILE }
    }

    /// Copies the rows `first .. end` with zeros behind the last column and the last row, to those of `room` from
    /// `at` on; nothing where rows are whole.
    pub fn copy(self, k: &mut Emit, rows: Rows, (first, end): (Val, Val), room: Val, at: Val) {
        if self.whole() {
            return;
        }
        let (s, wide) = (self.s, self.wide());
        let all = k.int(s.seq as i64);
        let last = k.min(end, all);
        let last = k.max(last, first);
        let to = Rows { base: k.halves(room), stride: wide };
        let row = |k: &mut Emit, r: Val| {
            let local = k.sub(r, first);
            let local = k.add(local, at);
            to.at(k, local)
        };
        let none = k.float(0.0, Ty::Vec(TILE));
        k.loop_(first, last, 1, |k, r| {
            let (from, to) = (rows.at(k, r), row(k, r));
            for j in 0..wide / TILE {
                let v = if j < s.vectors() { load_wide(k, s, from, j) } else { none };
                let p = k.element_at(to, j * TILE);
                k.store(v, p);
            }
        });
        k.loop_(last, end, 1, |k, r| {
            let to = row(k, r);
            for j in 0..wide / TILE {
                let p = k.element_at(to, j * TILE);
                k.store(none, p);
            }
        });
    }

    /// Columns of `rows` rows (whole [`SIDE`]s) as rows of pairs, 16 words of each together: what a matmul over
    /// tokens takes from the left.
    pub fn across_tokens(self, k: &mut Emit, from: Left, rows: Val, to: Val) -> Left {
        let zero = k.int(0);
        let wide = self.wide();
        k.loop_(zero, rows, SIDE, |k, r| {
            let at = k.scale(r, from.row);
            let line = k.element(from.base, at);
            let line = k.halves(line);
            let at = k.scale(r, wide / 2);
            let to = k.element(to, at);
            let columns = k.int(wide as i64);
            k.loop_(zero, columns, TILE, |k, column| {
                let line = k.element(line, column);
                let pair = |k: &mut Emit, i: usize| pair_of_rows(k, line, 2 * from.row, i);
                let at = k.scale(column, TILE);
                let to = k.element(to, at);
                turn(k, pair, Lines { base: to, row: TILE });
            });
        });
        Left { base: to, row: TILE, step: wide * TILE }
    }

    /// Rows (`rows` of them, whole [`TILE`]s) as lines of pairs along head_dim, `row` words long: what a matmul over
    /// head_dim takes from the right.
    pub fn along_width(self, k: &mut Emit, from: Left, rows: Val, to: Lines) {
        let (zero, steps) = (k.int(0), k.int((self.wide() / 2) as i64));
        k.loop_(zero, rows, TILE, |k, r| {
            let at = k.scale(r, from.row);
            let line = k.element(from.base, at);
            k.loop_(zero, steps, TILE, |k, p| {
                let line = k.element(line, p);
                let load = |k: &mut Emit, i: usize| {
                    let p = k.element_at(line, i * from.row);
                    k.load(Ty::Vec(TILE), p)
                };
                let to = to.at(k, p).columns(k, r);
                turn(k, load, to);
            });
        });
    }

    /// Rows (an even number) as lines of pairs of them: what a matmul over tokens takes from the right.
    pub fn along_tokens(self, k: &mut Emit, from: Left, rows: Val, to: Val) {
        let wide = self.wide();
        let zero = k.int(0);
        k.loop_(zero, rows, 2, |k, r| {
            let at = k.scale(r, from.row);
            let line = k.element(from.base, at);
            let line = k.halves(line);
            let at = k.scale(r, wide / 2);
            let to = k.element(to, at);
            for column in (0..wide).step_by(TILE) {
                let line = k.element_at(line, column);
                let v = pair_of_rows(k, line, 2 * from.row, 0);
                let to = k.element_at(to, column);
                k.store(v, to);
            }
        });
    }

    /// Stores sums [head_dim][SIDE] times a factor per column as the rows `first ..` of `to`.
    pub fn store_columns(self, k: &mut Emit, sums: Val, factors: [Val; 2], to: Rows, first: Val) {
        let s = self.s;
        for (half, factor) in factors.into_iter().enumerate() {
            let offset = k.int((half * TILE) as i64);
            let first = k.add(first, offset);
            let from = k.element_at(sums, half * TILE);
            let whole = s.width / TILE;
            let (zero, last) = (k.int(0), k.int(whole as i64));
            k.loop_(zero, last, 1, |k, j| {
                self.store_square(k, (from, j), factor, to, first, TILE);
            });
            if whole < s.vectors() {
                self.store_square(k, (from, last), factor, to, first, s.width % TILE);
            }
        }
    }

    /// Stores 16 columns of the sums, of which `count` go to each row.
    fn store_square(
        self,
        k: &mut Emit,
        (sums, j): (Val, Val),
        factor: Val,
        to: Rows,
        first: Val,
        count: usize,
    ) {
        let at = k.scale(j, TILE * SIDE);
        let from = k.element(sums, at);
        let mut v: Vec<Val> = (0..TILE)
            .map(|i| {
                let p = k.element_at(from, i * SIDE);
                let x = k.load(Ty::Vec(TILE), p);
                k.mul(x, factor)
            })
            .collect();
        transpose(k, &mut v, TILE);
        let column = k.scale(j, TILE);
        for (i, v) in v.into_iter().enumerate() {
            let i = k.int(i as i64);
            let row = k.add(first, i);
            let store = |k: &mut Emit| {
                let to = to.at(k, row);
                let to = k.element(to, column);
                if count == TILE {
                    k.store(v, to);
                } else {
                    let mask = k.mask(count, TILE);
                    k.store_masked(v, to, mask);
                }
            };
            if self.s.seq.is_multiple_of(SIDE) {
                store(k);
            } else {
                let all = k.int(self.s.seq as i64);
                let inside = k.cmp("slt", row, all);
                k.if_(inside, store);
            }
        }
    }
}

/// Pairs of the rows 2i and 2i + 1 at `from`.
fn pair_of_rows(k: &mut Emit, from: Val, stride: usize, i: usize) -> Val {
    let [low, high] = [2 * i, 2 * i + 1].map(|r| k.element_at(from, r * stride));
    k.load_pairs(low, high, TILE, None)
}

/// 16 vectors to as many lines, transposed.
fn turn(k: &mut Emit, load: impl Fn(&mut Emit, usize) -> Val, to: Lines) {
    let mut v: Vec<Val> = (0..TILE).map(|i| load(k, i)).collect();
    transpose(k, &mut v, TILE);
    for (i, v) in v.into_iter().enumerate() {
        let p = k.element_at(to.base, i * to.row);
        k.store(v, p);
    }
}
