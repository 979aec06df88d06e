//! Files that appear whole or not at all: temporary name, fsync, rename, fsync of the folder.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::RuntimeError;

/// Makes `path` by running `fill` on a temporary file beside it.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), RuntimeError> {
    let folder = folder_of(path);
    fs::create_dir_all(folder).map_err(RuntimeError::io("make", folder))?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(&temporary)?);
        fill(&mut out)?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all()
    };
    if let Err(e) = write() {
        let _ = fs::remove_file(&temporary);
        return Err(RuntimeError::io("write", path)(e));
    }
    if let Err(e) = fs::rename(&temporary, path) {
        let _ = fs::remove_file(&temporary);
        return Err(RuntimeError::io("rename", path)(e));
    }
    sync_folder(folder)
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

/// Sends each of two files or folders the other's name, at once.
pub fn collective(a: &Path, b: &Path) -> Result<(), RuntimeError> {
    use std::os::unix::ffi::OsStrExt;
    let name = |p: &Path| std::ffi::CString::new(p.as_os_str().as_bytes());
    let (Ok(from), Ok(to)) = (name(a), name(b)) else {
        let e = std::io::Error::from(std::io::ErrorKind::InvalidInput);
        return Err(RuntimeError::io("rename", b)(e));
    };
    // SAFETY: both are C strings that live until the call returns.
    let done = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(RuntimeError::io("rename", b)(std::io::Error::last_os_error())),
    }
}

/// Makes renames in `folder` durable.
pub fn sync_folder(folder: &Path) -> Result<(), RuntimeError> {
    File::open(folder).and_then(|d| d.sync_all()).map_err(RuntimeError::io("sync", folder))
}

/// The folder that holds `path`.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
