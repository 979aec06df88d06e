//! Writing of files and folders that appear whole or not at all: the one way in which all crates replace what others read.
//!
//! What is written has a temporary name beside the one that it gets in the end, `.NAME.RANDOM.tmp`. The name is new
//! (nothing that lies there is opened, and no link is followed), and the draft is locked as long as its process writes
//! it. So the lock tells a draft of somebody who is at work from one that a kill left behind, whichever host,
//! container or process number it had; the next draft of the same name removes the latter ([`sweep`]).
//!
//! Invariant: until [`Draft::place`] or [`Draft::replace`] succeeds, what had the name before is untouched.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Random characters of a temporary name.
const RANDOM: usize = 16;

/// A file or folder that is written under a temporary name. Dropped before it has its own, it is removed.
#[derive(Debug)]
pub struct Draft {
    at: PathBuf,
    target: PathBuf,
    /// Open for writing if it is a file; holds the lock in any case.
    file: File,
    placed: bool,
}

impl Draft {
    /// Begins a file that is to be called `target`.
    ///
    /// # Errors
    /// The folder of `target` takes no new file, or something that is no file has the name.
    pub fn file(target: &Path) -> Result<Draft> {
        Self::file_of_mode(target, 0o666)
    }

    /// Begins a file that only its user may use, whatever the umask is.
    ///
    /// # Errors
    /// As [`Draft::file`].
    pub fn own_file(target: &Path) -> Result<Draft> {
        Self::file_of_mode(target, 0o600)
    }

    fn file_of_mode(target: &Path, mode: u32) -> Result<Draft> {
        // The name of a device or of a folder is not one to be given to a file, and neither is that of an open file
        // (`/dev/stdout`, `/proc/self/fd/1`), also where it leads to a file on disk.
        if fs::metadata(target).is_ok_and(|there| !there.is_file()) || is_of_the_kernel(target) {
            return Err(Error::other("it is no file that another can take the place of"));
        }
        Self::new(target, |at| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(mode).open(at)
        })
    }

    /// Begins a folder that is to be called `target`.
    ///
    /// # Errors
    /// The folder of `target` takes no new folder.
    pub fn folder(target: &Path) -> Result<Draft> {
        Self::folder_of_mode(target, 0o777)
    }

    /// Begins a folder that only its user may use. A draft that never takes its name is a folder for temporary files,
    /// which the next one of the same name sweeps if a kill leaves it behind.
    ///
    /// # Errors
    /// As [`Draft::folder`].
    pub fn own_folder(target: &Path) -> Result<Draft> {
        Self::folder_of_mode(target, 0o700)
    }

    fn folder_of_mode(target: &Path, mode: u32) -> Result<Draft> {
        Self::new(target, |at| {
            DirBuilder::new().mode(mode).create(at)?;
            open_link_free(at).map_err(|e| {
                let _ = fs::remove_dir(at);
                match e.kind() {
                    // Somebody has swept it already: another name is tried, as for one that is taken.
                    std::io::ErrorKind::NotFound => std::io::ErrorKind::AlreadyExists.into(),
                    _ => e,
                }
            })
        })
    }

    /// Gives the file at `target`, if there is one, a temporary name, until [`Draft::place_soon`] gives it its own back.
    /// Dropped before that, it is removed.
    ///
    /// # Errors
    /// It keeps its name.
    pub fn aside(target: &Path) -> Result<Option<Draft>> {
        let mut draft = Self::file(target)?;
        let older = open_link_free(target);
        match fs::rename(target, &draft.at) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        }
        if let Ok(older) = older {
            let _ = older.try_lock();
            draft.file = older;
        }
        Ok(Some(draft))
    }

    fn new(target: &Path, mut make: impl FnMut(&Path) -> Result<File>) -> Result<Draft> {
        let name = target.file_name().ok_or_else(|| Error::other("it is no name for a file"))?;
        sweep(target);
        loop {
            let mut part = std::ffi::OsString::from(".");
            part.push(name);
            part.push(".");
            let made = tempfile::Builder::new()
                .prefix(&part)
                .suffix(".tmp")
                .rand_bytes(RANDOM)
                .disable_cleanup(true)
                .make_in(folder_of(target), &mut make)?;
            let (file, at) = made.keep().map_err(|e| e.error)?;
            // Where a file system has no locks, nobody will take a draft for one that was left behind either. Who has this
            // one's lock is sweeping it.
            if let Err(TryLockError::WouldBlock) = file.try_lock() {
                continue;
            }
            // Between its making and its lock somebody may have swept it.
            let draft = Draft { at, target: target.to_path_buf(), file, placed: false };
            if is_same(&draft.file, &draft.at) {
                return Ok(draft);
            }
        }
    }

    /// Its temporary name.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// The file, open for writing.
    pub fn open(&mut self) -> &mut File {
        &mut self.file
    }

    /// Brings a file's bytes to the disk and gives it its name, in place of what had that before. The new name is durable.
    ///
    /// # Errors
    /// Nothing has changed, or only the durability of the name is in doubt.
    pub fn place(self) -> Result<()> {
        self.file.sync_all()?;
        let folder = folder_of(&self.target).to_path_buf();
        self.place_soon()?;
        sync_folder(&folder)
    }

    /// Gives a file its name without waiting for the disk: for what its readers can tell from a part of it.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn place_soon(mut self) -> Result<()> {
        fs::rename(&self.at, &self.target)?;
        self.placed = true;
        Ok(())
    }

    /// Gives a folder its name; what had that before, another folder, is removed. At no moment is there none of the name.
    ///
    /// # Errors
    /// Nothing has changed, or only the durability of the name is in doubt. On a file system that cannot swap two
    /// names an older folder has to be removed by hand.
    pub fn replace(mut self) -> Result<()> {
        self.file.sync_all()?;
        match fs::symlink_metadata(&self.target) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                fs::rename(&self.at, &self.target)?;
                self.placed = true;
            }
            // From here on the temporary name is the older folder's, and goes when this is dropped.
            _ => swap(&self.at, &self.target)?,
        }
        sync_folder(folder_of(&self.target))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.placed {
            remove(&self.at);
        }
    }
}

/// Removes what killed processes left behind of drafts of `target`: those that nobody has locked.
pub fn sweep(target: &Path) {
    let Some(name) = target.file_name().map(|n| n.to_string_lossy().into_owned()) else { return };
    sweep_where(folder_of(target), &|of| of == name);
}

/// Removes what killed processes left behind in `folder` of drafts of names that `ours` knows.
pub fn sweep_where(folder: &Path, ours: &dyn Fn(&str) -> bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !name_of_draft(&entry.file_name().to_string_lossy()).is_some_and(ours) {
            continue;
        }
        let Ok(file) = open_link_free(&entry.path()) else { continue };
        match file.try_lock() {
            Ok(()) => remove(&entry.path()),
            // At work; or locks are not to be had, and nobody knows.
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

/// The name that a draft called `temporary` is to have.
fn name_of_draft(temporary: &str) -> Option<&str> {
    let (name, random) = temporary.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    let drawn = random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric());
    (drawn && !name.is_empty()).then_some(name)
}

/// Opens a file or folder to lock it, never what a link names.
fn open_link_free(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Whether `path` still names what is open as `file`.
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |m: fs::Metadata| (m.dev(), m.ino());
    matches!((file.metadata().map(id), fs::symlink_metadata(path).map(id)), (Ok(a), Ok(b)) if a == b)
}

/// Whether a name is one that the kernel gives to devices and open files, rather than a user to a file.
fn is_of_the_kernel(path: &Path) -> bool {
    fs::canonicalize(folder_of(path)).is_ok_and(|folder| {
        folder.starts_with("/proc")
            || (folder.starts_with("/dev") && !folder.starts_with("/dev/shm"))
    })
}

/// Removes a file, or a folder with what is in it. Where that fails, the next sweep tries again.
fn remove(path: &Path) {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let _ = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// Gives each of two files or folders the other's name, at once.
///
/// # Errors
/// One of them does not exist, or the file system cannot do it.
pub fn swap(a: &Path, b: &Path) -> Result<()> {
    let name = |p: &Path| std::ffi::CString::new(p.as_os_str().as_bytes());
    let (from, to) = (name(a)?, name(b)?);
    let here = libc::AT_FDCWD;
    // SAFETY: both are C strings that live until the call returns.
    let done =
        unsafe { libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), libc::RENAME_EXCHANGE) };
    match done {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Makes renames in `folder` durable.
///
/// # Errors
/// The disk says so.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder that holds `path`.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_draft_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.json");
        fs::write(&target, "old").unwrap();
        let mut draft = Draft::file(&target).unwrap();
        draft.open().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        drop(draft);
        assert_eq!(names(folder.path()), ["a.json"]);
        let mut draft = Draft::file(&target).unwrap();
        draft.open().write_all(b"new").unwrap();
        draft.place().unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(names(folder.path()), ["a.json"]);
        let mode = |d: &Draft| fs::metadata(d.path()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&Draft::own_file(&target).unwrap()), 0o600);
        assert_eq!(mode(&Draft::own_folder(&target).unwrap()), 0o700);
        for device in ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            let told = Draft::file(Path::new(device)).unwrap_err().to_string();
            assert!(told.contains("no file"), "{device}: {told}");
        }
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    /// Many begin the same file and folder at once, and each sweeps what the others have not locked yet.
    #[test]
    fn drafts_that_are_begun_at_once_are_all_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let dir = Draft::own_folder(&at("dir")).unwrap();
                        fs::write(dir.path().join("a"), "a").unwrap();
                        let mut file = Draft::file(&at("file")).unwrap();
                        file.open().write_all(b"a").unwrap();
                        assert!(file.path().exists() && dir.path().join("a").exists());
                    }
                });
            }
        });
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_file_that_is_set_aside_comes_back_or_goes() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a");
        assert!(Draft::aside(&target).unwrap().is_none());
        fs::write(&target, "old").unwrap();
        let aside = Draft::aside(&target).unwrap().unwrap();
        sweep(&target);
        assert!(!target.exists() && aside.path().exists(), "others see that it is in use");
        aside.place_soon().unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        drop(Draft::aside(&target).unwrap());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_folder_takes_the_name_of_another_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("plan");
        for text in ["one", "two"] {
            let draft = Draft::folder(&target).unwrap();
            fs::write(draft.path().join("x"), text).unwrap();
            draft.replace().unwrap();
            assert_eq!(fs::read_to_string(target.join("x")).unwrap(), text);
            assert_eq!(names(folder.path()), ["plan"]);
        }
    }

    #[test]
    fn what_nobody_writes_any_more_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let live = Draft::file(&at("a")).unwrap();
        // As a killed process leaves them: unlocked.
        fs::write(at(".a.0123456789abcdef.tmp"), "").unwrap();
        fs::create_dir(at(".a.0123456789abcdeF.tmp")).unwrap();
        fs::write(at(".a.0123456789abcdeF.tmp/x"), "").unwrap();
        let others = [".a.0123.tmp", ".b.0123456789abcdef.tmp", "a.0123456789abcdef.tmp", "victim"];
        others.iter().for_each(|name| fs::write(at(name), "mine").unwrap());
        std::os::unix::fs::symlink(at("victim"), at(".a.fedcba9876543210.tmp")).unwrap();
        sweep(&at("a"));
        let left = names(folder.path());
        assert!(live.path().exists());
        assert!(left.iter().all(|n| !n.starts_with(".a.0123456789")), "{left:?}");
        assert!(left.contains(&".a.fedcba9876543210.tmp".to_string()), "links are nobody's draft");
        assert!(others.iter().all(|name| fs::read_to_string(at(name)).unwrap() == "mine"));
    }
}
