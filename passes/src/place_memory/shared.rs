//! Fixed places of what several programs of a pipeline stage use: state, sums, slots, inputs.

use std::collections::BTreeMap;

use neoxc_ir::role::{name_of, state_segment};
use neoxc_ir::{Attrs, Function, Module, Output, Role, ValueId, keys};

use super::{Place, aligned};
use crate::entries::{Part, class_of, entries, is_training, trains};
use crate::pass::PassError;

/// Segment and name of what programs share.
type Key = (String, String);

/// Fixed places of what the programs of a stage share, by segment and name.
#[derive(Default)]
pub struct Shared {
    offsets: BTreeMap<Key, u64>,
    next: BTreeMap<String, u64>,
    micro: u64,
    chunks: i64,
}

impl Shared {
    /// Gives every name of every entry of a class of stages a place; the largest use counts.
    pub fn of(m: &Module, class: usize) -> Shared {
        let int = |name: &str| m.attrs.int(name).unwrap_or(1);
        let (micro, chunks) = (int(keys::MICRO) as u64, int(keys::CHUNKS));
        let mut s = Shared { micro, chunks, ..Self::default() };
        let mut sizes: Vec<(Key, u64)> = vec![];
        let mut want = |key: Key, bytes: u64| match sizes.iter_mut().find(|(k, _)| *k == key) {
            Some((_, size)) => *size = bytes.max(*size),
            None => sizes.push((key, bytes)),
        };
        for entry in entries(m) {
            let Some(f) = m.function(&entry).filter(|_| class_of(&entry).1 == class) else {
                continue;
            };
            let entry = class_of(&entry).0;
            for (p, attrs) in f.params.iter().zip(&f.param_attrs) {
                let each = f.ty(*p).bytes() as u64;
                let Some(key) = shared_name(entry, attrs) else { continue };
                let many = stride_of(attrs) == Some("micro") && trains(entry);
                let times = match Role::of(attrs) {
                    _ if many => s.micro,
                    Some(Role::Layers) => s.chunks as u64,
                    _ => 1,
                };
                want(key, each * times);
            }
            for (what, r) in Output::all(f).unwrap_or_default().into_iter().zip(&f.results) {
                let each = f.ty(*r).bytes() as u64;
                let Some(key) = result_key(entry, &what) else { continue };
                match what {
                    Output::Loss => want(key, each * s.micro),
                    Output::Slot(_) | Output::Losses | Output::Port(_) => want(key, each),
                    // What it is the new value of has its place.
                    _ => {}
                }
            }
        }
        for (key, bytes) in sizes {
            let at = s.next.entry(key.0.clone()).or_default();
            s.offsets.insert(key, *at);
            *at += aligned(bytes);
        }
        s
    }

    fn place(&self, key: Key) -> Result<Place, PassError> {
        let lost = || PassError::internal(format!("{} has no {}", key.0, key.1));
        let offset = self.offsets.get(&key).copied().ok_or_else(lost)?;
        Ok(Place { segment: key.0, offset, strides: vec![] })
    }

    /// Bytes of one slot.
    pub fn slot_bytes(&self) -> u64 {
        self.next.get("slots").copied().unwrap_or(0)
    }

    fn slot(&self, name: &str) -> Result<Place, PassError> {
        Ok(self.place(("slots".into(), name.into()))?.slice("slot", self.slot_bytes()))
    }

    /// The place of state of which a program that is run chunk by chunk has one chunk's layers.
    fn in_chunk(&self, f: &Function, v: ValueId, place: Place) -> Place {
        let whole = [Part::Start, Part::Finish].iter().any(|part| is_training(&f.name, *part));
        let layers = f.ty(v).dims.first().is_some_and(|d| &*d.name == "layer");
        match self.chunks > 1 && layers && !whole {
            true => place.slice("stage_chunk", f.ty(v).bytes() as u64),
            false => place,
        }
    }

    pub fn params(&self, f: &Function) -> Result<Vec<Place>, PassError> {
        let one = |(p, attrs): (&ValueId, &Attrs)| {
            let lost = || PassError::internal(format!("@{}: a parameter has no role", f.name));
            let key = shared_name(&f.name, attrs).ok_or_else(lost)?;
            match stride_of(attrs) {
                Some("slot") => self.slot(&key.1),
                Some(var) if trains(&f.name) => {
                    Ok(self.place(key)?.slice(var, f.ty(*p).bytes() as u64))
                }
                _ => Ok(self.in_chunk(f, *p, self.place(key)?)),
            }
        };
        f.params.iter().zip(&f.param_attrs).map(one).collect()
    }

    pub fn results(&self, f: &Function) -> Result<Vec<Place>, PassError> {
        let entry = class_of(&f.name).0;
        let lost = || PassError::internal(format!("@{entry} does not say what its results are"));
        let one = |(what, r): (Output, &ValueId)| match &what {
            Output::Slot(name) => self.slot(name),
            _ => {
                let place = self.place(result_key(entry, &what).ok_or_else(lost)?)?;
                Ok(match what {
                    Output::Gradient(_) | Output::Sum(_) => self.in_chunk(f, *r, place),
                    Output::Loss => place.slice("micro", f.ty(*r).bytes() as u64),
                    _ => place,
                })
            }
        };
        Output::all(f).ok_or_else(lost)?.into_iter().zip(&f.results).map(one).collect()
    }
}

/// The name of a gradient's sum over ranks, where each rank has a part.
fn summed(name: &str) -> String {
    format!("sum of {name}")
}

/// The loop variable of a program's caller that a parameter moves with.
fn stride_of(attrs: &Attrs) -> Option<&'static str> {
    match Role::of(attrs) {
        Some(Role::Slot) => Some("slot"),
        Some(Role::Batch) => Some("micro"),
        _ => None,
    }
}

/// Segment and name of a parameter that the programs of a stage share.
fn shared_name(entry: &str, attrs: &Attrs) -> Option<Key> {
    let name = name_of(attrs).to_string();
    let (kind, _) = entry.split_once('_').unwrap_or((entry, ""));
    let (segment, name) = match Role::of(attrs)? {
        Role::Parameter => ("params".to_string(), name),
        Role::State => (state_segment(attrs.str(keys::SLOT)?), name),
        Role::Gradient => ("grads".into(), name),
        Role::Sum => ("grads".into(), summed(&name)),
        Role::Slot => ("slots".into(), name),
        Role::Losses => ("io".into(), LOSSES.into()),
        Role::Batch | Role::Layers | Role::Scalar => ("io".into(), format!("{kind} {name}")),
        Role::Const => ("consts".into(), name),
        Role::Cache | Role::Rounded => return None,
    };
    Some((segment, name))
}

/// The losses of a step's micro-batches, in `io`.
const LOSSES: &str = "train losses";

/// Segment and name of a result of a stage's program.
fn result_key(entry: &str, what: &Output) -> Option<Key> {
    let (segment, name) = match what {
        Output::Parameter(name) => ("params".to_string(), name.clone()),
        Output::State(slot, name) => (state_segment(slot), name.clone()),
        Output::Gradient(name) => ("grads".into(), name.clone()),
        Output::Sum(name) => ("grads".into(), summed(name)),
        Output::Slot(name) => ("slots".into(), name.clone()),
        Output::Loss | Output::Losses => ("io".into(), LOSSES.into()),
        Output::Port(name) => ("io".into(), format!("{entry} {name}")),
        Output::Rounded(_) | Output::Cache(_) => return None,
    };
    Some((segment, name))
}
