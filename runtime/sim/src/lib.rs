//! A simulated GPU: it executes the text of PTX kernels on the CPU, one warp instruction after the other.
//!
//! The simulator exists so that kernels for GPUs are run, and checked, on machines that have none. It reads the PTX
//! that a plan carries and nothing else: it knows no kernel of ours and shares no code with what emits them, so that a
//! mistake in one is not repeated in the other. Its facts come from the PTX ISA manual.
//!
//! - [`Module`] reads PTX. An instruction that the simulator does not know is an error with its line.
//! - [`Memory`] is the device's global memory: allocations with a gap between them, so that a stray access is found.
//! - [`launch`] runs a grid of blocks. Warps of 32 lanes run in lockstep; lanes that branched apart run apart, lowest
//!   instruction first, and meet again.
//! - Shared memory is watched: a word that one warp writes and another reads with no barrier between is a [`Fault`],
//!   whatever the values; so is a word that nobody wrote, and a word that an asynchronous copy may still write.
//! - Copies land as early or as late as the kernel allows, and warps run in any [`Order`]: a kernel that is right has
//!   the same bits in all of them.
//!
//! What runs here is right or wrong; how long it would take on a card is not said. [`Counts`] has what a kernel did.
//!
//! ```
//! use neoxc_sim::{Argument, Grid, Memory, Module, Order, launch};
//!
//! let text = "
//! .version 7.0
//! .target sm_80
//! .address_size 64
//! .visible .entry double(.param .u64 data)
//! {
//!     .reg .b32 %r<3>;
//!     .reg .b64 %rd<4>;
//!     ld.param.b64 %rd1, [data];
//!     cvta.to.global.u64 %rd2, %rd1;
//!     mov.u32 %r1, %tid.x;
//!     mul.wide.u32 %rd3, %r1, 4;
//!     add.s64 %rd2, %rd2, %rd3;
//!     ld.global.b32 %r2, [%rd2];
//!     add.rn.f32 %r2, %r2, %r2;
//!     st.global.b32 [%rd2], %r2;
//!     ret;
//! }";
//! let module = Module::parse(text)?;
//! let mut memory = Memory::default();
//! let numbers: Vec<u8> = (0..32).flat_map(|i| (i as f32).to_le_bytes()).collect();
//! let at = memory.allocate(&numbers);
//! let grid = Grid { blocks: [1, 1, 1], threads: [32, 1, 1], shared: 0 };
//! launch(module.kernel("double")?, &grid, &[Argument::Long(at)], &mut memory, Order::Forward)?;
//! let last = memory.read(at, 128)?[124..].try_into()?;
//! assert_eq!(f32::from_le_bytes(last), 62.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod block;
mod counts;
mod decode;
mod fault;
mod instruction;
mod lanes;
mod launch;
mod matrix;
mod memory;
mod module;
mod shared;
mod statements;
mod table;
mod warp;

pub use counts::Counts;
pub use fault::{Fault, Problem, SimError};
pub use launch::{Argument, Grid, Order, launch};
pub use memory::Memory;
pub use module::{Kernel, Module};
