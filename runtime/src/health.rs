//! Whether every rank of the job is still there, as far as this process knows.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use crate::RuntimeError;

/// How a rank was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// Its process is gone.
    Gone,
    /// Nothing was heard of it for so many seconds: it is stopped, or the link to it is cut.
    Silent(u64),
    /// It ended with an error of its own.
    Failed,
    /// It has waited for so many seconds, as all ranks have.
    Stalled(u64),
}

/// A rank that the job has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Which.
    pub rank: u64,
    /// How.
    pub how: How,
}

impl Loss {
    /// The error of `rank`, which waited for those of `waited`.
    pub fn error(&self, rank: u64, waited: Vec<u64>) -> RuntimeError {
        let what = match self.how {
            How::Gone => "is gone: its process ended".into(),
            How::Silent(n) => {
                format!("was silent for {n} s: it is stopped, or the link to it is cut")
            }
            How::Failed => "failed: see its own message".into(),
            How::Stalled(n) => format!(
                "has waited for {n} s, and so have all others: they live, but what they send does not arrive"
            ),
        };
        RuntimeError::Lost { rank, lost: self.rank, what, waited, at: None }
    }
}

/// The first loss that was noticed; all ranks end because of it.
#[derive(Debug, Default)]
pub struct Health {
    loss: OnceLock<Loss>,
    /// Since when this rank waits for others, and nothing has arrived.
    still: Mutex<Option<Instant>>,
}

impl Health {
    /// The loss, if there is one.
    pub fn loss(&self) -> Option<&Loss> {
        self.loss.get()
    }

    /// Notes a loss; whether it is the first.
    pub fn lose(&self, loss: Loss) -> bool {
        self.loss.set(loss).is_ok()
    }

    /// Notes that this rank waits for others from now on; whether it did not before.
    pub fn waits(&self) -> bool {
        let mut still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        let new = still.is_none();
        still.get_or_insert_with(Instant::now);
        new
    }

    /// Notes that something has arrived while this rank waits, or that nothing could, as it was stopped itself.
    pub fn moved(&self) {
        let mut still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        *still = still.map(|_| Instant::now());
    }

    /// Notes that this rank waits no more.
    pub fn goes_on(&self) {
        *self.still.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whole seconds for which this rank has waited and nothing has arrived; 0 while it computes.
    pub fn still(&self) -> u64 {
        let still = *self.still.lock().unwrap_or_else(PoisonError::into_inner);
        still.map_or(0, |since| since.elapsed().as_secs())
    }
}
