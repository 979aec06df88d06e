//! A folder of checkpoints: which is the newest, which are too many, what killed runs have left.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use neoxc_base::read;
use neoxc_base::write::{self, Draft};

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

/// Whether something of this name is what an attempt to save gathers, or what [`prune`] was removing.
fn is_attempt(name: &str) -> bool {
    let inner = name.strip_prefix(".global_step").and_then(|n| n.strip_suffix(".tmp"));
    inner.and_then(|n| n.split_once('.')).is_some_and(|(step, attempt)| {
        step.parse::<u64>().is_ok()
            && attempt.len() == 16
            && attempt.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Removes what runs that were killed while saving left behind in `folder`. Only the run that holds the folder's lock
/// may do so: then no other is at work there.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // A link is nobody's attempt.
        let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
        if is_folder && is_attempt(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    write::sweep_where(folder, &|name| ["latest", "probe", "shared"].contains(&name));
}

/// Whether files can be made in `folder`, which is made if it is not there: a folder that cannot be written is noticed
/// now, not after an hour.
pub fn probe(folder: &Path) -> Result<(), RuntimeError> {
    fs::create_dir_all(folder).map_err(RuntimeError::io("make", folder))?;
    Draft::file(&folder.join("probe")).map(drop).map_err(RuntimeError::io("write to", folder))
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
        let dead = [temporary(f, 5, u64::MAX), temporary(f, 6, attempt())];
        let others = [".global_step7.tmp", ".global_stepx.0123456789abcdef.tmp", ".x.tmp"];
        for path in dead.iter().cloned().chain(others.map(|o| f.join(o))) {
            fs::create_dir(path).unwrap();
        }
        for name in [".latest.0123456789abcdef.tmp", ".probe.0123456789abcdef.tmp", "latest"] {
            fs::write(f.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink(f, temporary(f, 8, 1)).unwrap();
        sweep(f);
        assert!(dead.iter().all(|d| !d.exists()));
        assert_eq!(fs::read_dir(f).unwrap().count(), others.len() + 2);
    }

    #[test]
    fn attempts_are_unlike() {
        let drawn: std::collections::BTreeSet<u64> = (0..100).map(|_| attempt()).collect();
        assert_eq!(drawn.len(), 100);
    }
}
