//! One register tile: the innermost loop.

use super::Plan;
use super::ahead::Ahead;
use super::epilogue::Epilogue;
use super::schedule::{Access, Unit};
use crate::CodegenError;
use crate::emit::{Emit, LINE, TILE, Ty, Val};
use crate::kernels::Body;
use crate::kernels::pack::{Source, panel_stride};

/// Where a tile finds an operand: element (row, step) is at `base + row·row + step·step`.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    base: Val,
    row: usize,
    step: usize,
}

impl Operand {
    /// The operand of the tile number `i` after row `first`, from step `k0` on.
    #[allow(clippy::too_many_arguments)] // a kernel's whole addressing
    pub fn at(
        k: &mut Emit,
        access: Access,
        source: Source,
        first: Val,
        i: Val,
        width: usize,
        k0: Val,
        depth: usize,
        packed: Val,
        lanes: usize,
    ) -> Operand {
        match access {
            Access::Packed => {
                let at = k.scale(i, panel_stride(width, depth, lanes));
                Operand { base: k.element(packed, at), row: 1, step: width }
            }
            Access::Direct => {
                let row = k.scale(i, width);
                let row = k.add(first, row);
                let row = k.scale(row, source.row);
                let step = k.scale(k0, source.step);
                let at = k.add(row, step);
                Operand { base: k.element(source.base, at), row: source.row, step: source.step }
            }
        }
    }

    /// Asks for part `j` of `parts` of `rows` rows, contiguous along the contraction, that begin `ahead` rows later: they
    /// come while tiles of the rows before are computed.
    pub fn prefetch(
        self,
        k: &mut Emit,
        ahead: usize,
        rows: usize,
        depth: usize,
        j: Val,
        parts: Val,
    ) {
        let lines = k.int(depth.div_ceil(LINE) as i64);
        let (lo, hi) = {
            let one = k.int(1);
            let next = k.add(j, one);
            let (lo, hi) = (k.mul(j, lines), k.mul(next, lines));
            (k.div(lo, parts), k.div(hi, parts))
        };
        k.loop_(lo, hi, 1, |k, line| {
            let step = k.scale(line, LINE);
            let first = k.element(self.base, step);
            for row in ahead..ahead + rows {
                let p = k.element_at(first, row * self.row);
                k.prefetch(p, true);
            }
        });
    }

    /// Pointer to the first row at a step.
    fn step(self, k: &mut Emit, step: Val) -> Val {
        let at = k.scale(step, self.step);
        k.element(self.base, at)
    }
}

/// Steps of the contraction in one iteration of the innermost loop: what counts them takes the ports of multiply-adds.
pub const UNROLL: usize = 4;

/// One register tile.
pub struct Tile<'a> {
    /// The matmul.
    pub(super) plan: &'a Plan,
    /// Rows of A.
    pub a: Operand,
    /// Columns of B, contiguous.
    pub b: Operand,
    /// First row of the tile.
    pub row: Val,
    /// What becomes of the sums.
    pub epilogue: Epilogue<'a>,
    /// Steps of this block of the contraction.
    pub depth: usize,
    /// Where the tile waits between blocks of the contraction.
    pub partial: Option<Val>,
    /// Number of the block.
    pub block: Val,
    /// Room for one tile.
    pub scratch: Val,
    /// What to ask for meanwhile.
    pub ahead: Vec<Ahead>,
    /// Where the rows end and whether the sums are zero, if that is not known before.
    pub rows: Option<Rows>,
}

/// Rows of one expert, or the rest, which no expert has.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// The first row after.
    pub end: Val,
    /// Whether no expert has them.
    pub free: Val,
}

impl Tile<'_> {
    /// The tile's sums, on top of those of the blocks before.
    fn sums(&self, k: &mut Emit, lanes: usize) -> Vec<Val> {
        let s = self.plan.s;
        let (rows, vectors, ty) = (s.tile_rows, s.tile_vectors, Ty::Vec(lanes));
        let none = k.float(0.0, ty);
        let init = vec![none; rows * vectors];
        let zero = k.int(0);
        // What was set aside comes while this block is summed.
        let aside = |k: &mut Emit, i: usize| {
            let at = i / vectors * s.task_columns + i % vectors * lanes;
            self.partial.map(|p| k.element_at(p, at))
        };
        for i in (0..init.len()).filter(|i| (i % vectors * lanes).is_multiple_of(LINE)) {
            if let Some(p) = aside(k, i) {
                k.prefetch(p, false);
            }
        }
        let unroll = if self.depth.is_multiple_of(UNROLL) { UNROLL } else { 1 };
        let (mut hi, step) = (k.int(self.depth as i64), k.int(unroll as i64));
        if let Some(rows) = self.rows {
            hi = k.select(rows.free, zero, hi);
        }
        let mut sums = k.for_(zero, hi, step, &init, |k, p, acc| {
            let (b, a) = (self.b.step(k, p), self.a.step(k, p));
            let mut acc = acc.to_vec();
            for a in &self.ahead {
                a.ask(k, p);
            }
            for step in 0..unroll {
                let b = k.element_at(b, step * self.b.step);
                let bs: Vec<Val> = (0..vectors)
                    .map(|j| {
                        let q = k.element_at(b, j * lanes);
                        k.load(ty, q)
                    })
                    .collect();
                for i in 0..rows {
                    let q = k.element_at(a, i * self.a.row + step * self.a.step);
                    let x = k.load(Ty::F32, q);
                    let x = k.splat(x, lanes);
                    for (j, bv) in bs.iter().enumerate() {
                        let sum = &mut acc[i * vectors + j];
                        *sum = match s.unit {
                            Unit::Fma => k.fma(x, *bv, *sum),
                            Unit::Dot | Unit::Tiles => k.dot(x, *bv, *sum),
                        };
                    }
                }
            }
            acc
        });
        // Nothing was set aside before the first block. A mask says so, for LLVM makes branches of choices.
        let block = k.narrow(self.block);
        let (block, none) = (k.splat(block, lanes), k.int32(0, ty.int()));
        let later = k.cmp("ne", block, none);
        for (i, sum) in sums.iter_mut().enumerate() {
            if let Some(p) = aside(k, i) {
                let old = k.load_masked(p, later);
                *sum = k.add(old, *sum);
            }
        }
        sums
    }

    /// The same with AMX: two by two tile registers of sums, stored to rows `stride` apart. `between` says what else to
    /// do in a step, beside matmuls that take as long.
    fn tile_sums(
        &self,
        b: &mut Body<'_>,
        to: Val,
        stride: usize,
        between: impl FnOnce(&mut Body<'_>, Val) -> Result<(), CodegenError>,
    ) -> Result<(), CodegenError> {
        let s = self.plan.s;
        let k = &mut b.k;
        let zero = k.int(0);
        let place = |k: &mut Emit, base: Val, n: usize, stride: usize| {
            k.element_at(base, n / 2 * TILE * stride + n % 2 * TILE)
        };
        let clear = |k: &mut Emit| (0..4).for_each(|n| k.tile_zero(n));
        match self.partial {
            None => clear(k),
            Some(partial) => {
                let first = k.cmp("eq", self.block, zero);
                k.if_(first, clear);
                let later = k.cmp("ne", self.block, zero);
                k.if_(later, |k| {
                    for n in 0..4 {
                        let p = place(k, partial, n, s.task_columns);
                        k.tile_load(n, p, s.task_columns);
                    }
                });
            }
        }
        let mut hi = k.int(self.depth as i64);
        if let Some(rows) = self.rows {
            hi = k.select(rows.free, zero, hi);
        }
        // Packed, a tile register's rows of A stand one behind the other, those of 16 steps together.
        let (row, next) = match s.a {
            Access::Packed => (TILE, s.tile_rows),
            Access::Direct => (self.a.row, 1),
        };
        b.nest(zero, hi, TILE, |b, p| {
            let k = &mut b.k;
            let at = k.scale(p, next);
            let a = k.element(self.a.base, at);
            let from = self.b.step(k, p);
            for half in 0..2 {
                let p = k.element_at(a, half * TILE * row);
                k.tile_load(4 + half, p, row);
                let p = k.element_at(from, half * TILE);
                k.tile_load(6 + half, p, self.b.step);
            }
            for n in 0..4 {
                k.tile_dot(n, 4 + n / 2, 6 + n % 2);
            }
            between(b, p)
        })?;
        let k = &mut b.k;
        for n in 0..4 {
            let p = place(k, to, n, stride);
            k.tile_store(n, p, stride);
        }
        Ok(())
    }

    /// Computes the tile and keeps it for the next block of the contraction.
    pub fn set_aside(&self, b: &mut Body<'_>) -> Result<(), CodegenError> {
        let (s, lanes) = (self.plan.s, b.lanes);
        if let (Unit::Tiles, Some(partial)) = (s.unit, self.partial) {
            return self.tile_sums(b, partial, s.task_columns, |_, _| Ok(()));
        }
        let k = &mut b.k;
        let sums = self.sums(k, lanes);
        for (i, v) in sums.into_iter().enumerate() {
            if let Some(partial) = self.partial {
                let at = i / s.tile_vectors * s.task_columns + i % s.tile_vectors * lanes;
                let p = k.element_at(partial, at);
                k.store(v, p);
            }
        }
        Ok(())
    }

    /// Computes the tile and stores what the epilogue makes of it.
    pub fn finish(&self, b: &mut Body<'_>) -> Result<(), CodegenError> {
        let (s, lanes) = (self.plan.s, b.lanes);
        let width = s.tile_vectors * lanes;
        self.epilogue.prefetch(b, self.row);
        let sums = match s.unit {
            Unit::Tiles => {
                self.tile_sums(b, self.scratch, width, |_, _| Ok(()))?;
                vec![]
            }
            Unit::Fma | Unit::Dot => self.sums(&mut b.k, lanes),
        };
        if !self.plan.ragged_rows && !sums.is_empty() && b.f.results == [self.plan.result] {
            for (r, sums) in sums.chunks(s.tile_vectors).enumerate() {
                let offset = b.k.int(r as i64);
                let row = b.k.add(self.row, offset);
                self.epilogue.store_row(b, row, sums)?;
            }
            return Ok(());
        }
        // The epilogue is emitted once, for a row of the tile: an unrolled one would be a long
        // function, and would spill the tile anyway.
        let k = &mut b.k;
        for (i, v) in sums.into_iter().enumerate() {
            let at = i / s.tile_vectors * width + i % s.tile_vectors * lanes;
            let p = k.element_at(self.scratch, at);
            k.store(v, p);
        }
        let (zero, all) = (k.int(0), k.int(s.tile_rows as i64));
        self.store_rows(b, zero, all)
    }

    /// Computes a tile with AMX into its scratch, and meanwhile stores what the epilogue makes of the tile `before`, if
    /// `some`: vector units have nothing else to do.
    pub fn finish_before(
        &self,
        b: &mut Body<'_>,
        before: &Tile<'_>,
        some: Val,
    ) -> Result<(), CodegenError> {
        let s = self.plan.s;
        self.epilogue.prefetch(b, self.row);
        let each = s.tile_rows.div_ceil(self.depth / TILE);
        let (zero, all) = (b.k.int(0), b.k.int(s.tile_rows as i64));
        let all = b.k.select(some, all, zero);
        self.tile_sums(b, self.scratch, s.tile_vectors * b.lanes, |b, p| {
            let k = &mut b.k;
            let step = k.int(TILE as i64);
            let step = k.div(p, step);
            let (from, rows) = (k.scale(step, each), k.int(each as i64));
            let to = k.add(from, rows);
            let (from, to) = (k.min(from, all), k.min(to, all));
            before.store_rows(b, from, to)
        })
    }

    /// Stores what the epilogue makes of the rows `from .. to` of the tile in scratch, those that the matrix has.
    pub fn store_rows(&self, b: &mut Body<'_>, from: Val, to: Val) -> Result<(), CodegenError> {
        let (s, lanes) = (self.plan.s, b.lanes);
        let k = &mut b.k;
        let mut all = k.int(self.plan.m as i64);
        if let Some(rows) = self.rows {
            all = rows.end;
        }
        let (from, to) = (k.add(self.row, from), k.add(self.row, to));
        let to = k.min(to, all);
        b.nest(from, to, 1, |b, row| {
            let k = &mut b.k;
            let local = k.sub(row, self.row);
            let at = k.scale(local, s.tile_vectors * lanes);
            let from = k.element(self.scratch, at);
            let sums: Vec<Val> = (0..s.tile_vectors)
                .map(|j| {
                    let p = k.element_at(from, j * lanes);
                    k.load(Ty::Vec(lanes), p)
                })
                .collect();
            self.epilogue.store_row(b, row, &sums)
        })
    }
}
