//! Reading of files that somebody else wrote: the one way in which all crates open them.
//!
//! A name that a user gives may be that of a named pipe, a device or a folder; a file may be larger than memory. So a
//! file is opened without waiting, must be a regular one, and its size is looked at before memory is taken.
//!
//! Invariant: no call here waits for another process, or takes more memory than its caller allows.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Largest file of settings that is read: configurations, descriptions of clusters, `config.json`.
pub const SETTINGS: u64 = 16 << 20;

/// Largest file of a vocabulary, of an index or of IR that is read.
pub const TABLES: u64 = 1 << 30;

/// Opens a regular file to read it.
///
/// # Errors
/// There is none of this name, or it is no regular file: the message says what it is.
pub fn open(path: &Path) -> Result<File> {
    // Of a named pipe nobody may ever open the other end; for regular files the flag means nothing.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    let other = match kind {
        k if k.is_file() => return Ok(file),
        k if k.is_dir() => "a folder",
        k if k.is_fifo() => "a named pipe",
        k if k.is_char_device() || k.is_block_device() => "a device",
        _ => "something else",
    };
    Err(Error::new(ErrorKind::InvalidInput, format!("it is {other}, not a file")))
}

/// All bytes of a regular file of at most `most` bytes.
///
/// # Errors
/// The file cannot be read, is none, or is larger.
pub fn bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    let large = |size: u64| {
        let what = format!("it has {size} bytes or more, and {most} is the most that is read");
        Error::new(ErrorKind::FileTooLarge, what)
    };
    if size > most {
        return Err(large(size));
    }
    let mut all = vec![];
    all.try_reserve_exact(size as usize)?;
    // It may grow meanwhile, and files of the system tell no size.
    file.take(most + 1).read_to_end(&mut all)?;
    if all.len() as u64 > most {
        return Err(large(all.len() as u64));
    }
    Ok(all)
}

/// The text of a regular file of at most `most` bytes.
///
/// # Errors
/// As [`bytes`], or it is not UTF-8.
pub fn text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(bytes(path, most)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to() + 1;
        Error::new(ErrorKind::InvalidData, format!("it is not UTF-8 from byte {at} on"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        std::fs::write(at("bytes"), [b'a', 0xff]).unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(text(&at("link"), 4).unwrap(), "text");
        for (path, most, told) in [
            (at("file"), 3, "4 bytes or more"),
            (at("bytes"), 9, "not UTF-8 from byte 2 on"),
            (at("pipe"), 9, "a named pipe, not a file"),
            (folder.path().to_path_buf(), 9, "a folder, not a file"),
            ("/dev/zero".into(), 9, "a device, not a file"),
            (at("none"), 9, "No such file"),
            // It tells no size.
            ("/proc/self/status".into(), 9, "10 bytes or more"),
        ] {
            let e = text(&path, most).unwrap_err().to_string();
            assert!(e.contains(told), "{}: {e}", path.display());
        }
        assert!(bytes(&at("socket"), 9).is_err());
    }
}
