//! Attention of bfloat16: matmuls of pairs, in AMX tile registers or as dot products, on top of f32.
//!
//! Scores stand transposed as in [`super::block`]: a row of queries for each key. Then all matmuls have one form, and
//! no weight moves between lanes but within its pair. Weights are rounded to bfloat16 as operands of the next matmul.

pub mod forward;
pub mod gradient;
mod layout;
mod weights;

use super::block::Sizes;
use crate::emit::{Emit, Narrow, TILE, Ty, Val};
use crate::kernels::Body;
use crate::x86::Bf16;

/// Rows, columns and steps of the contraction come in wholes of this many; behind the matrix are zeros.
pub const SIDE: usize = 2 * TILE;
/// Queries that pass through a chunk of keys while that is in cache: whole groups of [`SIDE`].
pub const QUERIES: usize = 4 * SIDE;
/// Vectors of queries in a group.
const VECTORS: usize = 2;
/// Rows of a tile of dot products.
const DOT_ROWS: usize = 8;

/// An attention by pairs.
#[derive(Clone, Copy)]
pub struct Pairs {
    pub s: Sizes,
    pub unit: Bf16,
}

/// Rows of pairs along the contraction, from the left: word (row, step) is at
/// `base + row·row + step/16·step + step%16`.
#[derive(Clone, Copy)]
pub struct Left {
    pub base: Val,
    pub row: usize,
    pub step: usize,
}

impl Left {
    /// From row `first` on.
    fn from(self, k: &mut Emit, first: Val) -> Left {
        let at = k.scale(first, self.row);
        Left { base: k.element(self.base, at), ..self }
    }

    /// From token `first`, a whole number of steps, on: of a contraction over tokens.
    fn steps_from(self, k: &mut Emit, first: Val) -> Left {
        let at = k.scale(first, self.step / SIDE);
        Left { base: k.element(self.base, at), ..self }
    }
}

/// Lines of columns: steps of the contraction as pairs, or rows of sums.
#[derive(Clone, Copy)]
pub struct Lines {
    pub base: Val,
    pub row: usize,
}

impl Lines {
    fn at(self, k: &mut Emit, row: Val) -> Lines {
        let at = k.scale(row, self.row);
        Lines { base: k.element(self.base, at), ..self }
    }

    fn columns(self, k: &mut Emit, from: Val) -> Lines {
        Lines { base: k.element(self.base, from), ..self }
    }
}

impl Pairs {
    /// Where the operands are bfloat16 and the core multiplies pairs. Runs of keys begin where blocks of queries do.
    pub fn of(b: &Body<'_>, s: Sizes, operand: Val) -> Option<Pairs> {
        let fits = operand.ty == Ty::Ptr16(Narrow::Bf16) && s.runs.begin_at(QUERIES);
        (fits && b.cpu.bf16 != Bf16::Widen).then_some(Pairs { s, unit: b.cpu.bf16 })
    }

    /// Elements along head_dim with the zeros behind.
    pub fn wide(self) -> usize {
        self.s.width.next_multiple_of(SIDE)
    }

    /// Tokens with the zeros behind.
    pub fn rows(self) -> usize {
        self.s.seq.next_multiple_of(SIDE)
    }

    /// Whether rows can be read where they lie.
    pub fn whole(self) -> bool {
        self.wide() == self.s.width && self.rows() == self.s.seq
    }

    /// Rows of a matmul's tile.
    fn height(self) -> usize {
        if self.unit == Bf16::Tiles { SIDE } else { DOT_ROWS }
    }

    /// `c = a·b`, or `c += a·b`, for `m` rows and `n` columns. `steps` are those of the contraction for the rows from
    /// a given one on, 16 pairs each.
    #[allow(clippy::too_many_arguments)] // a matmul has that many parts
    pub fn matmul(
        self,
        k: &mut Emit,
        (m, n): (Val, usize),
        steps: impl Fn(&mut Emit, Val) -> (Val, Val),
        a: Left,
        b: Lines,
        c: Lines,
        fresh: bool,
    ) {
        let zero = k.int(0);
        let columns = k.int(n as i64);
        k.loop_(zero, m, self.height(), |k, r| {
            let range = steps(k, r);
            let a = a.from(k, r);
            let c = c.at(k, r);
            k.loop_(zero, columns, SIDE, |k, column| {
                let (b, c) = (b.columns(k, column), c.columns(k, column));
                match self.unit {
                    Bf16::Tiles => tiles(k, range, a, b, c, fresh),
                    Bf16::Dot | Bf16::Widen => dots(k, range, a, b, c, fresh),
                }
            });
        });
    }

    /// All of head_dim as steps of a contraction.
    pub fn across(self, k: &mut Emit) -> (Val, Val) {
        (k.int(0), k.int((self.wide() / SIDE) as i64))
    }
}

/// Where step `p` of an operand starts.
fn step(k: &mut Emit, p: Val, a: Left, b: Lines) -> (Val, Val) {
    let at = k.scale(p, a.step);
    let a = k.element(a.base, at);
    let at = k.scale(p, TILE * b.row);
    (a, k.element(b.base, at))
}

/// Two by two tile registers of sums.
fn tiles(k: &mut Emit, (from, to): (Val, Val), a: Left, b: Lines, c: Lines, fresh: bool) {
    let place = |k: &mut Emit, n: usize| k.element_at(c.base, n / 2 * TILE * c.row + n % 2 * TILE);
    for n in 0..4 {
        if fresh {
            k.tile_zero(n);
        } else {
            let p = place(k, n);
            k.tile_load(n, p, c.row);
        }
    }
    k.loop_(from, to, 1, |k, p| {
        let (from_a, from_b) = step(k, p, a, b);
        for half in 0..2 {
            let p = k.element_at(from_a, half * TILE * a.row);
            k.tile_load(4 + half, p, a.row);
            let p = k.element_at(from_b, half * TILE);
            k.tile_load(6 + half, p, b.row);
        }
        for n in 0..4 {
            k.tile_dot(n, 4 + n / 2, 6 + n % 2);
        }
    });
    for n in 0..4 {
        let p = place(k, n);
        k.tile_store(n, p, c.row);
    }
}

/// The same in vector registers, fewer rows at a time.
fn dots(k: &mut Emit, (from, to): (Val, Val), a: Left, b: Lines, c: Lines, fresh: bool) {
    let ty = Ty::Vec(TILE);
    let place =
        |k: &mut Emit, i: usize| k.element_at(c.base, i / VECTORS * c.row + i % VECTORS * TILE);
    let mut sums = vec![k.float(0.0, ty); DOT_ROWS * VECTORS];
    if !fresh {
        for (i, sum) in sums.iter_mut().enumerate() {
            let p = place(k, i);
            *sum = k.load(ty, p);
        }
    }
    let (zero, one, pairs) = (k.int(0), k.int(1), k.int(TILE as i64));
    let sums = k.for_(from, to, one, &sums, |k, p, sums| {
        let (from_a, from_b) = step(k, p, a, b);
        k.for_(zero, pairs, one, sums, |k, w, sums| {
            let at = k.scale(w, b.row);
            let line = k.element(from_b, at);
            let lines: Vec<Val> = (0..VECTORS)
                .map(|j| {
                    let p = k.element_at(line, j * TILE);
                    k.load(ty, p)
                })
                .collect();
            let word = k.element(from_a, w);
            let mut out = vec![];
            for i in 0..DOT_ROWS {
                let p = k.element_at(word, i * a.row);
                let x = k.load(Ty::F32, p);
                let x = k.splat(x, TILE);
                for (j, line) in lines.iter().enumerate() {
                    out.push(k.dot(x, *line, sums[i * VECTORS + j]));
                }
            }
            out
        })
    });
    for (i, sum) in sums.into_iter().enumerate() {
        let p = place(k, i);
        k.store(sum, p);
    }
}

/// Which of a group's queries see a key.
#[derive(Clone, Copy)]
struct Mask {
    /// The key of the group's first query.
    diagonal: Val,
    /// Whether some may be before the key.
    causal: bool,
    /// If some may be so far behind it that they do not see it any more: how far they see.
    window: Option<usize>,
}

/// Keys that [`each_key`] passes at once, at most.
const STEP: usize = 4;

/// Walks the keys of a chunk that a group of queries sees, `step` at a time: all queries see those before `diagonal`, and
/// some of them those from there to `end`. With a window come others first, which some do not see any more.
fn each_key(
    k: &mut Emit,
    s: Sizes,
    (diagonal, end): (Val, Val),
    step: usize,
    init: &[Val],
    mut body: impl FnMut(&mut Emit, Val, Mask, &[Val]) -> Vec<Val>,
) -> Vec<Val> {
    let (zero, step) = (k.int(0), k.int(step as i64));
    let before = k.min(diagonal, end);
    let all = Mask { diagonal, causal: false, window: None };
    let (mut from, mut carried) = (zero, init.to_vec());
    if let Some(window) = s.window {
        // The first key that the last query sees, and from there to whole steps.
        let last = (SIDE as i64 - 1 - window as i64).div_euclid(STEP as i64) + 1;
        let near = k.int(last * STEP as i64);
        let near = k.add(diagonal, near);
        let near = k.max(near, zero);
        let near = k.min(near, before);
        let mask = Mask { window: s.window, ..all };
        carried = k.for_(zero, near, step, &carried, |k, r, acc| body(k, r, mask, acc));
        from = near;
    }
    let carried = k.for_(from, before, step, &carried, |k, r, acc| body(k, r, all, acc));
    let mask = Mask { causal: true, window: s.window.filter(|w| *w + 1 < SIDE), ..all };
    k.for_(before, end, step, &carried, |k, r, acc| body(k, r, mask, acc))
}

impl Mask {
    /// Whether all see it.
    fn is_none(self) -> bool {
        !self.causal && self.window.is_none()
    }

    /// `x` in the lanes of a group's vector `j` that see key `r`, and `other` elsewhere.
    fn choose(self, k: &mut Emit, r: Val, j: usize, x: Val, other: Val) -> Val {
        self.sees(k, r, j).map_or(x, |keep| k.select(keep, x, other))
    }

    /// Lanes of a group's vector `j` that see key `r`, where that are not all.
    fn sees(self, k: &mut Emit, r: Val, j: usize) -> Option<Val> {
        let mut compare = |how: &str, more: usize| {
            let first = k.int((j * TILE) as i64);
            let key = k.sub(r, self.diagonal);
            let key = k.sub(key, first);
            let key = match more {
                0 => key,
                _ => {
                    let more = k.int(more as i64);
                    k.add(key, more)
                }
            };
            let key = k.narrow(key);
            let key = k.splat(key, TILE);
            let ids = k.lane_ids(TILE);
            k.cmp(how, ids, key)
        };
        let seen = self.causal.then(|| compare("sge", 0));
        let Some(window) = self.window else { return seen };
        let near = compare("sle", window);
        Some(seen.map_or(near, |seen| k.arith("andi", seen, near)))
    }
}

/// The key that names a dropped weight: of those behind the last, whose weights count nowhere, the last.
fn named(k: &mut Emit, s: Sizes, key: Val) -> Val {
    if s.seq.is_multiple_of(SIDE) {
        return key;
    }
    let last = k.int(s.seq as i64 - 1);
    k.min(key, last)
}
