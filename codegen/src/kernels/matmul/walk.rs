//! The walk of one task over its block of the result: blocks of the contraction, groups of rows in each, columns of
//! tiles in each group.
//!
//! ```text
//! task          rows m0..m1, columns n0..n1 of one of the independent matmuls
//!  block        steps k0.. of the contraction; columns of B are packed for all its groups
//!   group       rows packed together
//!    span       columns of whole tiles, then the narrower ones behind them
//!     tile      tile_rows × tile_vectors registers
//! ```

use super::epilogue::Epilogue;
use super::grouped::Place;
use super::schedule::{Access, Schedule, Unit};
use super::tile::{Operand, Rows, Tile};
use super::{Gemm, Plan, ahead, source};
use crate::CodegenError;
use crate::emit::{Emit, TILE, Val};
use crate::kernels::pack::{self, Source, panel_stride};
use crate::kernels::{Body, Shape};

/// A thread's scratch, in floats, in this order. Packed panels end with a vector of slack.
struct Scratch {
    packed_b: usize,
    packed_a: usize,
    /// Tiles that wait between blocks of the contraction.
    partial: usize,
    /// One tile; with AMX two, since one is stored while the next is computed.
    tiles: usize,
}

/// What is known when the kernel is compiled.
struct Walk<'a> {
    gemm: &'a Gemm<'a>,
    s: Schedule,
    /// Whole tiles, and lower ones for the rows behind them.
    plans: [Plan; 2],
    /// The same, narrower, for the columns behind whole tiles.
    narrow: [Plan; 2],
    /// Rows of a lower tile; 0 if there is none.
    low: usize,
    /// Columns of a tile.
    width: usize,
    /// Blocks of the contraction.
    blocks: usize,
    scratch: Scratch,
    lanes: usize,
}

/// One task, as values of the kernel.
struct Task {
    /// Which of the independent matmuls.
    which: Val,
    /// Rows `m0..m1` and columns `n0..n1`.
    m0: Val,
    m1: Val,
    n0: Val,
    n1: Val,
    source_a: Source,
    source_b: Source,
    /// Pointers to packed B, packed A, partial tiles and a tile.
    packed_b: Val,
    packed_a: Val,
    partial: Val,
    tile: Val,
    zero: Val,
    /// Tiles across all columns, the narrow one too.
    across: Val,
    whole_tiles: Val,
    /// Whether all tasks have whole groups of rows.
    whole_groups: bool,
    /// Of a grouped matmul, the rows of the expert, and whether the task has any.
    rows: Option<Rows>,
    some: Option<Val>,
}

/// One block of the contraction.
struct Block {
    number: Val,
    /// First step.
    k0: Val,
    /// Steps, and the same with the zeros that the unit wants behind them.
    depth: usize,
    whole: usize,
    /// Whether it ends in the epilogue.
    last: bool,
}

/// Rows that are packed together.
struct Group {
    first: Val,
    end: Val,
    /// Tiles, and whole tiles among them.
    down: Val,
    whole_down: Val,
    /// Row and step from which on lines of A are asked for meanwhile.
    ahead: [Val; 2],
}

/// Tiles `from..to` across, of one width.
struct Span<'a> {
    plan: &'a Plan,
    low_plan: &'a Plan,
    from: Val,
    to: Val,
}

/// `min(lo + step, all)`.
fn limit(k: &mut Emit, lo: Val, step: usize, all: Val) -> Val {
    let step = k.int(step as i64);
    let hi = k.add(lo, step);
    k.min(hi, all)
}

/// Tiles or panels of `unit` between two rows.
fn count(k: &mut Emit, lo: Val, hi: Val, unit: usize) -> Val {
    let n = k.sub(hi, lo);
    let round = k.int(unit as i64 - 1);
    let n = k.add(n, round);
    let unit = k.int(unit as i64);
    k.div(n, unit)
}

/// Emits the kernel; `low` rows lie behind the last whole tile if they have a tile of their own.
pub(super) fn emit(
    b: &mut Body<'_>,
    gemm: &Gemm<'_>,
    plan: Plan,
    low: usize,
) -> Result<Shape, CodegenError> {
    let walk = Walk::new(gemm, plan, low, b.lanes);
    let (s, scratch) = (walk.s, &walk.scratch);
    let tiles = s.unit == Unit::Tiles;
    let floats = scratch.packed_b + scratch.packed_a + scratch.partial + scratch.tiles;
    if tiles {
        let room = b.k.element_at(b.scratch, floats);
        b.k.tile_config(room);
    }
    let (row_blocks, column_blocks) =
        (gemm.plain.m.div_ceil(s.task_rows), gemm.plain.n.div_ceil(s.task_columns));
    b.tasks(|b, t| {
        let task = walk.task(b, t, [row_blocks, column_blocks]);
        walk.blocks(b, &task)
    })?;
    if tiles {
        b.k.tile_release();
    }
    let batch = gemm.plain.batch;
    let matmuls = gemm.ranges.map_or(batch, |r| r.matmuls(batch));
    // Behind it all, a cache line that describes tile registers.
    let scratch_floats = floats + if tiles { TILE } else { 0 };
    Ok(Shape { tasks: matmuls * row_blocks * column_blocks, scratch_floats, tiles })
}

impl<'a> Walk<'a> {
    fn new(gemm: &'a Gemm<'a>, plan: Plan, low: usize, lanes: usize) -> Walk<'a> {
        let s = plan.s;
        let width = s.tile_vectors * lanes;
        let n = gemm.plain.n;
        let rest = s.of_rest(n % width, lanes);
        let ragged = rest.tile_vectors * lanes != n % width;
        let narrow = Plan { s: rest, ragged, ..plan.clone() };
        let lower = |p: &Plan| Plan { s: Schedule { tile_rows: low, ..p.s }, ..p.clone() };
        let [plans, narrow] = [plan, narrow].map(|p| [p.clone(), lower(&p)]);
        let stride = |w| panel_stride(w, s.block_depth, lanes);
        let panels =
            |access, count, w| if access == Access::Packed { count * stride(w) } else { 0 };
        let blocks = gemm.problem.depth.div_ceil(s.block_depth);
        let one_tile = s.tile_rows * width;
        let scratch = Scratch {
            packed_b: panels(s.b, s.task_columns / width, width),
            packed_a: panels(s.a, s.group_rows / s.tile_rows, s.tile_rows),
            partial: if blocks > 1 { s.task_rows * s.task_columns } else { 0 },
            tiles: if s.unit == Unit::Tiles { 2 * one_tile } else { one_tile },
        };
        Walk { gemm, s, plans, narrow, low, width, blocks, scratch, lanes }
    }

    /// Task number `t` of so many blocks of rows and of columns per matmul.
    fn task(&self, b: &mut Body<'_>, t: Val, blocks: [usize; 2]) -> Task {
        let (s, gemm) = (self.s, self.gemm);
        let (m, n) = (gemm.plain.m, gemm.plain.n);
        let k = &mut b.k;
        let per_batch = k.int((blocks[0] * blocks[1]) as i64);
        let which = k.div(t, per_batch);
        let rest = k.rem(t, per_batch);
        let columns = k.int(blocks[1] as i64);
        let (mi, ni) = (k.div(rest, columns), k.rem(rest, columns));
        let (mut m0, n0) = (k.scale(mi, s.task_rows), k.scale(ni, s.task_columns));
        let place = gemm.ranges.map(|r| r.place(k, which));
        let which = place.as_ref().map_or(which, |p| p.bin);
        if let Some(p) = &place {
            m0 = k.add(p.first, m0);
        }
        let [source_a, source_b] = self.sources(k, which, place.as_ref());
        let packed_b = b.scratch;
        let packed_a = k.element_at(packed_b, self.scratch.packed_b);
        let partial = k.element_at(packed_a, self.scratch.packed_a);
        let tile = k.element_at(partial, self.scratch.partial);
        let (mut all_m, all_n) = (k.int(m as i64), k.int(n as i64));
        if let Some(p) = &place {
            all_m = p.rows.end;
        }
        let m1 = limit(k, m0, s.task_rows, all_m);
        let n1 = limit(k, n0, s.task_columns, all_n);
        // Counts known now let LLVM unroll what packs a line of panels.
        let across = if n.is_multiple_of(s.task_columns) {
            k.int((s.task_columns / self.width) as i64)
        } else {
            count(k, n0, n1, self.width)
        };
        let whole_groups = place.is_none()
            && m.is_multiple_of(s.task_rows)
            && s.task_rows.is_multiple_of(s.group_rows);
        let zero = k.int(0);
        let whole_tiles = if n.is_multiple_of(self.width) {
            across
        } else {
            let (columns, width) = (k.sub(n1, n0), k.int(self.width as i64));
            k.div(columns, width)
        };
        let rows = place.as_ref().map(|p| p.rows);
        let some = place.is_some().then(|| k.cmp("slt", m0, m1));
        Task {
            which,
            m0,
            m1,
            n0,
            n1,
            source_a,
            source_b,
            packed_b,
            packed_a,
            partial,
            tile,
            zero,
            across,
            whole_tiles,
            whole_groups,
            rows,
            some,
        }
    }

    /// The factors of matmul number `which`, or of an expert's rows.
    fn sources(&self, k: &mut Emit, which: Val, place: Option<&Place>) -> [Source; 2] {
        let Gemm { plain, problem, factors: [pa, pb], batch_strides, ranges, .. } = self.gemm;
        let (raw_a, raw_b) = (plain.a, plain.b);
        let base = |k: &mut Emit, p: Val, stride| {
            if plain.batch == 1 {
                return p;
            }
            let at = k.scale(which, stride);
            k.element(p, at)
        };
        let unit = problem.unit;
        let from = base(k, *pa, batch_strides[0]);
        let a = source(k, unit, from, raw_a.0, raw_a.1, plain.m, place.is_none());
        let from = match (place, ranges) {
            (Some(p), Some(r)) => {
                let at = k.scale(p.matrix, r.matrix);
                k.element(*pb, at)
            }
            _ => base(k, *pb, batch_strides[1]),
        };
        [a, source(k, unit, from, raw_b.0, raw_b.1, plain.n, true)]
    }

    /// The blocks of the contraction. All but the last share code; the last one ends in the epilogue.
    fn blocks(&self, b: &mut Body<'_>, task: &Task) -> Result<(), CodegenError> {
        let (s, all) = (self.s, self.gemm.problem.depth);
        let before = self.blocks - 1;
        for (from, to, last) in [(0, before, false), (before, self.blocks, true)] {
            if from == to {
                continue;
            }
            let depth = if last { all - before * s.block_depth } else { s.block_depth };
            let whole = depth.next_multiple_of(s.unit.granule());
            let (lo, mut hi) = (b.k.int(from as i64), b.k.int(to as i64));
            if let Some(some) = task.some {
                // Nothing is done where a range of rows has none left.
                hi = b.k.select(some, hi, lo);
            }
            b.nest(lo, hi, 1, |b, number| {
                let k0 = b.k.scale(number, s.block_depth);
                self.block(b, task, &Block { number, k0, depth, whole, last })
            })?;
        }
        Ok(())
    }

    /// One block: packs columns of B, then takes the groups of rows in turn.
    fn block(&self, b: &mut Body<'_>, task: &Task, block: &Block) -> Result<(), CodegenError> {
        let s = self.s;
        if s.b == Access::Packed {
            let k = &mut b.k;
            let panels = self.packed(k, task, task.across);
            let depths = [block.depth, block.whole];
            let (from, to) = (task.source_b, task.packed_b);
            pack::block(k, from, task.n0, panels, self.width, block.k0, depths, to, self.lanes);
        }
        b.nest(task.m0, task.m1, s.group_rows, |b, first| {
            let group = self.group(&mut b.k, task, block, first);
            let n = self.gemm.plain.n;
            let wide = Span {
                plan: &self.plans[0],
                low_plan: &self.plans[1],
                from: task.zero,
                to: task.whole_tiles,
            };
            let narrow = Span {
                plan: &self.narrow[0],
                low_plan: &self.narrow[1],
                from: task.whole_tiles,
                to: task.across,
            };
            let spans = [(wide, n >= self.width), (narrow, !n.is_multiple_of(self.width))];
            for (span, _) in spans.iter().filter(|(_, some)| *some) {
                self.span(b, task, block, &group, span)?;
            }
            if let Some(parts) = self.plans[0].parts.as_ref().filter(|_| block.last) {
                let (rows, columns) = ([group.first, group.end], [task.n0, task.n1]);
                parts.turn(&mut b.k, rows, columns, self.lanes);
            }
            Ok(())
        })
    }

    /// So many panels, or none for rows that no expert has.
    fn packed(&self, k: &mut Emit, task: &Task, panels: Val) -> Val {
        task.rows.map_or(panels, |rows| k.select(rows.free, task.zero, panels))
    }

    /// The group of rows from `first` on, packed if A is.
    fn group(&self, k: &mut Emit, task: &Task, block: &Block, first: Val) -> Group {
        let s = self.s;
        let end = limit(k, first, s.group_rows, task.m1);
        let down = if task.whole_groups {
            k.int((s.group_rows / s.tile_rows) as i64)
        } else {
            count(k, first, end, s.tile_rows)
        };
        if s.a == Access::Packed {
            let panels = self.packed(k, task, down);
            let (from, to, tall, k0) = (task.source_a, task.packed_a, s.tile_rows, block.k0);
            if s.unit == Unit::Tiles {
                pack::row_tiles(k, from, first, panels, tall, k0, block.depth, to);
            } else {
                let depths = [block.depth, block.whole];
                pack::block(k, from, first, panels, tall, k0, depths, to, self.lanes);
            }
        }
        // The rows behind these, or the first of the next block.
        let more = k.cmp("slt", end, task.m1);
        let next = k.int(if block.last { 0 } else { s.block_depth as i64 });
        let next = k.add(block.k0, next);
        let ahead = [k.select(more, end, task.m0), k.select(more, block.k0, next)];
        let whole_down = if self.low == 0 {
            down
        } else {
            let (rows, tall) = (k.sub(end, first), k.int(s.tile_rows as i64));
            k.div(rows, tall)
        };
        Group { first, end, down, whole_down, ahead }
    }

    /// The tiles of a group in one span of columns.
    fn span(
        &self,
        b: &mut Body<'_>,
        task: &Task,
        block: &Block,
        group: &Group,
        span: &Span<'_>,
    ) -> Result<(), CodegenError> {
        if block.last && self.s.unit == Unit::Tiles && task.rows.is_none() {
            return self.overlapped(b, task, block, group, span);
        }
        // All tiles of the group read a panel of B before the next: it may stay in the first-level
        // cache.
        b.nest(span.from, span.to, 1, |b, j| {
            let mut rows = |plan, from, to| {
                b.nest(from, to, 1, |b, i| {
                    let now = self.tile(&mut b.k, task, block, group, plan, [j, i]);
                    self.ask(&mut b.k, task, block, &now, j);
                    if block.last { now.finish(b) } else { now.set_aside(b) }
                })
            };
            rows(span.plan, task.zero, group.whole_down)?;
            if self.low > 0 { rows(span.low_plan, group.whole_down, group.down) } else { Ok(()) }
        })
    }

    /// The same with AMX in the last block: a tile's epilogue runs beside the multiply-adds of the next.
    fn overlapped(
        &self,
        b: &mut Body<'_>,
        task: &Task,
        block: &Block,
        group: &Group,
        span: &Span<'_>,
    ) -> Result<(), CodegenError> {
        let count = b.k.sub(span.to, span.from);
        let all = b.k.mul(count, group.down);
        let number = |k: &mut Emit, t: Val| {
            let (j, i) = (k.div(t, group.down), k.rem(t, group.down));
            let j = k.add(span.from, j);
            let two = k.int(2);
            let parity = k.rem(t, two);
            let room = k.scale(parity, self.s.tile_rows * self.width);
            let scratch = k.element(task.tile, room);
            (j, Tile { scratch, ..self.tile(k, task, block, group, span.plan, [j, i]) })
        };
        b.nest(task.zero, all, 1, |b, t| {
            let k = &mut b.k;
            let one = k.int(1);
            let some = k.cmp("ne", t, task.zero);
            let before = k.max(t, one);
            let before = k.sub(before, one);
            let (_, before) = number(k, before);
            let (j, now) = number(k, t);
            self.ask(k, task, block, &now, j);
            now.finish_before(b, &before, some)
        })?;
        let k = &mut b.k;
        let one = k.int(1);
        let (end, rows) = (k.sub(all, one), k.int(self.s.tile_rows as i64));
        // A task may have no columns behind its whole tiles.
        let some = k.cmp("ne", all, task.zero);
        let rows = k.select(some, rows, task.zero);
        let (_, end) = number(k, end);
        end.store_rows(b, task.zero, rows)
    }

    /// Tile `j` across and `i` down.
    fn tile<'p>(
        &self,
        k: &mut Emit,
        task: &Task,
        block: &Block,
        group: &Group,
        plan: &'p Plan,
        [j, i]: [Val; 2],
    ) -> Tile<'p> {
        let (s, tall, width, lanes) = (self.s, self.s.tile_rows, self.width, self.lanes);
        let (k0, whole) = (block.k0, block.whole);
        let (from, to) = (task.source_a, task.packed_a);
        let a = Operand::at(k, s.a, from, group.first, i, tall, k0, whole, to, lanes);
        let (from, to) = (task.source_b, task.packed_b);
        let columns = Operand::at(k, s.b, from, task.n0, j, width, k0, whole, to, lanes);
        let row = k.scale(i, tall);
        let row = k.add(group.first, row);
        let column = k.scale(j, width);
        let local = k.sub(row, task.m0);
        let at = k.scale(local, s.task_columns);
        let at = k.add(at, column);
        let partial = (self.blocks > 1).then(|| k.element(task.partial, at));
        let column = k.add(task.n0, column);
        let epilogue = Epilogue { plan, batch: task.which, column };
        let ahead = self.ahead(k, task, block, group, [j, i], [row, column]);
        Tile {
            ahead,
            plan,
            a,
            b: columns,
            row,
            epilogue,
            depth: whole,
            partial,
            block: block.number,
            scratch: task.tile,
            rows: task.rows,
        }
    }

    /// What the tile's share is of the lines to ask for: of A's next rows, and of B's next block.
    fn ahead(
        &self,
        k: &mut Emit,
        task: &Task,
        block: &Block,
        group: &Group,
        [j, i]: [Val; 2],
        [row, column]: [Val; 2],
    ) -> Vec<ahead::Ahead> {
        let s = self.s;
        // The loop of tile registers has few iterations; `ask` is for them.
        if s.unit == Unit::Tiles {
            return vec![];
        }
        let number = k.mul(j, group.down);
        let number = k.add(number, i);
        let all = s.group_rows / s.tile_rows * (s.task_columns / self.width);
        let mut lines = ahead::share(k, task.source_a, group.ahead, s.group_rows, number, all);
        if !block.last {
            let number = k.sub(row, task.m0);
            let tall = k.int(s.tile_rows as i64);
            let number = k.div(number, tall);
            let all = s.task_rows / s.tile_rows;
            let next = k.int(s.block_depth as i64);
            let next = [column, k.add(block.k0, next)];
            lines.extend(ahead::share(k, task.source_b, next, self.width, number, all));
        }
        lines
    }

    /// With AMX and A in place, asks for the rows of the next group.
    fn ask(&self, k: &mut Emit, task: &Task, block: &Block, tile: &Tile<'_>, j: Val) {
        let s = self.s;
        if s.a == Access::Direct && task.source_a.step == 1 && s.unit == Unit::Tiles {
            tile.a.prefetch(k, s.group_rows, s.tile_rows, block.depth, j, task.across);
        }
    }
}
