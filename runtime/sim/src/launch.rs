//! A grid of blocks, one behind the other.

use crate::block;
use crate::counts::Counts;
use crate::fault::SimError;
use crate::lanes::WIDTH;
use crate::memory::Memory;
use crate::module::Kernel;

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block in x, y and z; at most 1,024.
    pub threads: [u32; 3],
    /// Bytes of shared memory beyond what the kernel declares.
    pub shared: u32,
}

/// What a parameter of a kernel is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// 4 bytes.
    Word(u32),
    /// 8 bytes: an address, too.
    Long(u64),
    /// A structure.
    Bytes(Vec<u8>),
}

/// In which order what has no order happens. A kernel that is right has the same result in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Blocks and warps by their numbers; copies land when they start.
    Forward,
    /// The other way round; copies land when they are waited for.
    Backward,
    /// Any: of this seed.
    Seeded(u64),
}

impl Order {
    /// Whether copies land as late as they may.
    pub(crate) fn late(self) -> bool {
        match self {
            Order::Forward => false,
            Order::Backward => true,
            Order::Seeded(seed) => seed & 1 == 1,
        }
    }

    /// `0..count` in this order; `round` says how often it was asked.
    pub(crate) fn of(self, count: usize, round: u64) -> Vec<usize> {
        let mut all: Vec<usize> = (0..count).collect();
        match self {
            Order::Forward => {}
            Order::Backward => all.reverse(),
            Order::Seeded(seed) => {
                let mut state = seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for i in (1..count).rev() {
                    // SplitMix64.
                    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mut z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                    all.swap(i, ((z ^ z >> 31) % (i as u64 + 1)) as usize);
                }
            }
        }
        all
    }
}

/// Runs all blocks of a grid to their ends.
///
/// # Errors
/// If arguments or the grid do not fit the kernel, and on the first [`Fault`](crate::Fault); memory then holds what was
/// written before it.
pub fn launch(
    kernel: &Kernel,
    grid: &Grid,
    arguments: &[Argument],
    memory: &mut Memory,
    order: Order,
) -> Result<Counts, SimError> {
    let parameters = parameters(kernel, arguments)?;
    let product = |sizes: [u32; 3]| sizes.iter().map(|s| u64::from(*s)).product::<u64>();
    let threads = product(grid.threads);
    if threads == 0 || threads > 1024 {
        return Err(SimError::Launch(format!("a block has 1 to 1,024 threads, not {threads}")));
    }
    if kernel.threads.is_some_and(|t| t != grid.threads) {
        let (name, wanted, given) = (&kernel.name, kernel.threads, grid.threads);
        return Err(SimError::Launch(format!("{name} wants blocks of {wanted:?}, not {given:?}")));
    }
    let mut counts = Counts::default();
    for number in order.of(product(grid.blocks) as usize, 0) {
        block::run(kernel, grid, number as u64, &parameters, memory, &mut counts, order)?;
    }
    Ok(counts)
}

/// The bytes that parameters are read from.
fn parameters(kernel: &Kernel, arguments: &[Argument]) -> Result<Vec<u8>, SimError> {
    let (wanted, given) = (kernel.parameters.len(), arguments.len());
    if wanted != given {
        let name = &kernel.name;
        return Err(SimError::Launch(format!("{name} has {wanted} parameters, not {given}")));
    }
    let mut all = vec![];
    for (p, a) in kernel.parameters.iter().zip(arguments) {
        let bytes = match a {
            Argument::Word(x) => x.to_le_bytes().to_vec(),
            Argument::Long(x) => x.to_le_bytes().to_vec(),
            Argument::Bytes(x) => x.clone(),
        };
        if bytes.len() != p.bytes {
            let (name, wanted, given) = (&p.name, p.bytes, bytes.len());
            return Err(SimError::Launch(format!("{name} has {wanted} bytes, not {given}")));
        }
        all.resize(p.offset, 0);
        all.extend(bytes);
    }
    Ok(all)
}

/// Warps of a block.
pub(crate) fn warps(grid: &Grid) -> usize {
    let threads: u32 = grid.threads.iter().product();
    (threads as usize).div_ceil(WIDTH)
}
