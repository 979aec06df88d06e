//! A device: segments of memory, kernels, and the execution of instruction lists.

mod bench;
mod check;
mod cpu;
mod gate;
pub(crate) mod limits;
mod log;
mod memory;
mod pool;
mod staged;
pub(crate) mod tiles;

pub use bench::Bench;
pub use check::Found;
pub use cpu::{CpuDevice, check_memory, check_processor};
pub use gate::{Gate, Loan};
pub use limits::check as check_bytes;
pub use log::{Event, What};
pub use memory::Segment;

use crate::RuntimeError;

/// What the executor needs of a machine. Addresses are (segment, byte offset).
pub trait Device {
    /// Runs a program of the plan from its first to its last instruction.
    fn run(&mut self, program: &str) -> Result<(), RuntimeError>;
    /// Copies bytes into a segment.
    fn write(&mut self, segment: usize, offset: u64, bytes: &[u8]);
    /// Copies bytes out of a segment.
    fn read(&self, segment: usize, offset: u64, bytes: &mut [u8]);
    /// Number of threads or streams that share a launch.
    fn width(&self) -> usize;
}
