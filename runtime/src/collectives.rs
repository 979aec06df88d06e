//! Collectives between ranks: what the executor needs of a transport.
//!
//! Every mesh axis is a stream: collectives along it happen in the order in which they are started, beside
//! whatever the rank does until it waits for them. This is the shape of NCCL's calls on a stream (with an
//! event for each wait) and of MPI's nonblocking collectives (with a request).
//!
//! Sums are made in the order of the ranks, whoever makes them, so that results repeat to the bit.
//!
//! A divided value is seen as [before, dim, after]: rank i of n has the i-th of n equal parts of `dim`.

mod meeting;
#[cfg(any(feature = "mpi", test))]
mod messages;
#[cfg(any(feature = "mpi", test))]
mod moves;
#[cfg(feature = "mpi")]
mod mpi;
pub mod nccl;
#[cfg(test)]
mod testing;
mod threads;

#[cfg(feature = "mpi")]
pub use messages::Messages;
#[cfg(feature = "mpi")]
pub use mpi::{Mpi, World};
use neoxc_plan::Collective;
pub use threads::{Threads, connect};

use crate::RuntimeError;

/// Names a collective to the rank that started it: its number along its axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticket(pub u64);

/// The sizes that the plan writes for a collective; those that its kind does not have are 1.
pub type Sizes = [usize; 5];

/// A plan's sizes.
pub fn sizes(of: &[u64]) -> Sizes {
    let mut out = [1; 5];
    out.iter_mut().zip(of).for_each(|(o, n)| *o = *n as usize);
    out
}

/// What one rank asks of the others.
pub trait Collectives: Send + Sync {
    /// Starts a collective of a value of these sizes with the ranks that differ along `axis` (its number
    /// in the plan's mesh). Does not wait for them. Reductions sum; the others copy.
    /// `from` and `to` may be the same for an all-reduce and must not overlap otherwise.
    ///
    /// # Safety
    /// Until [`Collectives::wait`] returns, `from` must be left as it is, and nobody may touch `to`. Every
    /// rank of the group must start the same collectives in the same order, and no more may be under way
    /// than the plan's programs have.
    unsafe fn start(
        &self,
        axis: usize,
        kind: Collective,
        shape: Sizes,
        from: *mut f32,
        to: *mut f32,
    ) -> Result<Ticket, RuntimeError>;
    /// Returns when the collective is complete for this rank: `to` is there, `from` is free.
    ///
    /// # Safety
    /// The ticket must be of a collective along `axis` that this rank has not waited for yet.
    unsafe fn wait(&self, axis: usize, ticket: Ticket) -> Result<(), RuntimeError>;
    /// Starts a collective and waits for it.
    ///
    /// # Safety
    /// As for [`Collectives::start`].
    unsafe fn collective(
        &self,
        axis: usize,
        kind: Collective,
        shape: Sizes,
        from: *mut f32,
        to: *mut f32,
    ) -> Result<(), RuntimeError> {
        // SAFETY: the caller's word; the ticket is fresh.
        unsafe {
            let ticket = self.start(axis, kind, shape, from, to)?;
            self.wait(axis, ticket)
        }
    }
    /// Sends the `elements` floats at `from` to the next rank along `axis` (forward), or to the one before, in a ring.
    /// `way` is the direction (forward or not) and the number of the channel in it. Values of a channel are received in the
    /// order in which they were sent. The call returns when at most `ahead` values of the channel have not been received.
    ///
    /// # Safety
    /// The value must stay as it is until it is received, or until [`Collectives::settle`] returns; the other rank must
    /// receive as many elements.
    unsafe fn send(
        &self,
        axis: usize,
        way: (bool, usize),
        from: *const f32,
        elements: usize,
        ahead: usize,
    ) -> Result<(), RuntimeError>;
    /// Receives at `to` the `elements` floats that the rank before along `axis` sent forward on this channel; if the way is not
    /// forward, those that the next rank sent.
    ///
    /// # Safety
    /// `to` must be this rank's to write.
    unsafe fn receive(
        &self,
        axis: usize,
        way: (bool, usize),
        to: *mut f32,
        elements: usize,
    ) -> Result<(), RuntimeError>;
    /// Returns when every value that this rank sent has been received: called at the end of a program.
    fn settle(&self) -> Result<(), RuntimeError>;
    /// Number of ranks along `axis`, and which of them this is.
    fn place(&self, axis: usize) -> (usize, usize);
    /// Tells the others not to wait for this rank any more.
    fn give_up(&self);
}

/// Copies this rank's part of the whole `shape` at `from` to `to`.
///
/// # Safety
/// `from` must hold the whole and `to` the part, without overlap.
pub unsafe fn take_part(
    (ranks, place): (usize, usize),
    from: *const f32,
    to: *mut f32,
    [before, dim, after]: [usize; 3],
) {
    let run = dim / ranks * after;
    for i in 0..before {
        // SAFETY: inside the two ranges, by the caller's word.
        unsafe {
            let part = from.add(i * dim * after + place * run);
            std::ptr::copy_nonoverlapping(part, to.add(i * run), run);
        }
    }
}
