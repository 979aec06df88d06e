//! Exchanges between ranks: what the executor needs of a transport.
//!
//! Sums are made in the order of the ranks, whoever makes them, so that results repeat to the bit.
//!
//! A divided value is seen as [before, dim, after]: rank i of n has the i-th of n equal parts of `dim`.

mod threads;

pub use threads::{Threads, connect};

use crate::RuntimeError;

/// What one rank asks of the others.
pub trait Collectives: Send {
    /// Sums `elements` floats at `from` over the ranks that differ along `axis` (its number in the
    /// plan's mesh) and leaves the sum at `to` on each of them. `from` and `to` may be the same.
    ///
    /// # Safety
    /// Both ranges must be this rank's to use until the call returns, and every rank of the group
    /// must make the same calls in the same order.
    unsafe fn all_reduce(
        &self,
        axis: usize,
        from: *mut f32,
        to: *mut f32,
        elements: usize,
    ) -> Result<(), RuntimeError>;
    /// As [`Collectives::all_reduce`], but each rank gets only its part of the sum. `from` holds the
    /// whole `shape`; `to` must not overlap it.
    ///
    /// # Safety
    /// As for [`Collectives::all_reduce`].
    unsafe fn reduce_scatter(
        &self,
        axis: usize,
        from: *mut f32,
        to: *mut f32,
        shape: [usize; 3],
    ) -> Result<(), RuntimeError>;
    /// Puts the parts at every rank's `from` together to the whole `shape` at `to`, which must not
    /// overlap `from`.
    ///
    /// # Safety
    /// As for [`Collectives::all_reduce`].
    unsafe fn all_gather(
        &self,
        axis: usize,
        from: *mut f32,
        to: *mut f32,
        shape: [usize; 3],
    ) -> Result<(), RuntimeError>;
    /// Makes what is divided along the first dim of [before, first, between, second, after] divided
    /// along the second one (`back`: the other way round). `from` and `to` hold a part each and must
    /// not overlap.
    ///
    /// # Safety
    /// As for [`Collectives::all_reduce`].
    unsafe fn all_to_all(
        &self,
        axis: usize,
        back: bool,
        from: *mut f32,
        to: *mut f32,
        shape: [usize; 5],
    ) -> Result<(), RuntimeError>;
    /// Gives `elements` floats at `from` to the next rank along `axis`, or to the one before. They must
    /// stay as they are until the other has taken them; the call returns when at most `ahead` values
    /// given that way have not been taken.
    ///
    /// # Safety
    /// `from` must stay valid until it is taken; the other rank must take as many elements.
    unsafe fn send(
        &self,
        axis: usize,
        forward: bool,
        from: *const f32,
        ahead: usize,
    ) -> Result<(), RuntimeError>;
    /// Takes `elements` floats that the rank before along `axis` gave (the next one, if not `forward`)
    /// and leaves them at `to`.
    ///
    /// # Safety
    /// `to` must be this rank's to write.
    unsafe fn receive(
        &self,
        axis: usize,
        forward: bool,
        to: *mut f32,
        elements: usize,
    ) -> Result<(), RuntimeError>;
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
