//! One save, by any number of processes that share a file system: each writes the files of its ranks and says
//! what is in them (`rank-N.json`); the one that has rank 0 waits for all, writes the manifest and gives the
//! folder its name.
//!
//! Until then the folder has a temporary name that no later attempt has again, so that what an attempt
//! left behind never counts as another's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use neoxc_base::read;
use neoxc_base::write::swap;
use neoxc_plan::Plan;

use super::Tensor;
use super::direct::{Buffer, Output};
use super::manifest::{self, Manifest};
use super::writer::{Source, Written, assignment, file_name, merge, write_rank};
use crate::RuntimeError;
use crate::files;
use crate::train::Settings;
use crate::train::scaler::ScaleState;

/// Rounds in which rank 0 looks for what the other processes have written.
const LOOK: Duration = Duration::from_millis(20);

/// A random number for what this process writes from now on: nobody else draws it, and nobody can guess under which name
/// files will be made. All processes of a run use that of rank 0's.
pub fn attempt() -> u64 {
    let mut drawn = [0u8; 8];
    // SAFETY: the call writes at most as many bytes as there are.
    let n = unsafe { libc::getrandom(drawn.as_mut_ptr().cast(), drawn.len(), 0) };
    // A number of so few bytes comes whole or, before the system has any randomness, not at all.
    match n {
        8 => u64::from_ne_bytes(drawn),
        _ => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(std::process::id()) << 32 | (now.as_nanos() as u64 & 0xffff_ffff)
        }
    }
}

/// Where an attempt to save step `step` gathers its files.
pub fn temporary(folder: &Path, step: u64, attempt: u64) -> PathBuf {
    folder.join(format!(".global_step{step}.{attempt:016x}.tmp"))
}

/// What is saved, and where.
#[derive(Debug, Clone)]
pub struct Save<'a> {
    /// Folder of checkpoints.
    pub folder: PathBuf,
    /// The plan whose tensors they are.
    pub plan: &'a Plan,
    /// Seed of the run.
    pub seed: u32,
    /// What else decides what it draws ([`Manifest::draws`]).
    pub draws: BTreeMap<String, String>,
    /// Steps made.
    pub step: u64,
    /// Samples consumed.
    pub samples: u64,
    /// The loss scale, where there is one.
    pub scaling: Option<ScaleState>,
    /// This run's number ([`attempt`]).
    pub attempt: u64,
    /// Longest that rank 0's process waits while no other writes anything, if there is a limit.
    pub patience: Option<Duration>,
}

/// Files that are written, but perhaps not on the disk.
pub struct Unsettled(Vec<(File, Written)>);

impl Save<'_> {
    fn temporary(&self) -> PathBuf {
        temporary(&self.folder, self.step, self.attempt)
    }

    /// Removes what a failed attempt has written: it is of no use, and on a full disk in the way.
    fn cleared<T>(&self, done: Result<T, RuntimeError>) -> Result<T, RuntimeError> {
        done.inspect_err(|_| {
            let _ = fs::remove_dir_all(self.temporary());
        })
    }

    /// Writes the files of `ranks`; `get` gives their parts of tensors, and is not needed afterwards; `hurry` says
    /// whether somebody waits until then.
    pub fn write(
        &self,
        ranks: &[u64],
        get: Source<'_>,
        hurry: &dyn Fn() -> bool,
    ) -> Result<Unsettled, RuntimeError> {
        let temporary = self.temporary();
        fs::create_dir_all(&temporary).map_err(RuntimeError::io("make", &temporary))?;
        let lists = assignment(self.plan);
        let lists = lists.iter().filter(|(rank, _)| ranks.contains(rank));
        let mut buffer = Buffer::new()?;
        let write = |(rank, list): (&u64, &Vec<Tensor>)| {
            let path = temporary.join(file_name(*rank));
            let out = Output::create(&path, &mut buffer, hurry)?;
            write_rank(out, self.plan, (self.step, *rank), list, get)
        };
        self.cleared(lists.map(write).collect()).map(Unsettled)
    }

    /// Brings these files to the disk, and tells rank 0's process what they hold.
    pub fn settle(&self, written: Unsettled) -> Result<(), RuntimeError> {
        let settle = |(file, w): (File, Written)| {
            let path = self.temporary().join(&w.file.0);
            file.sync_all().map_err(RuntimeError::io("sync", &path))?;
            let text = serde_json::to_vec(&w)
                .map_err(|e| RuntimeError::Settings(format!("checkpoint part: {e}")))?;
            files::write_bytes(&path.with_extension("json"), &text)
        };
        self.cleared(written.0.into_iter().try_for_each(settle))
    }

    /// Waits for the parts of all ranks and makes them a checkpoint, the newest from then on; for rank 0's
    /// process. Sends the new folder, or nothing if `cancel` was raised before all parts were there.
    pub fn publish(&self, cancel: &AtomicBool) -> Result<Option<PathBuf>, RuntimeError> {
        self.cleared(self.gather(cancel).and_then(|parts| {
            let Some(parts) = parts else {
                let _ = fs::remove_dir_all(self.temporary());
                return Ok(None);
            };
            let (files, tensors) = merge(parts);
            let manifest = Manifest {
                format: manifest::FORMAT,
                step: self.step,
                samples: self.samples,
                seed: self.seed,
                draws: self.draws.clone(),
                scaling: self.scaling,
                world: self.plan.tables.mesh.clone(),
                files,
                tensors,
                slots: self.plan.slots().into_iter().map(str::to_string).collect(),
                frozen: super::frozen(self.plan),
                config: self.plan.tables.config.clone(),
                seal: String::new(),
            };
            self.finish(manifest).map(Some)
        }))
    }

    /// What each rank has written, once all have.
    fn gather(&self, cancel: &AtomicBool) -> Result<Option<Vec<Written>>, RuntimeError> {
        let temporary = self.temporary();
        let part = |rank: &u64| temporary.join(format!("rank-{rank:05}.json"));
        let mut parts: BTreeMap<PathBuf, Written> = BTreeMap::new();
        let ranks: Vec<u64> = assignment(self.plan).keys().copied().collect();
        let expected: Vec<PathBuf> = ranks.iter().map(part).collect();
        let (mut written, mut since) = (0, Instant::now());
        loop {
            let now = bytes_in(&temporary);
            if now != written {
                (written, since) = (now, Instant::now());
            }
            for path in &expected {
                if parts.contains_key(path) || !path.exists() {
                    continue;
                }
                let text =
                    read::bytes(path, read::TABLES).map_err(RuntimeError::io("read", path))?;
                let written = serde_json::from_slice(&text).map_err(|e| {
                    RuntimeError::checkpoint(path, format!("is not what a rank wrote: {e}"))
                })?;
                parts.insert(path.clone(), written);
            }
            if parts.len() == expected.len() {
                break;
            }
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if let Some(most) = self.patience.filter(|most| since.elapsed() > *most) {
                let there = |rank: &u64| parts.contains_key(&part(rank));
                let missing: Vec<u64> = ranks.iter().copied().filter(|r| !there(r)).collect();
                return Err(self.abandoned(missing, most));
            }
            std::thread::sleep(LOOK);
        }
        for path in &expected {
            fs::remove_file(path).map_err(RuntimeError::io("remove", path))?;
        }
        Ok(Some(parts.into_values().collect()))
    }

    /// The error of rank 0 where the others' files do not come.
    fn abandoned(&self, missing: Vec<u64>, most: Duration) -> RuntimeError {
        let what = format!(
            "has written nothing that rank 0 sees in {} for {} s: it must be one folder, on a file system that all \
             ranks share",
            self.folder.display(),
            most.as_secs()
        );
        let at = Some(format!("the save of step {}", self.step));
        let lost = missing.first().copied().unwrap_or(0);
        RuntimeError::Lost { rank: 0, lost, what, waited: missing, at }
    }

    /// Puts the manifest beside the ranks' files and gives the folder its name: from then on it counts.
    fn finish(&self, manifest: Manifest) -> Result<PathBuf, RuntimeError> {
        let (folder, temporary) = (&self.folder, self.temporary());
        let name = format!("global_step{}", self.step);
        let target = folder.join(&name);
        let text = serde_json::to_vec_pretty(&manifest.sealed()?)
            .map_err(|e| RuntimeError::Settings(format!("checkpoint manifest: {e}")))?;
        files::write_bytes(&temporary.join("manifest.json"), &text)?;
        files::sync_folder(&temporary)?;
        if target.exists() {
            // At no moment is there none of this name.
            swap(&temporary, &target).map_err(RuntimeError::io("rename", &target))?;
            let _ = fs::remove_dir_all(&temporary);
        } else {
            fs::rename(&temporary, &target).map_err(RuntimeError::io("rename", &target))?;
        }
        files::sync_folder(folder)?;
        files::write_bytes(&folder.join("latest"), name.as_bytes())?;
        Ok(target)
    }
}

/// Bytes of the files in a folder: they grow while somebody writes.
fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|f| f.metadata().ok()).map(|m| m.len() + 1).sum()
}

/// Saves all ranks' parts under `folder` at once; `get` gives them. Sends the new folder.
pub fn save(
    folder: &Path,
    plan: &Plan,
    settings: &Settings,
    step: u64,
    samples: u64,
    get: Source<'_>,
) -> Result<PathBuf, RuntimeError> {
    let (seed, draws, attempt) = (settings.run.seed, BTreeMap::new(), attempt());
    let (folder, scaling, patience) = (folder.to_path_buf(), None, None);
    let save = Save { folder, plan, seed, draws, step, samples, scaling, attempt, patience };
    let ranks: Vec<u64> = (0..plan.ranks()).collect();
    save.settle(save.write(&ranks, get, &|| false)?)?;
    let done = save.publish(&AtomicBool::new(false))?;
    Ok(done.expect("nobody has cancelled it"))
}
