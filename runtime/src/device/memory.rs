//! One allocation of zeroed, page-aligned memory.

use crate::RuntimeError;

/// A segment of the plan, mapped once and never moved.
pub struct Segment {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the segment owns its mapping; threads coordinate their accesses (see `pool`).
unsafe impl Send for Segment {}
// SAFETY: shared references only hand out the base pointer and the size.
unsafe impl Sync for Segment {}

impl Segment {
    /// Maps `bytes` of zeroed memory, with huge pages where the system offers them.
    pub fn new(bytes: u64) -> Result<Segment, RuntimeError> {
        let bytes = usize::try_from(bytes.max(64))
            .map_err(|_| RuntimeError::Settings(format!("cannot address {bytes} bytes")))?;
        // SAFETY: an anonymous private mapping touches no existing memory; failure is checked.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(RuntimeError::Settings(format!(
                "cannot allocate {bytes} bytes: {}",
                std::io::Error::last_os_error()
            )));
        }
        // SAFETY: the range was just mapped; advice does not change its contents.
        unsafe { libc::madvise(base, bytes, libc::MADV_HUGEPAGE) };
        Ok(Segment { base: base.cast(), bytes })
    }

    /// First byte.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Never: a segment has at least a cache line.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes `offset ..`, while no kernel changes them.
    ///
    /// # Panics
    /// If the range leaves the segment.
    pub fn slice(&self, offset: u64, len: usize) -> &[u8] {
        let at = usize::try_from(offset).expect("offsets of validated plans fit");
        assert!(at + len <= self.bytes, "range leaves the segment");
        // SAFETY: in range; whoever reads has the device idle, or its memory on loan (`gate`).
        unsafe { std::slice::from_raw_parts(self.base.add(at), len) }
    }

    /// The same, to write.
    ///
    /// # Panics
    /// If the range leaves the segment.
    ///
    /// # Safety
    /// Nobody else uses these bytes while the slice lives.
    #[allow(clippy::mut_from_ref)] // a segment is shared with those it is lent to
    pub unsafe fn slice_mut(&self, offset: u64, len: usize) -> &mut [u8] {
        let at = usize::try_from(offset).expect("offsets of validated plans fit");
        assert!(at + len <= self.bytes, "range leaves the segment");
        // SAFETY: in range, and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(at), len) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size and is not used afterwards.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}
