//! The schedule of a matrix product: an analytic choice of tiles, blocks and operand access.
//!
//! Invariant: `block_depth`, which fixes the order of the sum, depends on the depth alone; so the
//! bits of a result depend neither on the task shape nor on the number of threads.

use crate::x86::Cpu;

/// How the register tiles read an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Where it lies.
    Direct,
    /// From panels packed into scratch.
    Packed,
}

/// The schedule of one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
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

/// One product: sizes, and the strides of its operands.
#[derive(Debug, Clone, Copy)]
pub struct Problem {
    /// Independent products.
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
}

/// The longest contraction that is one block, whose sums never leave the registers.
const ONE_BLOCK: usize = 512;
/// Longest block of a longer one: a tile's rows of A and a panel of B fit the first-level cache together.
const MOST_DEPTH: usize = 256;
/// A block of an operand read in place may span this many bytes per step: more would not fit the
/// first-level TLB.
const DIRECT_STEP_BYTES: usize = 512;
/// Register-tile rows of A in place that may share one set of the first-level cache.
const DIRECT_WAYS: usize = 8;
/// Cycles to pack an element: contiguous along the panel, or transposed in registers. Reading from
/// beyond the second-level cache dominates.
const PACK_CONTIGUOUS: f64 = 0.4;
const PACK_TRANSPOSED: f64 = 0.8;
/// Cycles per element of an operand read in place by a task.
const READ_DIRECT: f64 = 0.2;
/// Cycles per element to set a partial result aside and fetch it again.
const PARTIAL: f64 = 0.25;
/// Cycles to start a task.
const TASK: f64 = 2000.0;
/// How much each number of tasks at a time counts when tasks are sized: all cores, or twice as many, as a
/// core that others slow down should hold up little.
const CORES: [(usize, f64); 2] = [(1, 0.7), (2, 0.3)];

impl Schedule {
    /// The cheapest schedule by the model.
    pub fn choose(p: Problem, cpu: Cpu) -> Schedule {
        // Accumulators fill the register file, less what one step loads.
        let tiles: &[(usize, usize)] =
            if cpu.lanes == 16 { &[(8, 3), (8, 2)] } else { &[(6, 2), (4, 3)] };
        let work =
            |(r, v): (usize, usize)| p.m.next_multiple_of(r) * p.n.next_multiple_of(v * cpu.lanes);
        let (tile_rows, tile_vectors) =
            tiles.iter().copied().min_by_key(|t| work(*t)).expect("the list of tiles is not empty");
        let blocks = if p.depth <= ONE_BLOCK { 1 } else { p.depth.div_ceil(MOST_DEPTH) };
        let block_depth = p.depth.div_ceil(blocks).next_multiple_of(cpu.lanes).min(p.depth);
        let blocks = p.depth.div_ceil(block_depth);
        let width = tile_vectors * cpu.lanes;
        let base = Schedule {
            tile_rows,
            tile_vectors,
            task_rows: tile_rows,
            task_columns: width,
            block_depth,
            group_rows: if p.a.0 == 1 { 8 * tile_rows } else { tile_rows },
            a: access_a(p, tile_rows),
            b: access_b(p, width),
        };
        let mut best = (f64::INFINITY, base);
        let grouped = base.a == Access::Packed && p.m.is_multiple_of(base.group_rows);
        let unit = if grouped { base.group_rows } else { tile_rows };
        for rows in splits(p.m, unit, 1) {
            // B's panels and the partial results must stay in the second-level cache.
            let mut most = cpu.l2 / 2 / (4 * block_depth);
            if blocks > 1 {
                most = most.min(cpu.l2 / 4 / (4 * rows));
            }
            let pieces = p.n.div_ceil(most.max(width));
            for columns in splits(p.n, width, pieces) {
                let s = Schedule { task_rows: rows, task_columns: columns, ..base };
                let cost = s.cycles(p, blocks, cpu);
                if cost < best.0 {
                    best = (cost, s);
                }
            }
        }
        best.1
    }

    /// Estimated cycles of the whole product times the cores that share it.
    fn cycles(&self, p: Problem, blocks: usize, cpu: Cpu) -> f64 {
        let (rows, columns) = (p.m.div_ceil(self.task_rows), p.n.div_ceil(self.task_columns));
        let tasks = p.batch * rows * columns;
        let tile = (self.tile_rows * self.tile_vectors) as f64 / 2.0;
        // Ragged last tasks cost less; the whole ones bound the time.
        let width = self.tile_vectors * cpu.lanes;
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

/// `all` cut into `least` or more equal pieces, each a multiple of `unit`: every count at first, then
/// in growing steps.
fn splits(all: usize, unit: usize, least: usize) -> impl Iterator<Item = usize> {
    let most = all.div_ceil(unit).max(least);
    std::iter::successors(Some(least), move |n| Some(n + 1 + (n - least) / 32))
        .take_while(move |n| *n <= most)
        .map(move |n| all.div_ceil(n).next_multiple_of(unit))
}

fn access_a(p: Problem, tile_rows: usize) -> Access {
    let (row, step) = p.a;
    let whole = p.m.is_multiple_of(tile_rows);
    let along_k = step == 1 && ways(row, tile_rows) <= DIRECT_WAYS;
    let along_m = row == 1 && 4 * step <= DIRECT_STEP_BYTES;
    if whole && (along_k || along_m) { Access::Direct } else { Access::Packed }
}

fn access_b(p: Problem, width: usize) -> Access {
    let (column, step) = p.b;
    let whole = p.n.is_multiple_of(width);
    let near = column == 1 && 4 * step <= DIRECT_STEP_BYTES;
    if whole && near { Access::Direct } else { Access::Packed }
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
        Cpu { lanes, l2: lanes << 16, cores: 8 }
    }

    #[test]
    fn schedules_fit_the_machine() {
        for lanes in [8, 16] {
            for (m, n, depth) in [(1, 1, 1), (2048, 512, 2048), (512, 50304, 512), (7, 300, 5000)] {
                let p = Problem { batch: 1, m, n, depth, a: (depth, 1), b: (depth, 1) };
                let s = Schedule::choose(p, cpu(lanes));
                assert!(s.task_rows.is_multiple_of(s.tile_rows), "{s:?}");
                assert!(s.task_columns.is_multiple_of(s.tile_vectors * lanes), "{s:?}");
                assert!(s.block_depth <= depth && s.block_depth <= ONE_BLOCK, "{s:?}");
                let panel = 4 * s.block_depth * s.task_columns;
                assert!(panel <= cpu(lanes).l2, "{s:?}");
            }
        }
    }

    #[test]
    fn large_products_have_work_for_several_threads() {
        let p = Problem { batch: 1, m: 2048, n: 2048, depth: 512, a: (512, 1), b: (512, 1) };
        let s = Schedule::choose(p, cpu(16));
        assert!(p.m.div_ceil(s.task_rows) * p.n.div_ceil(s.task_columns) >= 8, "{s:?}");
        assert_eq!((s.tile_rows, s.a), (8, Access::Direct));
    }

    #[test]
    fn rows_a_page_apart_share_a_set() {
        assert_eq!(ways(1024, 8), 8);
        assert_eq!(ways(512, 8), 4);
        assert_eq!(ways(48, 8), 1);
        assert_eq!(ways(7, 8), 1);
    }
}
