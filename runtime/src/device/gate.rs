//! Memory on loan: a device runs on while somebody reads its weights and optimizer state, and waits only before an
//! instruction that would change them.
//!
//! That is how a checkpoint is written without a copy of the state: in a training step, only the update at
//! its end changes it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::memory::Segment;

/// Counts the loans of a device's memory.
#[derive(Default)]
pub struct Gate {
    loans: AtomicUsize,
    /// Guards nothing but the sleep: the number above may be looked at without it.
    sleep: Mutex<()>,
    returned: Condvar,
    /// Whether the device waits, and how long it has in all.
    waiting: AtomicBool,
    waited: AtomicU64,
}

impl Gate {
    /// Returns when nothing is lent.
    pub fn wait(&self) {
        if self.loans.load(Ordering::Acquire) == 0 {
            return;
        }
        let start = Instant::now();
        self.waiting.store(true, Ordering::Relaxed);
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        while self.loans.load(Ordering::Acquire) != 0 {
            guard = self.returned.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.store(false, Ordering::Relaxed);
        self.waited.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// How long the device has waited in all.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }
}

/// A device's memory, to read. What a program may change meanwhile (activations, gradients) is of no use.
pub struct Loan {
    segments: Vec<Arc<Segment>>,
    gate: Arc<Gate>,
}

impl Loan {
    /// Lends `segments` until the loan is dropped.
    pub fn new(segments: &[Arc<Segment>], gate: &Arc<Gate>) -> Loan {
        gate.loans.fetch_add(1, Ordering::AcqRel);
        Loan { segments: segments.to_vec(), gate: gate.clone() }
    }

    /// Bytes of a segment that is part of the state.
    ///
    /// # Panics
    /// If the range leaves the segment.
    pub fn bytes(&self, segment: usize, offset: u64, len: usize) -> &[u8] {
        self.segments[segment].slice(offset, len)
    }

    /// Whether the device waits to have it back.
    pub fn wanted(&self) -> bool {
        self.gate.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let _guard = self.gate.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.gate.loans.fetch_sub(1, Ordering::AcqRel);
        self.gate.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_would_change_lent_memory_waits_until_it_is_back() {
        let gate = Arc::new(Gate::default());
        let segments = [Arc::new(Segment::new(64).unwrap())];
        gate.wait();
        let loans = [Loan::new(&segments, &gate), Loan::new(&segments, &gate)];
        assert!(!loans[0].wanted());
        let seen = AtomicUsize::new(0);
        std::thread::scope(|s| {
            s.spawn(|| {
                gate.wait();
                // Both are back by now.
                seen.store(2 - gate.loans.load(Ordering::SeqCst), Ordering::SeqCst);
            });
            for loan in loans {
                std::thread::sleep(Duration::from_millis(10));
                while !loan.wanted() {
                    std::thread::yield_now();
                }
                assert_eq!(seen.load(Ordering::SeqCst), 0);
                assert_eq!(loan.bytes(0, 0, 64), [0; 64]);
            }
        });
        assert_eq!(seen.load(Ordering::SeqCst), 2);
        assert!(!gate.waiting.load(Ordering::SeqCst) && gate.waited() > Duration::ZERO);
    }
}
