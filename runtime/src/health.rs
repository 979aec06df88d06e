//! Whether every rank of the job is still there, as far as this process knows.

use std::sync::OnceLock;

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
        };
        RuntimeError::Lost { rank, lost: self.rank, what, waited, at: None }
    }
}

/// The first loss that was noticed; all ranks end because of it.
#[derive(Debug, Default)]
pub struct Health(OnceLock<Loss>);

impl Health {
    /// The loss, if there is one.
    pub fn loss(&self) -> Option<&Loss> {
        self.0.get()
    }

    /// Notes a loss; whether it is the first.
    pub fn lose(&self, loss: Loss) -> bool {
        self.0.set(loss).is_ok()
    }
}
