//! Matmuls whose rows belong to experts: each expert's rows are a matrix of a height that is known only
//! when the kernel runs.
//!
//! The tasks are those of the worst case, all rows with one expert; tasks beyond an expert's rows end at
//! once. One more range than there are experts has the rows behind them all, whose result is zero.

use neoxc_ir::ops::grouped_matmul::sides;
use neoxc_ir::ops::matmul::Roles;
use neoxc_ir::{Function, Op};

use super::tile::Rows;
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};
use crate::kernels::Body;

/// Ranges of rows by expert.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    /// Pointers: [owner, group, local].
    pub starts: Val,
    pub counts: Val,
    /// Sizes.
    pub groups: usize,
    pub local: usize,
    pub rows: usize,
    /// Elements of a matrix.
    pub matrix: usize,
}

/// Where one task works.
pub struct Place {
    /// Which of the batches: owner and group.
    pub bin: Val,
    /// Which matrix.
    pub matrix: Val,
    /// First row of the range.
    pub first: Val,
    /// Where it ends, and whether no expert has it.
    pub rows: Rows,
}

/// The roles of the dims of a grouped matmul.
pub fn roles(f: &Function, op: &Op) -> Result<Roles, CodegenError> {
    let (x, w) = (f.ty(op.operands[0]), f.ty(op.operands[1]));
    let (k, n) = sides(w, &op.attrs).map_err(|e| CodegenError::kernel(&f.name, e.0))?;
    Ok(Roles {
        batch: x.dims[..2].to_vec(),
        m: vec![x.dims[2].clone()],
        n: vec![w.dims[n].clone()],
        k: vec![w.dims[k].clone()],
    })
}

impl Ranges {
    /// The ranges that the grouped matmul `op` reads, of `rows` rows in all.
    pub fn of(b: &Body<'_>, op: &Op, rows: usize) -> Result<Ranges, CodegenError> {
        let lost = || b.fail("which rows experts have is not a parameter");
        let f = b.f;
        let (starts, counts) = (op.operands[2], op.operands[3]);
        let weights = f.ty(op.operands[1]);
        let (k, n) = sides(weights, &op.attrs).map_err(|e| b.fail(e.0))?;
        Ok(Ranges {
            starts: b.param(starts).ok_or_else(lost)?,
            counts: b.param(counts).ok_or_else(lost)?,
            groups: f.ty(op.operands[0]).dims[1].size,
            local: f.ty(starts).dims.last().map_or(1, |d| d.size),
            rows,
            matrix: weights.dims[n].size * weights.dims[k].size,
        })
    }

    /// Number of independent matmuls at most.
    pub fn matmuls(&self, bins: usize) -> usize {
        bins * (self.local + 1)
    }

    /// What matmul number `which` is.
    pub fn place(&self, k: &mut Emit, which: Val) -> Place {
        let ranges = k.int(self.local as i64 + 1);
        let (bin, range) = (k.div(which, ranges), k.rem(which, ranges));
        let last = k.int(self.local as i64 - 1);
        let expert = k.min(range, last);
        let at = k.scale(bin, self.local);
        let at = k.add(at, expert);
        let [start, count] = [self.starts, self.counts].map(|base| {
            let p = k.element(base, at);
            let i = k.load(Ty::I32, p);
            k.widen(i)
        });
        let end = k.add(start, count);
        let free = k.cmp("sgt", range, last);
        let all = k.int(self.rows as i64);
        let (first, end) = (k.select(free, end, start), k.select(free, all, end));
        let groups = k.int(self.groups as i64);
        let owner = k.div(bin, groups);
        let matrix = k.scale(owner, self.local);
        let matrix = k.add(matrix, expert);
        Place { bin, matrix, first, rows: Rows { end, free } }
    }
}
