//! The one place that prints. Who reads may be gone (`… | head`), and a disk behind a redirection full: neither is a
//! reason to panic, and a run goes on without its reader. What standard output lost for another reason than that is
//! told once, and [`failed`] says so at the end.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::activity::Activity;

/// Whether standard output has lost something that somebody waits for.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Prints to standard output.
pub fn out(text: Arguments<'_>) {
    // A reader that does not read holds up whoever writes.
    let _doing = Activity::begin("a line for standard output");
    let mut to = std::io::stdout().lock();
    let Err(e) = to.write_fmt(text).and_then(|()| to.flush()) else { return };
    if e.kind() != ErrorKind::BrokenPipe && !FAILED.swap(true, Ordering::Relaxed) {
        err(format_args!("error[NXR0001]: cannot write to standard output: {e}\n"));
    }
}

/// Prints to standard error. Where that cannot be written there is nobody to tell.
pub fn err(text: Arguments<'_>) {
    let _doing = Activity::begin("a line for standard error");
    let _ = std::io::stderr().lock().write_fmt(text);
}

/// Whether a full disk, or the like, kept something from standard output.
pub fn failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

/// Prints a line to standard output, as `println!` does, but never panics.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::say::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line to standard error, as `eprintln!` does, but never panics.
#[macro_export]
macro_rules! tell {
    ($($text:tt)*) => { $crate::say::err(format_args!("{}\n", format_args!($($text)*))) };
}
