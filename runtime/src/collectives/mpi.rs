//! Messages over MPI. All calls are made under one lock, which MPI's `SERIALIZED` level asks for.

use std::ptr;

use mpi::environment::Universe;
use mpi::ffi;
use mpi::topology::Communicator;
use mpi::traits::AsRaw;

use super::messages::Wire;
use crate::RuntimeError;

/// MPI, initialised.
pub struct World {
    // Dropping it finalises MPI, which waits for all ranks: a failed rank leaves it alone.
    universe: std::mem::ManuallyDrop<Universe>,
    /// Which rank this process is.
    pub rank: u64,
    /// Number of processes.
    pub ranks: u64,
}

fn wrong(what: &str) -> RuntimeError {
    RuntimeError::Link(format!("MPI: {what}"))
}

/// An error for a call that did not succeed.
fn check(what: &str, code: i32) -> Result<(), RuntimeError> {
    if code == ffi::MPI_SUCCESS as i32 {
        return Ok(());
    }
    let mut text = [0u8; ffi::MPI_MAX_ERROR_STRING as usize];
    let mut len = 0;
    // SAFETY: the buffer has the size that MPI asks for.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut len) };
    let text = String::from_utf8_lossy(&text[..len.clamp(0, text.len() as i32) as usize]);
    Err(wrong(&format!("{what}: {text}")))
}

impl World {
    /// Joins the processes that were started together. Once in a process.
    pub fn join() -> Result<World, RuntimeError> {
        let (universe, level) = mpi::initialize_with_threading(mpi::Threading::Serialized)
            .ok_or_else(|| wrong("is initialised already"))?;
        if level < mpi::Threading::Serialized {
            return Err(wrong("this library cannot be called from several threads in turn"));
        }
        let world = universe.world();
        let (rank, ranks) = (world.rank() as u64, world.size() as u64);
        // SAFETY: the communicator is MPI's own.
        let done =
            unsafe { ffi::MPI_Comm_set_errhandler(world.as_raw(), ffi::RSMPI_ERRORS_RETURN) };
        check("MPI_Comm_set_errhandler", done)?;
        Ok(World { universe: std::mem::ManuallyDrop::new(universe), rank, ranks })
    }

    /// The wire between all processes.
    pub fn wire(&self) -> Mpi {
        Mpi { comm: self.universe.world().as_raw() }
    }

    /// Every process' `bytes`, in order. For the start: waits for all, however long it takes.
    pub fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        use mpi::traits::CommunicatorCollectives;
        let world = self.universe.world();
        let mut lengths = vec![0u64; self.ranks as usize];
        world.all_gather_into(&(bytes.len() as u64), &mut lengths[..]);
        let most = lengths.iter().copied().max().unwrap_or(0) as usize;
        let mut padded = bytes.to_vec();
        padded.resize(most, 0);
        let mut all = vec![0u8; most * lengths.len()];
        world.all_gather_into(&padded[..], &mut all[..]);
        let part = |(n, len): (usize, &u64)| all[n * most..n * most + *len as usize].to_vec();
        lengths.iter().enumerate().map(part).collect()
    }

    /// Leaves together with all others.
    pub fn leave(self) {
        drop(std::mem::ManuallyDrop::into_inner(self.universe));
    }
}

/// Messages between processes.
pub struct Mpi {
    comm: ffi::MPI_Comm,
}

// SAFETY: handles of OpenMPI are pointers to what the library guards; calls are made one at a time.
unsafe impl Send for Mpi {}

/// A request of MPI.
pub struct Request(ffi::MPI_Request);

// SAFETY: as above.
unsafe impl Send for Request {}

fn count(len: usize) -> Result<i32, RuntimeError> {
    i32::try_from(len).map_err(|_| wrong(&format!("a message of {len} bytes is too long")))
}

impl Wire for Mpi {
    type Request = Request;

    unsafe fn send(
        &mut self,
        rank: u64,
        tag: u32,
        from: *const u8,
        len: usize,
    ) -> Result<Request, RuntimeError> {
        // SAFETY: every bit pattern is a handle's until it is written.
        let mut request = Request(unsafe { std::mem::zeroed() });
        let (rank, tag, len) = (rank as i32, tag as i32, count(len)?);
        // SAFETY: the caller keeps the bytes until the request is done.
        let done = unsafe {
            let bytes = ffi::RSMPI_UINT8_T;
            ffi::MPI_Isend(from.cast(), len, bytes, rank, tag, self.comm, &mut request.0)
        };
        check("MPI_Isend", done).map(|()| request)
    }

    unsafe fn receive(
        &mut self,
        rank: u64,
        tag: u32,
        to: *mut u8,
        len: usize,
    ) -> Result<Request, RuntimeError> {
        // SAFETY: as above.
        let mut request = Request(unsafe { std::mem::zeroed() });
        let (rank, tag, len) = (rank as i32, tag as i32, count(len)?);
        // SAFETY: the caller leaves the bytes alone until the request is done.
        let done = unsafe {
            let bytes = ffi::RSMPI_UINT8_T;
            ffi::MPI_Irecv(to.cast(), len, bytes, rank, tag, self.comm, &mut request.0)
        };
        check("MPI_Irecv", done).map(|()| request)
    }

    fn done(&mut self, request: &mut Request) -> Result<bool, RuntimeError> {
        let mut flag = 0;
        // SAFETY: a request that is done becomes the null request, which is done.
        let done = unsafe { ffi::MPI_Test(&mut request.0, &mut flag, ptr::null_mut()) };
        check("MPI_Test", done)?;
        Ok(flag != 0)
    }
}
