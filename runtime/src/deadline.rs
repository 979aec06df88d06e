//! An end for what cannot be asked to end: a library call that waits for other processes.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::RuntimeError;

/// Ends this process unless it is dropped in time.
#[derive(Debug)]
pub struct Deadline {
    // Dropped, it tells the thread that waits.
    _in_time: Sender<()>,
}

impl Deadline {
    /// From now on `what` has `time`.
    pub fn start(what: &'static str, time: Duration) -> Result<Deadline, RuntimeError> {
        Self::watch(time, move || {
            let who = crate::absent::ranks();
            let e = RuntimeError::Link(format!("{what} took more than {} s{who}", time.as_secs()));
            crate::tell!("{}", crate::job::told(&e));
            std::process::exit(e.exit_code().into());
        })
    }

    fn watch(
        time: Duration,
        late: impl FnOnce() + Send + 'static,
    ) -> Result<Deadline, RuntimeError> {
        let (sender, receiver) = channel::<()>();
        std::thread::Builder::new()
            .name("deadline".into())
            .spawn(move || {
                if receiver.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                    late();
                }
            })
            .map_err(|e| RuntimeError::Link(format!("cannot start a thread: {e}")))?;
        Ok(Deadline { _in_time: sender })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_is_late_is_noticed_and_what_is_not_is_left_alone() {
        let (early, late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let raise = |flag: &Arc<AtomicBool>| {
            let flag = flag.clone();
            move || flag.store(true, Ordering::SeqCst)
        };
        let kept = Deadline::watch(Duration::from_millis(20), raise(&late)).unwrap();
        drop(Deadline::watch(Duration::from_millis(300), raise(&early)).unwrap());
        std::thread::sleep(Duration::from_millis(600));
        assert!(late.load(Ordering::SeqCst) && !early.load(Ordering::SeqCst));
        drop(kept);
    }
}
