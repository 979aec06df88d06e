//! Waiting for another thread: look, then give the core away, then, if the wait may be long, sleep.
//!
//! With a core for every thread the other one is there after a few looks. With more threads than cores,
//! as when eight ranks are tried out on a laptop, whoever only looks keeps the core from the one it waits
//! for, and from everybody else on the machine.

use std::time::Duration;

/// Looks before the core is given away: some microseconds.
const LOOKS: u32 = 2_000;
/// Times that the core is given away before the thread sleeps.
const YIELDS: u32 = 64;
/// How long it sleeps, again and again: about what waking takes anyway.
const NAP: Duration = Duration::from_micros(50);

/// How long a thread has waited.
#[derive(Debug)]
pub struct Backoff {
    pauses: u32,
    naps: bool,
}

impl Backoff {
    /// `naps`: whether to sleep in the end, which makes the thread some 100 µs late.
    pub fn new(naps: bool) -> Self {
        Self { pauses: 0, naps }
    }

    /// For looks that take long themselves, as asking a library does.
    pub fn asking() -> Self {
        Self { pauses: LOOKS - 50, naps: true }
    }

    /// Waits a moment, a longer one each time.
    pub fn pause(&mut self) {
        self.pauses = self.pauses.saturating_add(1);
        match self.pauses {
            0..=LOOKS => std::hint::spin_loop(),
            n if n <= LOOKS + YIELDS || !self.naps => std::thread::yield_now(),
            _ => std::thread::sleep(NAP),
        }
    }
}
