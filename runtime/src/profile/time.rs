//! Times versions of one kernel in turn, to choose between them.

use std::time::Instant;

use crate::RuntimeError;
use crate::device::{Bench, check_bytes};

/// One version of a kernel.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its symbol.
    pub symbol: String,
    /// Number of its tasks.
    pub tasks: u64,
    /// Scratch bytes of a thread.
    pub scratch: u64,
}

/// Seconds of each version in each of some rounds, on so many threads. The versions of a round follow each other,
/// so what else the machine does hits all of them; all have the same buffers, of these bytes.
pub fn in_turn(
    library: &[u8],
    versions: &[Version],
    buffers: &[u64],
    threads: usize,
    rounds: usize,
) -> Result<Vec<Vec<f64>>, RuntimeError> {
    let scratch = versions.iter().map(|v| v.scratch).max().unwrap_or(0);
    check_bytes(
        "the measurement",
        buffers.iter().sum::<u64>().saturating_add(scratch * threads as u64),
    )?;
    let mut bench = Bench::new(library, buffers, threads, scratch)?;
    let mut seconds = vec![vec![]; versions.len()];
    for round in 0..=rounds {
        for (v, seconds) in versions.iter().zip(&mut seconds) {
            let start = Instant::now();
            bench.launch(&v.symbol, v.tasks)?;
            // The first touches pages and fills caches.
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    Ok(seconds)
}
