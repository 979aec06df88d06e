//! Runs a GPU's kernels on the simulated one, from their text.

use neoxc_codegen::gpu::{self, BLOCK_THREADS};
use neoxc_codegen::kernels::Kernel;
use neoxc_ir::target::Target;
use neoxc_sim::{Argument, Grid, Memory, Module, Order, launch};

/// Kernels whose MLIR is longer take seconds each to compile for a GPU: matmuls and attention, unrolled.
const LONG: usize = 64 << 10;

/// The kernels that run: all with `NEOXC_SIM=all`; else those that compile quickly, and the first of the others; and
/// how many are left out.
pub fn sample(kernels: impl Iterator<Item = (usize, Kernel)>) -> (Vec<(usize, Kernel)>, usize) {
    let all = std::env::var("NEOXC_SIM").is_ok_and(|v| v == "all");
    let (some, rest): (Vec<_>, Vec<_>) = kernels.partition(|(_, k)| all || k.mlir.len() <= LONG);
    let left = rest.len().saturating_sub(1);
    (some.into_iter().chain(rest.into_iter().take(1)).collect(), left)
}

/// Kernels as the simulator reads them.
pub struct Loaded(Module);

impl Loaded {
    pub fn of<'a>(kernels: impl Iterator<Item = &'a Kernel>, target: Target) -> Loaded {
        let kernels: Vec<Kernel> = kernels.cloned().collect();
        let text = String::from_utf8(gpu::compile(&kernels, target, None).unwrap().file).unwrap();
        Loaded(Module::parse(&text).unwrap_or_else(|e| panic!("{e}")))
    }

    /// Runs all tasks of `kernel` on what `operands` hold; what they hold then.
    pub fn run(&self, kernel: &Kernel, operands: &[Vec<u8>], order: Order) -> Vec<Vec<u8>> {
        let blocks = (kernel.tasks as usize).div_ceil(BLOCK_THREADS);
        let mut memory = Memory::default();
        let scratch = vec![0xff; blocks * BLOCK_THREADS * kernel.scratch_bytes as usize];
        let at: Vec<u64> = operands.iter().map(|o| memory.allocate(o)).collect();
        let mut arguments: Vec<Argument> = at.iter().map(|a| Argument::Long(*a)).collect();
        let scratch = memory.allocate(&scratch);
        arguments.extend([scratch, kernel.scratch_bytes / 4, kernel.tasks].map(Argument::Long));
        let threads = [BLOCK_THREADS as u32, 1, 1];
        let grid = Grid { blocks: [blocks as u32, 1, 1], threads, shared: 0 };
        let entry = self.0.kernel(&kernel.symbol).unwrap();
        launch(entry, &grid, &arguments, &mut memory, order).unwrap_or_else(|e| panic!("{e}"));
        at.iter().zip(operands).map(|(a, o)| memory.read(*a, o.len()).unwrap().to_vec()).collect()
    }
}
