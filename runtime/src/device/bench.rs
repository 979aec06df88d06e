//! Kernels of a library on buffers of their own, outside any plan.

use super::cpu::load;
use super::memory::Segment;
use super::pool::{Entry, Pool};
use crate::RuntimeError;

/// A library, buffers and threads.
pub struct Bench {
    // Pointers of the buffers.
    args: Vec<*mut u8>,
    pool: Pool,
    _buffers: Vec<Segment>,
    library: libloading::Library,
    // The library's file: see `CpuDevice`.
    _file: std::fs::File,
}

impl Bench {
    /// Loads `library` and makes buffers of these bytes, for threads with so much scratch memory each.
    pub fn new(
        library: &[u8],
        buffers: &[u64],
        threads: usize,
        scratch: u64,
    ) -> Result<Bench, RuntimeError> {
        let (library, file) = load(library)?;
        super::tiles::allow(&library)?;
        let buffers =
            buffers.iter().map(|b| Segment::new(*b)).collect::<Result<Vec<_>, RuntimeError>>()?;
        for b in &buffers {
            // 1 in bfloat16, and about 1 in f32: memory that was never written would be one page of zeros.
            // SAFETY: nobody else knows the buffer yet.
            let bytes = unsafe { b.slice_mut(0, b.len()) };
            bytes.chunks_exact_mut(2).for_each(|c| c.copy_from_slice(&[0x80, 0x3f]));
        }
        let args = buffers.iter().map(Segment::base).collect();
        let pool = Pool::new(threads, scratch)?;
        Ok(Bench { args, pool, _buffers: buffers, library, _file: file })
    }

    /// Runs all tasks of a kernel, whose parameters and results are the buffers.
    pub fn launch(&mut self, symbol: &str, tasks: u64) -> Result<(), RuntimeError> {
        // SAFETY: the symbol was compiled with the kernel ABI.
        let entry = unsafe { self.library.get::<Entry>(symbol.as_bytes()) };
        let entry = *entry.map_err(|e| RuntimeError::Kernels(format!("{symbol}: {e}")))?;
        // SAFETY: the compiler made the kernel for buffers of these sizes, and they are this bench's own.
        unsafe { self.pool.launch(entry, self.args.as_ptr(), tasks) };
        Ok(())
    }
}
