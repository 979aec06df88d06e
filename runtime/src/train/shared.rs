//! Whether all processes of a job mean the same folder by `save`: a local disk by mistake is found at the start, and not
//! when the first checkpoint never becomes whole.

use std::path::{Path, PathBuf};

use crate::RuntimeError;
use crate::job::Job;

/// The name of what rank 0 writes, which no process has looked for before.
fn probe(folder: &Path, attempt: u64) -> PathBuf {
    folder.join(format!(".shared.{attempt:016x}.tmp"))
}

/// Refuses to go on where a rank does not see in `folder` what rank 0 writes there.
///
/// # Errors
/// A rank does not, and is named with the folder; or it cannot be written.
pub fn check(job: &Job, folder: &Path, attempt: u64) -> Result<(), RuntimeError> {
    let probe = probe(folder, attempt);
    let written = match job.rank {
        0 => std::fs::write(&probe, b"").map_err(RuntimeError::io("write to", folder)),
        _ => Ok(()),
    };
    // All come here, also where it could not be written.
    let sees = job
        .first(u64::from(written.is_ok()))
        .and_then(|_| job.all_gather(&[u8::from(probe.exists())]));
    if job.rank == 0 {
        let _ = std::fs::remove_file(&probe);
    }
    written?;
    match sees?.iter().position(|seen| seen != &[1]) {
        None => Ok(()),
        Some(rank) => Err(RuntimeError::Job(format!(
            "rank {rank} does not see in {} what rank 0 writes there: checkpoints need one folder, on a file system that \
             all ranks share",
            folder.display()
        ))),
    }
}
