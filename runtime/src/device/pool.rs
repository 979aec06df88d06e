//! Threads that execute one launch together.
//!
//! The caller is thread 0. A launch is published under an epoch counter; helpers spin briefly for the
//! next epoch and then sleep. Tasks are taken from a shared counter in small batches: they are
//! independent and write disjoint bytes, so who runs which does not change the result. Nothing
//! here allocates or locks once the threads run, except to sleep.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use super::memory::Segment;
use crate::backoff::Backoff;

/// A compiled kernel.
pub type Entry = unsafe extern "C" fn(*const *mut u8, i64, i64, *mut u8);

#[derive(Clone, Copy)]
struct Job {
    entry: Entry,
    args: *const *mut u8,
    tasks: u64,
    batch: u64,
}

struct Shared {
    epoch: AtomicU64,
    next: AtomicU64,
    busy: AtomicUsize,
    stop: AtomicBool,
    job: UnsafeCell<Option<Job>>,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

// SAFETY: `job` is written only while no helper is busy, before the epoch is advanced with release
// ordering, and read by helpers only after they have seen the new epoch with acquire ordering.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointers in a job stay valid for the launch; see `Pool::launch`.
unsafe impl Send for Shared {}

/// Rounds of spinning before a helper sleeps: a few tens of microseconds.
const SPINS: u32 = 20_000;

/// The threads.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    scratch: Segment,
}

fn work(job: Job, next: &AtomicU64, scratch: *mut u8) {
    loop {
        let lo = next.fetch_add(job.batch, Ordering::Relaxed);
        if lo >= job.tasks {
            return;
        }
        let hi = (lo + job.batch).min(job.tasks);
        // SAFETY: the kernel ABI: `args` has the kernel's arguments, `[lo, hi)` lies in its tasks,
        // `scratch` is this thread's own.
        unsafe { (job.entry)(job.args, lo as i64, hi as i64, scratch) };
    }
}

impl Pool {
    /// `threads` threads, the caller included, each with `scratch` bytes.
    pub fn new(threads: usize, scratch: u64) -> Result<Pool, crate::RuntimeError> {
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            next: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        let mut helpers = vec![];
        for n in 1..threads.max(1) {
            let shared = shared.clone();
            let memory = Segment::new(scratch)?;
            let helper = std::thread::Builder::new()
                .name(format!("neoxc-{n}"))
                .spawn(move || helper(&shared, &memory))
                .map_err(|e| crate::RuntimeError::Kernels(format!("cannot start a thread: {e}")))?;
            helpers.push(helper);
        }
        Ok(Pool { shared, helpers, scratch: Segment::new(scratch)? })
    }

    /// Number of threads.
    pub fn width(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs all tasks of a kernel and returns when they are done.
    ///
    /// # Safety
    /// `entry` must have the kernel ABI for the buffers in `args`, and these must stay valid and
    /// untouched by others until this returns.
    pub unsafe fn launch(&mut self, entry: Entry, args: *const *mut u8, tasks: u64) {
        let s = &*self.shared;
        let width = self.width() as u64;
        if tasks < 2 || self.helpers.is_empty() {
            // SAFETY: the caller's promise.
            unsafe { entry(args, 0, tasks as i64, self.scratch.base()) };
            return;
        }
        let batch = (tasks / (8 * width)).max(1);
        let job = Job { entry, args, tasks, batch };
        // SAFETY: helpers are idle (busy == 0 after the last launch), so nobody reads `job` now.
        unsafe { *s.job.get() = Some(job) };
        s.next.store(0, Ordering::Relaxed);
        s.busy.store(self.helpers.len(), Ordering::Relaxed);
        s.epoch.fetch_add(1, Ordering::Release);
        if *s.sleepers.lock().unwrap_or_else(|e| e.into_inner()) > 0 {
            s.wake.notify_all();
        }
        work(job, &s.next, self.scratch.base());
        let mut backoff = Backoff::new(false);
        while s.busy.load(Ordering::Acquire) > 0 {
            backoff.pause();
        }
    }
}

fn helper(s: &Shared, scratch: &Segment) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while s.epoch.load(Ordering::Acquire) == seen {
            if s.stop.load(Ordering::Relaxed) {
                return;
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            let mut sleepers = s.sleepers.lock().unwrap_or_else(|e| e.into_inner());
            *sleepers += 1;
            while s.epoch.load(Ordering::Acquire) == seen && !s.stop.load(Ordering::Relaxed) {
                sleepers = s.wake.wait(sleepers).unwrap_or_else(|e| e.into_inner());
            }
            *sleepers -= 1;
        }
        seen += 1;
        // SAFETY: the epoch was advanced after `job` was written, and it is not written again before
        // this helper reports that it is done.
        if let Some(job) = unsafe { *s.job.get() } {
            work(job, &s.next, scratch.base());
        }
        s.busy.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        {
            let _guard = self.shared.sleepers.lock().unwrap_or_else(|e| e.into_inner());
            self.shared.wake.notify_all();
        }
        for h in self.helpers.drain(..) {
            let _ = h.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn count(args: *const *mut u8, lo: i64, hi: i64, _scratch: *mut u8) {
        for i in lo..hi {
            // SAFETY: the test passes 1000 counters.
            unsafe { *(*args).add(i as usize) += 1 };
        }
    }

    #[test]
    fn every_task_runs_exactly_once_per_launch() {
        let mut pool = Pool::new(3, 64).unwrap();
        let mut counters = vec![0u8; 1000];
        let args = [counters.as_mut_ptr()];
        for round in 0..200 {
            if round % 50 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            // SAFETY: `count` writes counter i for task i.
            unsafe { pool.launch(count, args.as_ptr(), 1000) };
        }
        assert!(counters.iter().all(|c| *c == 200));
    }
}
