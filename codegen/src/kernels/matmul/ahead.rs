//! What tiles ask for ahead: the rows of A of the tiles that follow, and the columns of B of the next block of the
//! contraction, on their way to the second-level cache while this tile's steps are multiplied.
//!
//! Some lines in an iteration of the innermost loop, not all at once: asked for in a burst they would take every buffer that
//! lines arrive in, and the tile would wait for its own.

use super::tile::UNROLL;
use crate::emit::{Emit, LINE, Val};
use crate::kernels::pack::Source;

/// More lines than so many in an iteration are not worth asking for: the tile itself needs 11 or more.
const MOST: usize = 4;

/// Lines to ask for: in each iteration of the innermost loop, which begins with step p, the one at `from + p·step`.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    from: Val,
    step: usize,
}

impl Ahead {
    /// Asks for the line of the iteration that begins with step `p`.
    pub fn ask(self, k: &mut Emit, p: Val) {
        let at = k.scale(p, self.step);
        let at = k.element(self.from, at);
        k.prefetch(at, true);
    }
}

/// The share of one of `tiles` tiles, the one numbered `n`, in asking for `rows` rows of `source` from `first` on, all
/// steps of a block from `k0` on.
pub fn share(
    k: &mut Emit,
    source: Source,
    [first, k0]: [Val; 2],
    rows: usize,
    n: Val,
    tiles: usize,
) -> Vec<Ahead> {
    // Contiguous along the rows, a tile takes a line of them at every so manyth step; else a whole row.
    let lines = rows.div_ceil(LINE);
    let (parts, step) = match (source.row, source.step) {
        _ if source.two_lines => return vec![],
        (1, step) => (UNROLL * lines, step),
        (_, 1) => (rows, 1),
        _ => return vec![],
    };
    let each = parts.div_ceil(tiles);
    if each > MOST {
        return vec![];
    }
    let n = k.scale(n, each);
    (0..each)
        .map(|e| {
            let e = k.int(e as i64);
            let part = k.add(n, e);
            let (row, late) = if source.row == 1 {
                let (turn, lines) = (k.int(UNROLL as i64), k.int(lines as i64));
                let line = k.div(part, turn);
                let line = k.rem(line, lines);
                (k.scale(line, LINE), k.rem(part, turn))
            } else {
                let rows = k.int(rows as i64);
                (k.rem(part, rows), k.int(0))
            };
            let (row, late) = (k.add(first, row), k.add(k0, late));
            let (row, late) = (k.scale(row, source.row), k.scale(late, source.step));
            let at = k.add(row, late);
            Ahead { from: k.element(source.base, at), step }
        })
        .collect()
}
