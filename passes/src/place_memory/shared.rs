//! Fixed places of what several programs of a pipeline stage use: state, sums, slots, inputs.

use std::collections::BTreeMap;

use neoxc_ir::{Attrs, Function, Module, ValueId, keys};

use super::{Place, aligned};
use crate::entries::{Part, class_of, entries, is_training, trains};
use crate::pass::PassError;

/// Fixed places of what the programs of a stage share, by segment and name.
#[derive(Default)]
pub struct Shared {
    offsets: BTreeMap<(&'static str, String), u64>,
    next: BTreeMap<&'static str, u64>,
    micro: u64,
    chunks: i64,
}

impl Shared {
    /// Gives every name of every entry of a class of stages a place; the largest use counts.
    pub fn of(m: &Module, class: usize) -> Shared {
        let int = |name: &str| m.attrs.int(name).unwrap_or(1);
        let (micro, chunks) = (int(keys::MICRO) as u64, int(keys::CHUNKS));
        let mut s = Shared { micro, chunks, ..Self::default() };
        let mut sizes: Vec<((&'static str, String), u64)> = vec![];
        let mut want = |key: (&'static str, String), bytes: u64| match sizes
            .iter_mut()
            .find(|(k, _)| *k == key)
        {
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
                let Some((segment, name)) = shared_name(entry, attrs) else { continue };
                let many = stride_of(attrs) == Some("micro") && trains(entry);
                let times = match attrs.str(keys::ROLE) {
                    _ if many => s.micro,
                    Some("layers") => s.chunks as u64,
                    _ => 1,
                };
                want((segment, name), each * times);
            }
            for (name, r) in result_names(f).into_iter().zip(&f.results) {
                let each = f.ty(*r).bytes() as u64;
                match name.split_once(' ') {
                    Some(("slot", name)) => want(("slots", name.to_string()), each),
                    Some(_) => {}
                    None if name == "loss" && trains(entry) => {
                        want(("io", "train losses".into()), each * s.micro);
                    }
                    None if name == "losses" => want(("io", "train losses".into()), each),
                    None => want(("io", format!("{entry} {name}")), each),
                }
            }
        }
        for (key, bytes) in sizes {
            let at = s.next.entry(key.0).or_default();
            s.offsets.insert(key, *at);
            *at += aligned(bytes);
        }
        s
    }

    fn place(&self, segment: &'static str, name: &str) -> Result<Place, PassError> {
        let offset = self.offsets.get(&(segment, name.to_string())).copied();
        let lost = || PassError::internal(format!("{segment} has no {name}"));
        Ok(Place { segment: segment.into(), offset: offset.ok_or_else(lost)?, strides: vec![] })
    }

    /// Bytes of one slot.
    pub fn slot_bytes(&self) -> u64 {
        self.next.get("slots").copied().unwrap_or(0)
    }

    fn slot(&self, name: &str) -> Result<Place, PassError> {
        Ok(self.place("slots", name)?.slice("slot", self.slot_bytes()))
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
            let (segment, name) = shared_name(&f.name, attrs).ok_or_else(lost)?;
            match stride_of(attrs) {
                Some("slot") => self.slot(&name),
                Some(var) if trains(&f.name) => {
                    Ok(self.place(segment, &name)?.slice(var, f.ty(*p).bytes() as u64))
                }
                _ => Ok(self.in_chunk(f, *p, self.place(segment, &name)?)),
            }
        };
        f.params.iter().zip(&f.param_attrs).map(one).collect()
    }

    pub fn results(&self, f: &Function) -> Result<Vec<Place>, PassError> {
        let train = trains(&f.name);
        let one = |(name, r): (String, &ValueId)| match name.split_once(' ') {
            Some(("slot", name)) => self.slot(name),
            Some(("grad", name)) => Ok(self.in_chunk(f, *r, self.place("grads", name)?)),
            Some(("sum", name)) => Ok(self.in_chunk(f, *r, self.place("grads", &summed(name))?)),
            Some((segment, name)) => {
                let known = ["params", "adam_m", "adam_v"].into_iter().find(|s| *s == segment);
                self.place(known.unwrap_or("params"), name)
            }
            None if name == "loss" && train => {
                let bytes = f.ty(*r).bytes() as u64;
                Ok(self.place("io", "train losses")?.slice("micro", bytes))
            }
            None if name == "losses" => self.place("io", "train losses"),
            None => self.place("io", &format!("{} {name}", class_of(&f.name).0)),
        };
        result_names(f).into_iter().zip(&f.results).map(one).collect()
    }
}

/// The name of a gradient's sum over ranks, where each rank has a part.
fn summed(name: &str) -> String {
    format!("sum of {name}")
}

/// The loop variable of a program's caller that a parameter moves with.
fn stride_of(attrs: &Attrs) -> Option<&'static str> {
    match attrs.str(keys::ROLE) {
        Some("slot") => Some("slot"),
        Some("batch") => Some("micro"),
        _ => None,
    }
}

/// Segment and name of a parameter that the programs of a stage share.
fn shared_name(entry: &str, attrs: &Attrs) -> Option<(&'static str, String)> {
    let name = attrs.str(keys::NAME).unwrap_or_default().to_string();
    let (kind, _) = entry.split_once('_').unwrap_or((entry, ""));
    if let Some(name) = attrs.str(keys::PARAM) {
        return Some(("params", name.to_string()));
    }
    Some(match attrs.str(keys::ROLE)? {
        "adam_m" => ("adam_m", name),
        "adam_v" => ("adam_v", name),
        "grad" => ("grads", name),
        "sum" => ("grads", summed(&name)),
        "slot" => ("slots", name),
        "losses" => ("io", "train losses".into()),
        "batch" | "layers" | "scalar" => ("io", format!("{kind} {name}")),
        "const" => ("consts", name),
        _ => return None,
    })
}

/// What each result of a stage's program is; the update gives back the state that it was given.
fn result_names(f: &Function) -> Vec<String> {
    if let Some(names) = f.attrs.strs(keys::RESULTS) {
        return names.into_iter().map(str::to_string).collect();
    }
    let state = f.results.len().saturating_sub(2);
    let of = |attrs: &Attrs| {
        shared_name(&f.name, attrs).map(|(segment, name)| format!("{segment} {name}"))
    };
    let mut names: Vec<String> = f.param_attrs.iter().take(state).filter_map(of).collect();
    names.extend(["loss".to_string(), "grad_norm".to_string()]);
    if let Some(loss) = names.iter_mut().find(|n| *n == "loss") {
        // Not to be taken for one micro-batch's.
        *loss = "mean_loss".into();
    }
    names
}
