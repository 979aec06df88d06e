//! The schedule of a matmul: an analytic choice of tiles, blocks and operand access.
//!
//! Invariant: `block_depth`, which fixes the order of the sum, depends on the depth, the layout of the operands and the
//! caches alone; so the bits of a result depend neither on the task shape nor on the number of threads.

use crate::emit::{LINE, TILE};
use crate::x86::{Bf16, Cpu};

/// How the register tiles read an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Where it lies.
    Direct,
    /// From panels packed into scratch.
    Packed,
}

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// f32 multiply-adds; a step of the contraction is one element.
    Fma,
    /// Dot products of pairs of bfloat16; a step is a pair, a 32-bit word.
    Dot,
    /// AMX tile registers on such pairs.
    Tiles,
}

impl Unit {
    /// What multiplies pairs on `cpu`.
    pub fn of_pairs(cpu: Cpu) -> Unit {
        match cpu.bf16 {
            Bf16::Widen => Unit::Fma,
            Bf16::Dot => Unit::Dot,
            Bf16::Tiles => Unit::Tiles,
        }
    }

    /// Steps that blocks are whole numbers of, with zeros behind the last.
    pub fn granule(self) -> usize {
        if self == Unit::Tiles { TILE } else { 1 }
    }

    /// Whether rows behind the last whole tile have a tile of their own height.
    pub fn has_lower_tiles(self) -> bool {
        self != Unit::Tiles
    }

    /// Cycles per step of a register tile.
    fn step(self, rows: usize, vectors: usize) -> f64 {
        match self {
            Unit::Fma => (rows * vectors) as f64 / 2.0,
            Unit::Dot => (rows * vectors) as f64,
            // A matmul of two tile registers, 16 steps, takes 16 cycles.
            Unit::Tiles => (rows * vectors) as f64 / TILE as f64,
        }
    }
}

/// The schedule of one matmul.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// What multiplies.
    pub unit: Unit,
    /// Rows of a register tile.
    pub tile_rows: usize,
    /// Vectors across a register tile.
    pub tile_vectors: usize,
    /// Rows of a task.
    pub task_rows: usize,
    /// Columns of a task.
    pub task_columns: usize,
    /// Steps of the contraction per block.
    pub block_depth: usize,
    /// Rows of A packed at a time: whole cache lines of an operand that is contiguous along m.
    pub group_rows: usize,
    /// How tiles read A.
    pub a: Access,
    /// How tiles read B.
    pub b: Access,
}

/// The tasks of a matmul: it changes no bit of the result, which is why it may be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Rows of a task.
    pub rows: usize,
    /// Columns of a task.
    pub columns: usize,
}

/// Cuts that cost at most so much more than the cheapest, by the model, are near ties.
const NEAR: f64 = 1.15;
/// So many of them are worth measuring.
const MOST_TIES: usize = 6;

/// One matmul: sizes, and the strides of its operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// What multiplies.
    pub unit: Unit,
    /// Independent matmuls.
    pub batch: usize,
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Steps of the contraction.
    pub depth: usize,
    /// (row, step) strides of A.
    pub a: (usize, usize),
    /// (column, step) strides of B.
    pub b: (usize, usize),
    /// Which of A and B hold 16-bit floats.
    pub bf16: [bool; 2],
    /// So many neighbouring columns are of one task.
    pub together: usize,
}

impl Problem {
    /// Whether an operand, A or B, has to be widened for the unit: once, where it is packed. Widened at every use, an
    /// element of A would take the port of a multiply-add each time.
    fn widens(&self, operand: usize) -> bool {
        self.unit == Unit::Fma && self.bf16[operand]
    }
}

/// A block of an operand read in place may span this many bytes per step: more would not fit the
/// first-level TLB.
const DIRECT_STEP_BYTES: usize = 512;
/// Register-tile rows of A in place that may share one set of the first-level cache.
const DIRECT_WAYS: usize = 8;
/// A panel of B that the tiles of a group of rows read takes one share in so many of the first-level cache, beside
/// rows of A and sums that were set aside.
const PANEL_SHARE: usize = 2;
/// Cycles to pack an element: contiguous along the panel, or transposed in registers. Reading from
/// beyond the second-level cache dominates.
const PACK_CONTIGUOUS: f64 = 0.9;
const PACK_TRANSPOSED: f64 = 1.4;
/// Cycles per element of an operand read in place by a task.
const READ_DIRECT: f64 = 0.2;
/// Cycles that a line of B costs more, at every use, where it comes from the second-level cache because lines of a panel
/// in place fall into few sets of the first. Measured: m14's head dx on AVX2 (lines 512 bytes apart) loses a tenth.
const CONFLICT: f64 = 0.8;
/// In blocks of fewer steps than these, sums are set aside too often for what a panel in the first-level cache saves.
const FEW_STEPS: usize = 256;
/// Cycles per element to set a partial result aside and fetch it again.
const PARTIAL: f64 = 0.2;
/// Cycles to start a task.
const TASK: f64 = 2000.0;
/// How much each number of tasks at a time counts when tasks are sized: all cores, or twice as many, as a
/// core that others slow down should hold up little.
const CORES: [(usize, f64); 2] = [(1, 0.95), (2, 0.05)];

impl Schedule {
    /// The schedule of the columns behind the last whole tile, of which there are `columns`: a narrower one.
    pub fn of_rest(&self, columns: usize, lanes: usize) -> Schedule {
        match self.unit {
            Unit::Tiles => *self,
            Unit::Fma | Unit::Dot => Schedule { tile_vectors: columns.div_ceil(lanes), ..*self },
        }
    }

    /// The schedule by the model, with the cheapest cut; and cuts that are nearly as cheap, the cheapest first.
    pub fn choose(p: Problem, cpu: Cpu) -> (Schedule, Vec<Cut>) {
        // Accumulators fill the register file, less what one step loads.
        let (tile_rows, most_vectors) = match (p.unit, cpu.lanes) {
            (Unit::Tiles, _) => (2 * TILE, 2),
            (_, 16) => (8, 3),
            _ => (6, 2),
        };
        let tile_vectors = match p.unit {
            Unit::Tiles => most_vectors,
            Unit::Fma | Unit::Dot => p.n.div_ceil(cpu.lanes).min(most_vectors),
        };
        let width = tile_vectors * cpu.lanes;
        let a = access_a(p, tile_rows);
        let group_rows = if p.a.0 == 1 { group_rows(p, tile_rows, cpu) } else { tile_rows };
        let (one_block, most) = depths(p.unit, a, group_rows > tile_rows, width, cpu);
        let blocks = if p.depth <= one_block { 1 } else { p.depth.div_ceil(most) };
        let block_depth = p.depth.div_ceil(blocks).next_multiple_of(cpu.lanes).min(p.depth);
        let block_depth = block_depth.next_multiple_of(p.unit.granule());
        let blocks = p.depth.div_ceil(block_depth);
        let base = Schedule {
            unit: p.unit,
            tile_rows,
            tile_vectors,
            task_rows: tile_rows,
            task_columns: width,
            block_depth,
            group_rows,
            a,
            b: access_b(p, cpu.lanes),
        };
        // What can be read in place may be packed all the same.
        let (found, b) = [base.b, Access::Packed]
            .into_iter()
            .map(|b| (Schedule { b, ..base }.cuts(p, blocks, cpu), b))
            .min_by(|a, b| cost(&a.0).total_cmp(&cost(&b.0)))
            .unwrap_or((vec![], base.b));
        let base = Schedule { b, ..base };
        let most = NEAR * cost(&found);
        let mut near: Vec<Cut> =
            found.into_iter().take_while(|(cost, _)| *cost <= most).map(|(_, cut)| cut).collect();
        near.dedup();
        near.truncate(MOST_TIES);
        (near.first().map_or(base, |cut| base.with(*cut)), near)
    }

    /// The cheapest cut of every height and what it costs, the cheapest first.
    fn cuts(self, p: Problem, blocks: usize, cpu: Cpu) -> Vec<(f64, Cut)> {
        let mut found: Vec<(f64, Cut)> = vec![];
        let width = self.tile_vectors * cpu.lanes;
        let grouped = self.a == Access::Packed && p.m.is_multiple_of(self.group_rows);
        let unit = if grouped { self.group_rows } else { self.tile_rows };
        for rows in splits(p.m, unit, 1) {
            // B's panels must stay in the second-level cache; partial results are asked for before they are needed,
            // but are scratch memory.
            let mut most = cpu.l2 / 2 / (4 * self.block_depth);
            if blocks > 1 {
                most = most.min(cpu.l2 / (4 * rows));
            }
            let pieces = p.n.div_ceil(most.max(width));
            let cuts = splits(p.n, common(width, p.together), pieces).map(|columns| {
                let cut = Cut { rows, columns };
                (self.with(cut).cycles(p, blocks, cpu), cut)
            });
            found.extend(cuts.min_by(|a, b| a.0.total_cmp(&b.0)));
        }
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        found
    }

    /// The same in other tasks.
    pub fn with(self, cut: Cut) -> Schedule {
        Schedule { task_rows: cut.rows, task_columns: cut.columns, ..self }
    }

    /// Estimated cycles of the whole matmul times the cores that share it.
    fn cycles(&self, p: Problem, blocks: usize, cpu: Cpu) -> f64 {
        let (rows, columns) = (p.m.div_ceil(self.task_rows), p.n.div_ceil(self.task_columns));
        let tasks = p.batch * rows * columns;
        let width = self.tile_vectors * cpu.lanes;
        let lines = width.div_ceil(LINE);
        let mut tile = self.unit.step(self.tile_rows, self.tile_vectors);
        if self.b == Access::Direct && strays(p.b.1, lines, self.block_depth, cpu.l1) {
            tile += CONFLICT * lines as f64;
        }
        // Ragged last tasks cost less; the whole ones bound the time.
        let tiles = (self.task_rows / self.tile_rows * (self.task_columns / width)) as f64;
        let depth = p.depth as f64;
        let element = |access, contiguous| match (access, contiguous) {
            (Access::Direct, _) => READ_DIRECT,
            (Access::Packed, true) => PACK_CONTIGUOUS,
            (Access::Packed, false) => PACK_TRANSPOSED,
        };
        let a = self.task_rows as f64 * depth * element(self.a, p.a.0 == 1);
        let b = self.task_columns as f64 * depth * element(self.b, p.b.0 == 1);
        let partial = (self.task_rows * self.task_columns * (blocks - 1)) as f64 * PARTIAL;
        let task = TASK + tiles * tile * depth + a + b + partial;
        let rounds = |n: usize| (n * tasks.div_ceil(n)) as f64;
        CORES.iter().map(|(n, weight)| weight * rounds(n * cpu.cores) * task).sum()
    }
}

/// The longest contraction that is one block, whose sums never leave the registers; and the longest block of a longer
/// one. Setting a tile's sums aside and fetching them again costs as much as a few steps.
fn depths(unit: Unit, a: Access, shared: bool, width: usize, cpu: Cpu) -> (usize, usize) {
    match unit {
        Unit::Tiles => (1024, 1024),
        // A panel of B stays in the first-level cache while the tiles of a group of rows read it.
        Unit::Fma if a == Access::Packed && shared => {
            let panel = cpu.l1 / PANEL_SHARE / (4 * width) / cpu.lanes * cpu.lanes;
            let panel = panel.clamp(64, 512);
            (if panel < FEW_STEPS { 512 } else { panel }, panel)
        }
        // Panels come from the second-level cache as fast as they are used, and with them what is read in place.
        Unit::Fma if a == Access::Direct => (512, 256),
        Unit::Fma | Unit::Dot => (512, 512),
    }
}

/// Rows of an A that is contiguous along m to pack at a time: whole cache lines, whose tiles share each panel of B. Steps
/// lie pages apart, where each costs a translation and the wait for its first line: with AVX2, whose tiles are low, more
/// rows pay (96 instead of 48: 3 % of the weight gradients of m14, m70, m160 and squares), and twice as many where a narrow
/// B leaves them room in the second-level cache (m14's head: 13 % instead of 9).
fn group_rows(p: Problem, tile_rows: usize, cpu: Cpu) -> usize {
    if p.unit == Unit::Tiles || cpu.lanes > 8 {
        return (8 * tile_rows).min(64);
    }
    let bytes = |rows: usize| 4 * FEW_STEPS * rows;
    let many = 32 * tile_rows;
    let room = bytes(many) + bytes(p.n).min(cpu.l2 / 2) <= cpu.l2 / 4 * 3;
    if room { many } else { many / 2 }
}

/// `all` cut into `least` or more equal pieces, each a multiple of `unit`: every count at first, then
/// in growing steps.
fn splits(all: usize, unit: usize, least: usize) -> impl Iterator<Item = usize> {
    let most = all.div_ceil(unit).max(least);
    std::iter::successors(Some(least), move |n| Some(n + 1 + (n - least) / 32))
        .take_while(move |n| *n <= most)
        .map(move |n| all.div_ceil(n).next_multiple_of(unit))
}

/// The least common multiple.
fn common(a: usize, b: usize) -> usize {
    (1..=b).map(|n| n * a).find(|n| n.is_multiple_of(b)).unwrap_or(a)
}

fn access_a(p: Problem, tile_rows: usize) -> Access {
    let (row, step) = p.a;
    let whole = p.m.is_multiple_of(tile_rows);
    let along_k = step == 1 && ways(row, tile_rows) <= DIRECT_WAYS;
    let along_k = along_k && (whole || p.unit.has_lower_tiles() && p.m > tile_rows);
    let along_k = along_k && p.depth.is_multiple_of(p.unit.granule());
    let along_m = whole && p.unit == Unit::Fma && row == 1 && 4 * step <= DIRECT_STEP_BYTES;
    if (along_k || along_m) && !p.widens(0) { Access::Direct } else { Access::Packed }
}

fn access_b(p: Problem, lanes: usize) -> Access {
    let (column, step) = p.b;
    let whole = p.n.is_multiple_of(lanes);
    let near = p.unit == Unit::Fma && column == 1 && 4 * step <= DIRECT_STEP_BYTES;
    if whole && near && !p.widens(1) { Access::Direct } else { Access::Packed }
}

/// What the cheapest of some cuts costs.
fn cost(found: &[(f64, Cut)]) -> f64 {
    found.first().map_or(f64::INFINITY, |(cost, _)| *cost)
}

/// Whether a panel of B would stay in a first-level cache of `l1` bytes and 64 sets if it were packed, but in place, with
/// `lines` lines of each of `steps` steps that are `stride` floats apart, does not.
fn strays(stride: usize, lines: usize, steps: usize, l1: usize) -> bool {
    if lines * steps * 64 > l1 / PANEL_SHARE || !stride.is_multiple_of(LINE) {
        return false;
    }
    let sets = (64 >> (stride / LINE).trailing_zeros().min(6)) * lines;
    lines * steps > sets.min(64) * (l1 / 4096)
}

/// Rows `stride` floats apart that fall into one set of a first-level cache of 64 sets of 64 bytes.
fn ways(stride: usize, rows: usize) -> usize {
    if !(4 * stride).is_multiple_of(64) {
        return 1;
    }
    let lines = stride / 16;
    let sets = 64 >> lines.trailing_zeros().min(6);
    rows.div_ceil(sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(lanes: usize) -> Cpu {
        Cpu { lanes, l1: 48 << 10, l2: lanes << 16, cores: 8, bf16: Bf16::Tiles }
    }

    #[test]
    fn schedules_fit_the_machine() {
        for (lanes, unit) in [(8, Unit::Fma), (16, Unit::Fma), (16, Unit::Dot), (16, Unit::Tiles)] {
            for (m, n, depth) in [(1, 1, 1), (2048, 512, 2048), (512, 50304, 512), (7, 300, 5000)] {
                let (a, b) = ((depth, 1), (depth, 1));
                let p =
                    Problem { unit, batch: 1, m, n, depth, a, b, bf16: [false; 2], together: 1 };
                let (s, _) = Schedule::choose(p, cpu(lanes));
                assert!(s.task_rows.is_multiple_of(s.tile_rows), "{s:?}");
                assert!(s.task_columns.is_multiple_of(s.tile_vectors * lanes), "{s:?}");
                let most = if unit == Unit::Tiles { 1024 } else { 512 };
                assert!(s.block_depth <= depth.next_multiple_of(unit.granule()).min(most), "{s:?}");
                let panel = 4 * s.block_depth * s.task_columns;
                assert!(panel <= cpu(lanes).l2, "{s:?}");
            }
        }
    }

    #[test]
    fn large_matmuls_have_work_for_several_threads() {
        let (unit, a, b) = (Unit::Fma, (512, 1), (512, 1));
        let p = Problem {
            unit,
            batch: 1,
            m: 2048,
            n: 2048,
            depth: 512,
            a,
            b,
            bf16: [false; 2],
            together: 1,
        };
        let (s, near) = Schedule::choose(p, cpu(16));
        assert!(p.m.div_ceil(s.task_rows) * p.n.div_ceil(s.task_columns) >= 8, "{s:?}");
        assert_eq!((s.tile_rows, s.a), (8, Access::Direct));
        assert_eq!(near[0], Cut { rows: s.task_rows, columns: s.task_columns });
        // Only whole tiles, or a kernel would write beyond its scratch.
        let whole = |c: &Cut| c.rows.is_multiple_of(s.tile_rows) && c.columns.is_multiple_of(48);
        assert!(near.len() > 1 && near.iter().all(whole), "{near:?}");
    }

    #[test]
    fn panels_in_place_whose_lines_share_sets_are_packed() {
        // Lines 512 bytes apart fall into 8 of 64 sets; one behind the other, into all.
        assert!(strays(128, 1, 256, 32 << 10) && !strays(16, 1, 256, 32 << 10));
        // Packed, the panel would not stay either.
        assert!(!strays(128, 1, 512, 32 << 10));
        let of = |n: usize| {
            let (unit, m, depth) = (Unit::Fma, 512, 50304);
            let (a, b, bf16) = ((depth, 1), (1, n), [false; 2]);
            let p = Problem { unit, batch: 1, m, n, depth, a, b, bf16, together: 1 };
            Schedule::choose(p, Cpu { l1: 32 << 10, ..cpu(8) }).0
        };
        assert_eq!((of(128).b, of(16).b), (Access::Packed, Access::Direct));
        // 512 rows are 85 tiles and two rows, read in place all the same.
        assert_eq!(of(128).a, Access::Direct);
    }

    #[test]
    fn rows_a_page_apart_share_a_set() {
        assert_eq!(ways(1024, 8), 8);
        assert_eq!(ways(512, 8), 4);
        assert_eq!(ways(48, 8), 1);
        assert_eq!(ways(7, 8), 1);
    }
}
