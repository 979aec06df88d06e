//! Signals by which a scheduler asks a job to end: SIGTERM, and SIGUSR1 as batch systems send it some time
//! before the end.
//!
//! A handler only raises a flag; training looks at it between steps, saves, and returns.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGTERM, SIGUSR1};

use crate::RuntimeError;

/// Exit code of a run that ended because it was asked to, after it saved.
pub const EXIT_STOPPED: u8 = 6;

/// A flag that SIGTERM and SIGUSR1 raise from now on, instead of ending the process.
pub fn stop_flag() -> Result<Arc<AtomicBool>, RuntimeError> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGUSR1] {
        signal_hook::flag::register(signal, flag.clone())
            .map_err(|e| RuntimeError::Settings(format!("signal {signal}: {e}")))?;
    }
    Ok(flag)
}

/// From now on a file that grows past `ulimit -f` is an error of whoever writes it, which names the file, and no signal
/// that ends the process without a word.
pub fn report_large_files() {
    // SAFETY: no other thread runs yet that could rely on the default action.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// From now on who writes to a pipe that nobody reads ends quietly, as other commands do (`… | head`). Not for a
/// run: it goes on without its reader.
pub fn end_with_the_reader() {
    // SAFETY: no other thread runs yet that could rely on the signal being ignored, and the default action is
    // a valid one.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
