//! Files of a run: [`neoxc_base::write`] with the runtime's errors, and logs.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

pub use neoxc_base::write::folder_of;
use neoxc_base::write::{self, Draft};

use crate::RuntimeError;

/// Makes `path` by running `fill` on a temporary file beside it.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> std::io::Result<()>,
) -> Result<(), RuntimeError> {
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(RuntimeError::io("make", folder))?;
    let written = || -> std::io::Result<()> {
        let mut draft = Draft::file(path)?;
        let mut out = BufWriter::new(draft.open());
        fill(&mut out)?;
        out.flush()?;
        drop(out);
        draft.place()
    };
    written().map_err(RuntimeError::io("write", path))
}

/// Opens a file that lines are added to, or a terminal. A pipe may have nobody who reads it, and then holds up whoever
/// writes.
///
/// # Errors
/// It cannot be opened, or is neither.
pub fn open_log(path: &Path) -> Result<File, RuntimeError> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let open = || -> std::io::Result<File> {
        let pipe = || std::io::Error::other("it is a named pipe, not a file");
        if fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo()) {
            return Err(pipe());
        }
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).append(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        match file.metadata()?.file_type().is_fifo() {
            true => Err(pipe()),
            false => Ok(file),
        }
    };
    open().map_err(RuntimeError::io("open", path))
}

/// Writes `bytes` to `path` in one go.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), RuntimeError> {
    write_atomically(path, |f| f.write_all(bytes))
}

/// Makes renames in `folder` durable.
pub fn sync_folder(folder: &Path) -> Result<(), RuntimeError> {
    write::sync_folder(folder).map_err(RuntimeError::io("sync", folder))
}
