//! A folder of checkpoints belongs to one run at a time: the run that holds the lock on the file `.lock` in it.
//!
//! The lock is the file system's (`flock`), so it ends with its process however that ends, and holds between hosts and
//! containers that share the folder. The file says who holds it, for people. It is removed with the lock; after a kill
//! it stays, held by nobody, and the next run takes it over.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use neoxc_base::read;

use crate::RuntimeError;

/// The longest name of an owner that is read, bytes.
const MAX_OWNER: u64 = 4096;

/// The right to write to a folder of checkpoints. Other runs are refused until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Holds the lock while it is open.
    _file: File,
}

impl Lock {
    /// Takes the lock of `folder`, which exists. `None` where the file system has no locks.
    ///
    /// # Errors
    /// [`RuntimeError::Held`] names the run that has it; the file cannot be made.
    pub fn take(folder: &Path) -> Result<Option<Lock>, RuntimeError> {
        let path = folder.join(".lock");
        loop {
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let open = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
            let mut file = open.map_err(RuntimeError::io("open", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let owner = read::text(&path, MAX_OWNER).unwrap_or_default();
                    return Err(RuntimeError::Held { folder: folder.into(), owner: plain(&owner) });
                }
                Err(TryLockError::Error(_)) => return Ok(None),
            }
            // The run before may have removed the file between the two calls: then this is nobody's lock.
            if !is_same(&file, &path) {
                continue;
            }
            let told = file.set_len(0).and_then(|()| file.write_all(owner().as_bytes()));
            told.map_err(RuntimeError::io("write", &path))?;
            return Ok(Some(Lock { path, _file: file }));
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock ends, so that nobody removes another's file.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    matches!((file.metadata().map(id), fs::symlink_metadata(path).map(id)), (Ok(a), Ok(b)) if a == b)
}

/// This process, for people.
fn owner() -> String {
    let host = match fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) => name.trim().to_string(),
        Err(e) if e.kind() == ErrorKind::NotFound => "an unnamed host".into(),
        Err(_) => "an unknown host".into(),
    };
    format!("process {} on {host}\n", std::process::id())
}

/// What a file says in its first line, fit to be printed.
fn plain(text: &str) -> String {
    let line: String = text.lines().next().unwrap_or_default().chars().take(200).collect();
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    if line.is_empty() { "a run that has not said who it is".into() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_has_a_folder_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).unwrap().expect("this file system has locks");
        let told = Lock::take(folder.path()).unwrap_err();
        assert_eq!(told.exit_code(), 5);
        assert!(told.to_string().contains(&format!("process {}", std::process::id())), "{told}");
        drop(first);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // As a kill leaves it.
        fs::write(folder.path().join(".lock"), "process 1 on x").unwrap();
        assert!(Lock::take(folder.path()).unwrap().is_some());
    }

    #[test]
    fn what_another_wrote_is_printed_as_text() {
        assert_eq!(plain("a\u{1b}[2J\tb\nc"), "a[2Jb");
        assert_eq!(plain(""), "a run that has not said who it is");
        assert_eq!(plain(&"x".repeat(999)).len(), 200);
    }
}
