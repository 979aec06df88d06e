//! Checkpoints: `global_stepN/` with parameters and optimizer state by logical tensor.
//!
//! ```text
//! global_step200/manifest.json            step, sample cursor, seed, configuration; of each tensor the
//!                                         shape, and where its parts lie, with their hashes
//!                rank-00000.safetensors   parts that rank 0 wrote, f32: published GPTNeoX names, and
//!                …                        <slot>.<name> for each of the optimizer's slots
//! latest                                  name of the newest complete folder
//! ```
//! A folder appears when every rank's part is in it: temporary name, fsync, rename. Who wrote which part, and
//! on which layout, matters to nobody who reads it.

mod direct;
mod folder;
mod hash;
mod lock;
mod manifest;
mod reader;
mod save;
mod writer;

use std::collections::HashSet;
use std::path::Path;

pub use folder::{latest, of_step, probe, prune, step_of, sweep};
pub use hash::hash;
pub use lock::Lock;
pub use manifest::{Entry, FileEntry, Manifest, Slice};
use neoxc_plan::{Block, Held, Parameter, Plan, Values};
pub use reader::Reader;
pub use save::{Save, attempt, save};
pub use writer::Source;

use crate::RuntimeError;

/// One whole tensor of a checkpoint: its name, and what it is of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Logical name.
    pub name: String,
    /// Weights, or what the optimizer keeps in one of its slots.
    pub values: Values,
    /// Number of the parameter in the plan's table.
    pub parameter: usize,
    /// Layer, where the parameter is a stack.
    pub layer: u64,
}

impl Tensor {
    fn of<'p>(&self, plan: &'p Plan) -> (&'p Parameter, &'p Held) {
        let p = &plan.tables.parameters[self.parameter];
        (p, p.held(&self.values).expect("`tensors` names only values that there are"))
    }

    /// The part that `rank` has.
    pub fn block(&self, plan: &Plan, rank: u64) -> Block {
        let (p, held) = self.of(plan);
        plan.block_of(&p.dims, &held.axes, rank)
    }

    /// Whether `rank` has a part: not every stage has every layer and parameter.
    pub fn is_on(&self, plan: &Plan, rank: u64) -> bool {
        let (p, held) = self.of(plan);
        let here = plan.along("pipe", rank).1;
        (p.layer_axis.is_none() || plan.stage_of(p, self.layer).0 == here)
            && held.offset(plan.class_of(here)).is_some()
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
    let mut out = vec![];
    let state = plan.slots().into_iter().map(|slot| Values::State(slot.to_string()));
    for values in [Values::Weights].into_iter().chain(state) {
        let here = |p: &Parameter| p.held(&values).is_some();
        let all = plan.tables.parameters.iter().enumerate();
        for (parameter, p) in all.filter(|(_, p)| here(p)) {
            for (layer, name) in p.names().into_iter().enumerate() {
                let name = match &values {
                    Values::State(slot) => format!("{slot}.{name}"),
                    _ => name,
                };
                let (values, layer) = (values.clone(), layer as u64);
                out.push(Tensor { name, values, parameter, layer });
            }
        }
    }
    out
}

/// Names of a plan's tensors that are not trained.
pub(crate) fn frozen(plan: &Plan) -> Vec<String> {
    let all = plan.tables.parameters.iter().filter(|p| p.gradient.is_none());
    all.flat_map(Parameter::names).collect()
}

/// Receives bytes of a rank's part of a tensor: how many of the part's stand in front of them, and these.
pub type Sink<'a> = &'a mut dyn FnMut(u64, &Tensor, usize, &[u8]);

/// Reads and verifies a checkpoint's manifest.
pub fn manifest(folder: &Path) -> Result<Manifest, RuntimeError> {
    Manifest::read(folder)
}

/// Loads what `ranks` have of a plan's parameters and optimizer state, in pieces, which cover it. Only what they need is
/// read, and verified.
pub fn load(
    folder: &Path,
    plan: &Plan,
    ranks: &[u64],
    put: Sink<'_>,
) -> Result<Manifest, RuntimeError> {
    load_all(folder, plan, ranks, &tensors(plan), put)
}

/// Loads what `ranks` have of parameters only.
pub fn load_model(
    folder: &Path,
    plan: &Plan,
    ranks: &[u64],
    put: Sink<'_>,
) -> Result<Manifest, RuntimeError> {
    let mut list = tensors(plan);
    list.retain(|t| t.values == Values::Weights);
    load_all(folder, plan, ranks, &list, put)
}

/// Names with commas, for people.
fn listed(names: &[&str]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

/// What to compile where only the rows of the embedding differ: they are padded by the tensor ranks.
fn rows(plan: &Plan, has: &[u64], wants: &[u64]) -> String {
    let padded = plan.tables.run["padded_vocab_size"].as_u64();
    match (has, wants) {
        ([rows, a @ ..], [padded_rows, b @ ..]) if a == b && Some(*padded_rows) == padded => {
            format!("; compile the plan with `--set padded_vocab_size={rows}`")
        }
        _ => String::new(),
    }
}

fn load_all(
    folder: &Path,
    plan: &Plan,
    ranks: &[u64],
    list: &[Tensor],
    put: Sink<'_>,
) -> Result<Manifest, RuntimeError> {
    let reader = Reader::open(folder)?;
    let other = |what: String| {
        RuntimeError::checkpoint(folder, format!("belongs to another model: {what}"))
    };
    let (has, keeps) = (reader.manifest.slots(), plan.slots());
    let all = list.iter().any(|t| t.values != Values::Weights);
    if all && has != keeps.iter().map(|s| s.to_string()).collect() {
        let has: Vec<&str> = has.iter().map(String::as_str).collect();
        return Err(RuntimeError::checkpoint(
            folder,
            format!(
                "is of another optimizer: it has the state {}, the plan's optimizer keeps {}",
                listed(&has),
                listed(&keeps)
            ),
        ));
    }
    for t in list {
        let entry = reader.entry(&t.name).ok_or_else(|| other(format!("it has no {}", t.name)))?;
        let (p, _) = t.of(plan);
        if entry.shape != p.shape || entry.dims.iter().product::<u64>() != p.elements() {
            let what = format!("{} is {:?}, the plan has {:?}", t.name, entry.shape, p.shape);
            return Err(other(what + &rows(plan, &entry.shape, &p.shape)));
        }
    }
    let known: HashSet<&str> = list.iter().map(|t| t.name.as_str()).collect();
    let mut names = reader.manifest.tensors.keys();
    let meant = |n: &&String| all || reader.manifest.state_of(n).is_none();
    if let Some(name) = names.find(|n| meant(n) && !known.contains(n.as_str())) {
        return Err(other(format!("it has {name}, the plan has not")));
    }
    for t in list {
        let own: Vec<u64> = ranks.iter().copied().filter(|r| t.is_on(plan, *r)).collect();
        let dims = &t.of(plan).0.dims;
        let places: Vec<_> = own.iter().map(|r| t.block(plan, *r).runs(dims)).collect();
        reader.read_parts(&t.name, &places, &mut |n, at, bytes| put(own[n], t, at, bytes))?;
    }
    Ok(reader.manifest)
}
