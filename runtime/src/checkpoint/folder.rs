//! A folder of checkpoints: which is the newest, which are too many, what killed runs have left.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use neoxc_base::read;

use super::save::{attempt, temporary};
use crate::RuntimeError;
use crate::files;

fn complete(path: &Path) -> bool {
    path.join("manifest.json").is_file()
}

/// The step that a checkpoint's folder is called by, if `path` is called as one.
pub fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("global_step")?.parse().ok()
}

/// Complete checkpoints under `folder` by step.
fn steps(folder: &Path) -> Result<Vec<(u64, PathBuf)>, RuntimeError> {
    let mut steps: Vec<(u64, PathBuf)> = fs::read_dir(folder)
        .map_err(RuntimeError::io("read", folder))?
        .flatten()
        .filter_map(|e| Some((step_of(&e.path())?, e.path())))
        .filter(|(_, path)| complete(path))
        .collect();
    steps.sort();
    Ok(steps)
}

/// The longest `latest` that is read, bytes.
const MAX_LATEST: u64 = 4096;

/// The newest complete checkpoint under `folder`: the one that `latest` names, or, where there is no such file because a
/// run was ended before it could write one, the one with the highest step.
///
/// # Errors
/// `latest` cannot be read, or names what is no checkpoint: whoever wrote it wanted that one, and not another.
pub fn latest(folder: &Path) -> Result<Option<PathBuf>, RuntimeError> {
    let path = folder.join("latest");
    let name = match read::text(&path, MAX_LATEST) {
        Ok(name) => name,
        Err(e) if e.kind() == ErrorKind::NotFound || e.kind() == ErrorKind::NotADirectory => {
            return Ok(steps(folder).ok().and_then(|mut all| Some(all.pop()?.1)));
        }
        Err(e) => return Err(RuntimeError::io("read", &path)(e)),
    };
    let named = folder.join(name.trim());
    let plain = step_of(&named).is_some() && !name.contains('/');
    if plain && complete(&named) {
        return Ok(Some(named));
    }
    let what = match plain && named.exists() {
        true => "has no manifest.json",
        false => "is no checkpoint of this folder",
    };
    let found = steps(folder)?.pop().map_or("none is complete".into(), |(step, _)| {
        format!("global_step{step} is the newest complete one: write that name into it")
    });
    let message = format!("names {:?}, which {what}; {found}", name.trim());
    Err(RuntimeError::checkpoint(&path, message))
}

/// The complete checkpoint under `folder` that was written after `step` steps.
pub fn of_step(folder: &Path, step: u64) -> Option<PathBuf> {
    steps(folder).ok()?.into_iter().find(|(n, _)| *n == step).map(|(_, path)| path)
}

/// The process that made something temporary of this name.
fn maker(name: &str) -> Option<u32> {
    if let Some(process) = name.strip_prefix(".probe.") {
        return process.parse().ok();
    }
    let name = name.strip_suffix(".tmp")?;
    if let Some(process) = name.strip_prefix(".latest.") {
        return process.parse().ok();
    }
    let (_, attempt) = name.strip_prefix(".global_step")?.split_once('.')?;
    Some((u64::from_str_radix(attempt, 16).ok()? >> 32) as u32)
}

/// Removes what runs that were killed while saving left behind.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // This process has begun nothing: a number like its own is that of one before it.
        let gone = |p: u32| p == std::process::id() || !Path::new(&format!("/proc/{p}")).exists();
        if maker(&entry.file_name().to_string_lossy()).is_some_and(gone) {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

/// Keeps the `keep` newest checkpoints. The one that was just written is the newest whatever its step,
/// which is lower where a run began again in the folder of another.
pub fn prune(folder: &Path, keep: usize, written: &Path) -> Result<(), RuntimeError> {
    let mut others = steps(folder)?;
    others.retain(|(_, path)| path != written);
    let surplus = (others.len() + 1).saturating_sub(keep.max(1));
    for (step, path) in &others[..surplus] {
        // Its name goes first: what a kill leaves of it is no checkpoint.
        let away = temporary(folder, *step, attempt());
        fs::rename(path, &away).map_err(RuntimeError::io("rename", path))?;
        files::sync_folder(folder)?;
        fs::remove_dir_all(&away).map_err(RuntimeError::io("remove", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(folder: &Path, step: u64) -> PathBuf {
        let path = folder.join(format!("global_step{step}"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("manifest.json"), "{}").unwrap();
        path
    }

    #[test]
    fn the_newest_are_kept_and_the_one_just_written_among_them() {
        let folder = tempfile::tempdir().unwrap();
        let f = folder.path();
        let all: Vec<PathBuf> = [2, 10, 9, 30].map(|step| made(f, step)).into();
        fs::create_dir(f.join("global_step40")).unwrap();
        prune(f, 2, &all[1]).unwrap();
        assert_eq!(all.iter().map(|p| p.exists()).collect::<Vec<_>>(), [false, true, false, true]);
        prune(f, 0, &all[1]).unwrap();
        assert_eq!(steps(f).unwrap(), [(10, all[1].clone())]);
        // What has no manifest is not ours to remove, and does not count.
        assert!(f.join("global_step40").exists());
        assert_eq!(fs::read_dir(f).unwrap().count(), 2);
    }

    #[test]
    fn the_newest_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let f = folder.path();
        assert_eq!(latest(f).unwrap(), None);
        assert_eq!(latest(&f.join("none")).unwrap(), None);
        let (nine, ten) = (made(f, 9), made(f, 10));
        assert_eq!(latest(f).unwrap(), Some(ten));
        for named in ["global_step9", "global_step9\n"] {
            fs::write(f.join("latest"), named).unwrap();
            assert_eq!(latest(f).unwrap().as_ref(), Some(&nine), "{named:?}");
        }
        fs::create_dir(f.join("global_step12")).unwrap();
        for (named, why) in [
            ("global_step11", "is no checkpoint of this folder"),
            ("global_step12", "has no manifest.json"),
            ("", "is no checkpoint"),
            ("../global_step9", "is no checkpoint"),
            ("global_step9/../../x", "is no checkpoint"),
        ] {
            fs::write(f.join("latest"), named).unwrap();
            let told = latest(f).unwrap_err().to_string();
            assert!(told.contains(why) && told.contains("global_step10 is the newest"), "{told}");
        }
        fs::remove_file(f.join("latest")).unwrap();
        assert!(
            std::process::Command::new("mkfifo").arg(f.join("latest")).status().unwrap().success()
        );
        assert!(latest(f).unwrap_err().to_string().contains("a named pipe"));
    }

    #[test]
    fn what_killed_runs_left_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let f = folder.path();
        // Process 1 lives; none has a number as high as the other.
        let live = temporary(f, 4, 1 << 32);
        let dead = [temporary(f, 5, u64::MAX), temporary(f, 6, attempt())];
        for path in dead.iter().chain([&live, &f.join(".global_step7.tmp"), &f.join(".x.tmp")]) {
            fs::create_dir(path).unwrap();
        }
        for name in [".latest.4294967295.tmp", ".probe.4294967295", ".latest.1.tmp", "latest"] {
            fs::write(f.join(name), "").unwrap();
        }
        sweep(f);
        assert!(live.exists() && dead.iter().all(|d| !d.exists()));
        assert_eq!(fs::read_dir(f).unwrap().count(), 5);
    }
}
