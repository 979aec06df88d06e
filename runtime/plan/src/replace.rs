//! Where a plan may be written, and how it gets there: a plan takes the place of an older plan and of nothing else.
//!
//! A folder counts as a plan if its manifest bears its own seal and lists every file that lies in it. So a folder with
//! anything else in it (checkpoints of a run, notes) is refused and stays as it is, whatever its `manifest.json` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Write};
use std::path::{Path, PathBuf};

use neoxc_base::read;
use neoxc_base::write::{Draft, folder_of};

use crate::PlanError;
use crate::store::Sealed;

fn io(path: &Path) -> impl FnOnce(Error) -> PlanError {
    let path = path.to_path_buf();
    move |source| PlanError::Io { action: "write", path, source }
}

/// The folder that `folder` names, through a link if it is one: the link stays.
fn real(folder: &Path) -> Result<PathBuf, PlanError> {
    match fs::symlink_metadata(folder) {
        Ok(m) if m.is_symlink() => folder.canonicalize().map_err(io(folder)),
        _ => Ok(folder.to_path_buf()),
    }
}

/// Adds the files of `folder` to `found`, as they are named from the plan's own folder.
fn files(folder: &Path, name: &str, found: &mut BTreeSet<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{name}{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => files(&entry.path(), &format!("{name}/"), found)?,
            false => drop(found.insert(name)),
        }
    }
    Ok(())
}

/// Whether a plan may be written to `folder`: there is nothing of this name, an empty folder, or an older plan.
///
/// # Errors
/// [`PlanError::NotAPlan`] says what else is there.
pub fn may_replace(folder: &Path) -> Result<(), PlanError> {
    let refused = |why: &str| PlanError::NotAPlan(folder.to_path_buf(), why.to_string());
    let real = real(folder)?;
    let mut found = BTreeSet::new();
    match files(&real, "", &mut found) {
        Err(e) if e.kind() == ErrorKind::NotADirectory && real.exists() => {
            return Err(refused("it is a file"));
        }
        // Whether something of this name can be made is seen when it is.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(());
        }
        done => done.map_err(io(folder))?,
    }
    if found.is_empty() {
        return Ok(());
    }
    let Ok(text) = read::bytes(&real.join("manifest.json"), read::SETTINGS) else {
        return Err(refused("it has no manifest.json that can be read"));
    };
    let sealed: Sealed = serde_json::from_slice(&text)
        .map_err(|_| refused("its manifest.json is not that of a plan"))?;
    if !sealed.is_whole(&text) {
        return Err(refused("its manifest.json was changed after it was written"));
    }
    match found.iter().find(|n| *n != "manifest.json" && !sealed.lists(n)) {
        Some(other) => Err(refused(&format!("it holds {other}, which its manifest does not list"))),
        None => Ok(()),
    }
}

/// Writes `contents` to `folder`, in place of an older plan.
pub fn write(folder: &Path, contents: &BTreeMap<String, Vec<u8>>) -> Result<(), PlanError> {
    may_replace(folder)?;
    let real = real(folder)?;
    fs::create_dir_all(folder_of(&real)).map_err(io(folder_of(&real)))?;
    let draft = Draft::folder(&real).map_err(io(folder))?;
    let mut folders = BTreeSet::new();
    for (name, bytes) in contents {
        let path = draft.path().join(name);
        let parent = folder_of(&path).to_path_buf();
        fs::create_dir_all(&parent).map_err(io(&parent))?;
        let mut file = File::create(&path).map_err(io(&folder.join(name)))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io(&folder.join(name)))?;
        folders.insert(parent);
    }
    for made in folders {
        File::open(&made).and_then(|d| d.sync_all()).map_err(io(&made))?;
    }
    // What came meanwhile is not removed either.
    may_replace(folder)?;
    draft.replace().map_err(io(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::sample;

    #[test]
    fn a_plan_replaces_a_plan_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let spoil = |name: &str, file: &str, text: &str| {
            sample().write(&at(name)).unwrap();
            fs::create_dir_all(at(name).join(file).parent().unwrap()).unwrap();
            fs::write(at(name).join(file), text).unwrap();
        };
        spoil("notes", "NOTES.md", "mine");
        spoil("saves", "checkpoints/global_step1/manifest.json", "{}");
        spoil("changed", "manifest.json", "{}");
        fs::create_dir(at("web")).unwrap();
        fs::write(at("web/manifest.json"), "{}").unwrap();
        fs::write(at("file"), "mine").unwrap();
        for (name, why) in [
            ("notes", "it holds NOTES.md"),
            ("saves", "it holds checkpoints/global_step1/manifest.json"),
            ("changed", "is not that of a plan"),
            ("web", "is not that of a plan"),
            ("file", "it is a file"),
            ("", "no manifest.json"),
        ] {
            let mut before = BTreeSet::new();
            files(folder.path(), "", &mut before).unwrap();
            let told = sample().write(&at(name)).unwrap_err().to_string();
            assert!(told.contains(why), "{name}: {told}");
            let mut after = BTreeSet::new();
            files(folder.path(), "", &mut after).unwrap();
            assert_eq!(before, after);
        }
    }

    #[test]
    fn a_link_to_a_plan_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (plan, link) = (folder.path().join("plan"), folder.path().join("link"));
        sample().write(&plan).unwrap();
        std::os::unix::fs::symlink("plan", &link).unwrap();
        sample().write(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(crate::Plan::open(&plan).unwrap(), sample());
        std::os::unix::fs::symlink("none", folder.path().join("dangling")).unwrap();
        assert!(sample().write(&folder.path().join("dangling")).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
