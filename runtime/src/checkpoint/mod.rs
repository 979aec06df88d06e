//! Checkpoints: `global_stepN/` with parameters and optimizer state by logical tensor.
//!
//! ```text
//! global_step200/manifest.json            step, sample cursor, seed, configuration; of each tensor the
//!                                         shape, and where its parts lie, with their hashes
//!                rank-00000.safetensors   parts that rank 0 wrote, f32: published GPTNeoX names,
//!                …                        exp_avg.<name>, exp_avg_sq.<name>
//! latest                                  name of the newest complete folder
//! ```
//! A folder appears when it is whole: temporary name, fsync, rename. Who wrote which part, and on which
//! layout, matters to nobody who reads it.

mod manifest;
mod reader;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};

pub use manifest::{Entry, FileEntry, Manifest, Slice};
use neoxc_plan::{Block, Held, Parameter, Plan};
pub use reader::Reader;
pub use writer::{Source, Written, assignment, merge, write_rank};

use crate::RuntimeError;
use crate::files;
use crate::train::Settings;

/// One whole tensor of a checkpoint: its name, and what it is of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Logical name.
    pub name: String,
    /// `params`, `adam_m` or `adam_v`.
    pub segment: &'static str,
    /// Number of the parameter in the plan's table.
    pub parameter: usize,
    /// Layer, where the parameter is a stack.
    pub layer: u64,
}

impl Tensor {
    fn of<'p>(&self, plan: &'p Plan) -> (&'p Parameter, &'p Held) {
        let p = &plan.tables.parameters[self.parameter];
        (p, p.held(self.segment))
    }

    /// The part that `rank` has.
    pub fn block(&self, plan: &Plan, rank: u64) -> Block {
        let (p, held) = self.of(plan);
        plan.block_of(&p.dims, &held.axes, rank)
    }

    /// Ranks that write a part each; of those with the same part, `turn` picks one.
    fn writers(&self, plan: &Plan, turn: u64) -> Vec<u64> {
        let (p, held) = self.of(plan);
        let (stage, _) = plan.stage_of(p, self.layer);
        let first = plan.ranks() / plan.along("pipe", 0).0 * stage;
        let mut ranks: Vec<u64> = plan.owners(held).into_iter().map(|r| first + r).collect();
        // Owners stand at the beginning of every axis that divides nothing.
        let mut left = turn;
        for (axis, size) in plan.tables.mesh.iter().filter(|(axis, _)| axis != "pipe") {
            if held.axes.contains(axis) {
                continue;
            }
            for r in &mut ranks {
                *r = plan.group(axis, *r)[(left % size) as usize];
            }
            left /= size;
        }
        ranks
    }

    fn entry(&self, plan: &Plan, slices: Vec<Slice>) -> Entry {
        let (p, _) = self.of(plan);
        Entry { dtype: "F32".into(), shape: p.shape.clone(), dims: p.dims.clone(), slices }
    }
}

/// Every tensor of a plan that a checkpoint holds, in the order in which they are written.
pub fn tensors(plan: &Plan) -> Vec<Tensor> {
    let kinds = [("params", ""), ("adam_m", "exp_avg."), ("adam_v", "exp_avg_sq.")];
    let mut out = vec![];
    for (segment, prefix) in kinds {
        for (parameter, p) in plan.tables.parameters.iter().enumerate() {
            for (layer, name) in p.names().into_iter().enumerate() {
                let name = format!("{prefix}{name}");
                out.push(Tensor { name, segment, parameter, layer: layer as u64 });
            }
        }
    }
    out
}

/// Takes the bytes of a whole tensor.
pub type Sink<'a> = &'a mut dyn FnMut(&Tensor, &[u8]);

/// Saves under `folder`; `get` gives each rank's part of a tensor. Gives the new folder.
pub fn save(
    folder: &Path,
    plan: &Plan,
    settings: &Settings,
    step: u64,
    samples: u64,
    get: Source<'_>,
) -> Result<PathBuf, RuntimeError> {
    let name = format!("global_step{step}");
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir_all(&temporary).map_err(RuntimeError::io("make", &temporary))?;
    let write = |(rank, list): (u64, Vec<Tensor>)| write_rank(&temporary, plan, rank, &list, get);
    let written: Result<Vec<Written>, RuntimeError> =
        assignment(plan).into_iter().map(write).collect();
    // What a full disk left is of no use, and in the way.
    let (files, tensors) = merge(written.inspect_err(|_| {
        let _ = fs::remove_dir_all(&temporary);
    })?);
    let manifest = Manifest {
        format: manifest::FORMAT,
        step,
        samples,
        seed: settings.seed,
        world: plan.tables.mesh.clone(),
        files,
        tensors,
        config: plan.tables.config.clone(),
        seal: String::new(),
    };
    publish(folder, &temporary, &name, manifest)
}

/// Puts the manifest beside the ranks' files and gives the folder its name: from then on it counts.
fn publish(
    folder: &Path,
    temporary: &Path,
    name: &str,
    manifest: Manifest,
) -> Result<PathBuf, RuntimeError> {
    let target = folder.join(name);
    let text = serde_json::to_vec_pretty(&manifest.sealed()?)
        .map_err(|e| RuntimeError::Settings(format!("checkpoint manifest: {e}")))?;
    files::write_bytes(&temporary.join("manifest.json"), &text)?;
    files::sync_folder(temporary)?;
    if target.exists() {
        // At no moment is there none of this name.
        files::exchange(temporary, &target)?;
        let _ = fs::remove_dir_all(temporary);
    } else {
        fs::rename(temporary, &target).map_err(RuntimeError::io("rename", &target))?;
    }
    files::sync_folder(folder)?;
    files::write_bytes(&folder.join("latest"), name.as_bytes())?;
    Ok(target)
}

/// Complete checkpoints under `folder` by step.
fn steps(folder: &Path) -> Result<Vec<(u64, PathBuf)>, RuntimeError> {
    let mut steps: Vec<(u64, PathBuf)> = fs::read_dir(folder)
        .map_err(RuntimeError::io("read", folder))?
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            Some((name.strip_prefix("global_step")?.parse().ok()?, e.path()))
        })
        .collect();
    steps.sort();
    Ok(steps)
}

/// The newest complete checkpoint under `folder`: the one that `latest` names, or, where a run was ended
/// before it could write that, the one with the highest step.
pub fn latest(folder: &Path) -> Option<PathBuf> {
    let complete = |path: &PathBuf| path.join("manifest.json").is_file();
    let named = fs::read_to_string(folder.join("latest")).ok().and_then(|name| {
        let path = folder.join(name.trim());
        (name.trim().starts_with("global_step") && !name.contains('/')).then_some(path)
    });
    named.filter(complete).or_else(|| {
        let all = steps(folder).ok()?;
        all.into_iter().map(|(_, path)| path).rev().find(complete)
    })
}

/// Removes what runs that were killed while saving left behind.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = name.strip_prefix(".global_step").and_then(|n| n.strip_suffix(".tmp"));
        let process = rest.and_then(|n| n.rsplit('.').next()?.parse::<u32>().ok());
        if process.is_some_and(|p| !Path::new(&format!("/proc/{p}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Keeps the `keep` newest checkpoints.
pub fn prune(folder: &Path, keep: usize) -> Result<(), RuntimeError> {
    let steps = steps(folder)?;
    let surplus = steps.len().saturating_sub(keep.max(1));
    for (_, path) in &steps[..surplus] {
        fs::remove_dir_all(path).map_err(RuntimeError::io("remove", path))?;
    }
    Ok(())
}

/// Reads and verifies a checkpoint's manifest.
pub fn manifest(folder: &Path) -> Result<Manifest, RuntimeError> {
    Manifest::read(folder)
}

/// Loads parameters and optimizer state; `put` takes whole tensors.
pub fn load(folder: &Path, plan: &Plan, put: Sink<'_>) -> Result<Manifest, RuntimeError> {
    load_all(folder, plan, &tensors(plan), put)
}

/// Loads parameters only.
pub fn load_model(folder: &Path, plan: &Plan, put: Sink<'_>) -> Result<Manifest, RuntimeError> {
    let mut list = tensors(plan);
    list.retain(|t| t.segment == "params");
    load_all(folder, plan, &list, put)
}

fn load_all(
    folder: &Path,
    plan: &Plan,
    list: &[Tensor],
    put: Sink<'_>,
) -> Result<Manifest, RuntimeError> {
    let reader = Reader::open(folder)?;
    let other = |what: String| {
        RuntimeError::checkpoint(folder, format!("belongs to another model: {what}"))
    };
    for t in list {
        let entry = reader.entry(&t.name).ok_or_else(|| other(format!("it has no {}", t.name)))?;
        let (p, _) = t.of(plan);
        if entry.shape != p.shape || entry.dims.iter().product::<u64>() != p.elements() {
            let what = format!("{} is {:?}, the plan has {:?}", t.name, entry.shape, p.shape);
            return Err(other(what));
        }
    }
    let all = tensors(plan).len();
    if reader.manifest.tensors.len() != all {
        let n = reader.manifest.tensors.len();
        return Err(other(format!("it has {n} tensors, the plan {all}")));
    }
    let mut whole = vec![];
    for t in list {
        reader.read(&t.name, &mut whole)?;
        put(t, &whole);
    }
    Ok(reader.manifest)
}
