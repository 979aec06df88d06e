//! `manifest.json`: what a checkpoint holds, and everything that is needed to tell whether it still does.
//!
//! Nothing in it is believed before it was checked: names stay inside the folder, sizes are bounded, the
//! parts of a tensor cover it once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use neoxc_base::read;
use neoxc_plan::Block;
use serde::{Deserialize, Serialize};

use super::hash::hash;
use crate::RuntimeError;
use crate::train::scaler::ScaleState;

/// Version of the format. Format 3 did not list the optimizer's slots: they are known by the names of its tensors.
pub const FORMAT: u32 = 4;

/// The oldest format that is read.
const OLDEST: u32 = 3;

/// Largest manifest that is read.
const MAX_BYTES: u64 = 1 << 30;

/// Most elements that a tensor may have.
const MAX_ELEMENTS: u64 = 1 << 48;

/// What `manifest.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format version.
    pub format: u32,
    /// Steps made.
    pub step: u64,
    /// Samples consumed: where the data goes on.
    pub samples: u64,
    /// Seed of sample order and start values; with `step` and `samples` the whole random state.
    pub seed: u32,
    /// What else decides which sample a step draws and what its dropout drops, by what is responsible in the
    /// configuration; empty in checkpoints that were written before this was noted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub draws: BTreeMap<String, String>,
    /// The loss scale, and the steps that were skipped; of a run in fp16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScaleState>,
    /// The mesh of the run that wrote it: for people.
    pub world: Vec<(String, u64)>,
    /// One file per writing rank.
    pub files: BTreeMap<String, FileEntry>,
    /// Every tensor by logical name: weights, and what the optimizer keeps of them as `<slot>.<name>`.
    pub tensors: BTreeMap<String, Entry>,
    /// The slots of the optimizer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<String>,
    /// Weights that are not trained, of which the optimizer keeps nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<String>,
    /// The resolved configuration.
    pub config: serde_json::Value,
    /// Hash of everything above.
    #[serde(default)]
    pub seal: String,
}

/// A file of tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its size.
    pub bytes: u64,
    /// Bytes in front of the first tensor.
    pub header_bytes: u64,
    /// Hash of these.
    pub header: String,
}

/// A whole tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Element type: `F32`.
    pub dtype: String,
    /// Shape as published checkpoints have it.
    pub shape: Vec<u64>,
    /// Sizes that slices count in: the same elements in the same order.
    pub dims: Vec<u64>,
    /// Its parts.
    pub slices: Vec<Slice>,
}

/// A part of a tensor, in one file under the tensor's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The file.
    pub file: String,
    /// Which part.
    #[serde(flatten)]
    pub block: Block,
    /// Hash of its bytes.
    pub hash: String,
}

/// What is read of a manifest of any format.
#[derive(Deserialize)]
struct Version {
    format: Option<u64>,
}

impl Manifest {
    /// The same with the hash of all else.
    pub fn sealed(mut self) -> Result<Self, RuntimeError> {
        self.seal = String::new();
        let text = serde_json::to_vec(&self)
            .map_err(|e| RuntimeError::Settings(format!("checkpoint manifest: {e}")))?;
        self.seal = hash(&text);
        Ok(self)
    }

    /// Reads and checks the manifest in `folder`.
    pub fn read(folder: &Path) -> Result<Manifest, RuntimeError> {
        let path = folder.join("manifest.json");
        let bad = |message: String| RuntimeError::checkpoint(&path, message);
        let text = read::bytes(&path, MAX_BYTES).map_err(RuntimeError::io("read", &path))?;
        let wrong = |e: serde_json::Error| bad(format!("is not a manifest: {e}"));
        let version: Version = serde_json::from_slice(&text).map_err(wrong)?;
        let known = |f: u64| (u64::from(OLDEST)..=u64::from(FORMAT)).contains(&f);
        if !version.format.is_some_and(known) {
            let has = version.format.map_or("no format".to_string(), |f| format!("format {f}"));
            return Err(bad(format!("has {has}, not format {FORMAT} or {OLDEST}")));
        }
        let m: Manifest = serde_json::from_slice(&text).map_err(wrong)?;
        if m.clone().sealed()?.seal != m.seal {
            return Err(bad("was changed after it was written".into()));
        }
        m.check().map_err(bad)?;
        Ok(m)
    }

    /// The optimizer's slots.
    pub fn slots(&self) -> BTreeSet<String> {
        if self.format >= FORMAT {
            return self.slots.iter().cloned().collect();
        }
        let slot = |name: &String| {
            let (slot, weight) = name.split_once('.')?;
            self.tensors.contains_key(weight).then(|| slot.to_string())
        };
        self.tensors.keys().filter_map(slot).collect()
    }

    /// The slot and the weight that a tensor is the state of, whether that weight is there or not; none of a weight.
    pub fn state_of<'n>(&self, name: &'n str) -> Option<(&'n str, &'n str)> {
        let (slot, weight) = name.split_once('.')?;
        let known = match self.format < FORMAT {
            true => self.slots().contains(slot),
            false => self.slots.iter().any(|s| s == slot),
        };
        known.then_some((slot, weight))
    }

    /// Names of the weights.
    pub fn weights(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys().filter(|name| self.state_of(name).is_none())
    }

    /// Whether names, sizes and parts make sense.
    pub fn check(&self) -> Result<(), String> {
        for (name, f) in &self.files {
            let number = name.strip_prefix("rank-").and_then(|n| n.strip_suffix(".safetensors"));
            let digits = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
            if !number.is_some_and(digits) {
                return Err(format!("names the file {name:?}, which no checkpoint has"));
            }
            if f.header_bytes < 8 || f.header_bytes > f.bytes {
                return Err(format!("gives {name} an impossible header"));
            }
        }
        for (name, t) in &self.tensors {
            t.check(self).map_err(|what| format!("{name}: {what}"))?;
        }
        Ok(())
    }
}

impl Entry {
    /// Elements of the whole tensor; none if they are too many to count.
    pub fn elements(&self) -> Option<u64> {
        let product = |sizes: &[u64]| sizes.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let n = product(&self.shape).filter(|n| (1..=MAX_ELEMENTS).contains(n))?;
        (product(&self.dims) == Some(n)).then_some(n)
    }

    fn check(&self, m: &Manifest) -> Result<(), String> {
        if self.dtype != "F32" {
            return Err(format!("has the unknown dtype {:?}", self.dtype));
        }
        let Some(all) = self.elements() else {
            return Err(format!(
                "{:?} and {:?} are no shapes of one tensor",
                self.shape, self.dims
            ));
        };
        let mut covered = 0u64;
        for s in &self.slices {
            let (start, size) = (&s.block.start, &s.block.size);
            if start.len() != self.dims.len() || size.len() != self.dims.len() {
                return Err("a slice has another number of dims".into());
            }
            let ends = start.iter().zip(size).map(|(a, n)| a.checked_add(*n));
            let inside = ends.zip(&self.dims).all(|(end, d)| end.is_some_and(|end| end <= *d));
            if !inside || size.contains(&0) {
                return Err(format!("the slice at {start:?} of {size:?} leaves {:?}", self.dims));
            }
            // Inside the tensor, so the number of elements is bounded.
            covered = covered.saturating_add(s.block.elements());
            if !m.files.contains_key(&s.file) {
                return Err(format!("a slice is in the unknown file {:?}", s.file));
            }
        }
        // Slices of equal size at multiples of it, each once and as many elements as the tensor has,
        // cover it.
        let first = self.slices.first().map(|s| &s.block.size);
        let mut starts = HashSet::new();
        let tiles = self.slices.iter().all(|s| {
            let at = s.block.start.iter().zip(&s.block.size);
            Some(&s.block.size) == first
                && at.clone().all(|(a, n)| a.is_multiple_of(*n))
                && starts.insert(&s.block.start)
        });
        if !tiles || covered != all {
            return Err("its slices overlap or leave gaps".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(start: [u64; 2], size: [u64; 2]) -> Slice {
        let block = Block { start: start.to_vec(), size: size.to_vec() };
        Slice { file: "rank-00000.safetensors".into(), block, hash: String::new() }
    }

    fn manifest() -> Manifest {
        let slices = vec![slice([0, 0], [2, 6]), slice([2, 0], [2, 6])];
        let entry = Entry { dtype: "F32".into(), shape: vec![24], dims: vec![4, 6], slices };
        let file = FileEntry { bytes: 200, header_bytes: 100, header: String::new() };
        Manifest {
            format: FORMAT,
            step: 1,
            samples: 8,
            seed: 1,
            draws: BTreeMap::new(),
            scaling: None,
            world: vec![],
            files: [("rank-00000.safetensors".to_string(), file)].into(),
            tensors: [("w".to_string(), entry)].into(),
            slots: vec![],
            frozen: vec![],
            config: serde_json::Value::Null,
            seal: String::new(),
        }
    }

    /// Format 3 did not list slots; in it as in format 4 a name that ends like a weight's is that weight's state.
    #[test]
    fn slots_are_listed_or_known_by_names() {
        let mut m = manifest();
        let entry = m.tensors["w"].clone();
        m.tensors = ["a.w", "mean.a.w", "square.a.w"].map(|n| (n.into(), entry.clone())).into();
        m.format = OLDEST;
        assert_eq!(m.slots().into_iter().collect::<Vec<_>>(), ["mean", "square"]);
        assert_eq!(m.state_of("mean.a.w"), Some(("mean", "a.w")));
        assert_eq!(m.weights().collect::<Vec<_>>(), ["a.w"]);
        m.format = FORMAT;
        m.slots = vec!["mean".into()];
        assert_eq!(m.slots().into_iter().collect::<Vec<_>>(), ["mean"]);
        assert_eq!(m.weights().collect::<Vec<_>>(), ["a.w", "square.a.w"]);
    }

    #[test]
    fn hostile_manifests_are_refused() {
        assert_eq!(manifest().check(), Ok(()));
        let wrong = |what: &str, change: &dyn Fn(&mut Manifest)| {
            let mut m = manifest();
            change(&mut m);
            let told = m.check().expect_err(what);
            assert!(told.contains(what), "{told}");
        };
        let w = |m: &mut Manifest, f: &dyn Fn(&mut Entry)| {
            f(m.tensors.get_mut("w").expect("it is there"));
        };
        wrong("overlap or leave gaps", &|m| w(m, &|t| t.slices[1] = t.slices[0].clone()));
        wrong("overlap or leave gaps", &|m| w(m, &|t| t.slices.truncate(1)));
        wrong("overlap or leave gaps", &|m| w(m, &|t| t.slices.clear()));
        wrong("overlap or leave gaps", &|m| w(m, &|t| t.slices[1] = slice([1, 0], [2, 6])));
        wrong("overlap or leave gaps", &|m| {
            w(m, &|t| {
                t.slices = vec![slice([0, 0], [2, 6]), slice([2, 0], [1, 6]), slice([2, 0], [1, 6])]
            });
        });
        wrong("leaves", &|m| w(m, &|t| t.slices[1] = slice([3, 0], [2, 6])));
        wrong("leaves", &|m| w(m, &|t| t.slices[1] = slice([u64::MAX, 0], [2, 6])));
        wrong("leaves", &|m| w(m, &|t| t.slices[1] = slice([2, 0], [0, 6])));
        wrong("no shapes", &|m| w(m, &|t| t.shape = vec![u64::MAX, 2]));
        wrong("no shapes", &|m| w(m, &|t| t.shape = vec![25]));
        wrong("no shapes", &|m| w(m, &|t| t.dims = vec![1 << 40, 1 << 40]));
        wrong("number of dims", &|m| w(m, &|t| t.slices[0].block.start = vec![0]));
        wrong("unknown file", &|m| w(m, &|t| t.slices[0].file = "rank-00001.safetensors".into()));
        wrong("dtype", &|m| w(m, &|t| t.dtype = "I8".into()));
        for name in [
            "../rank-00000.safetensors",
            "/etc/passwd",
            "rank-.safetensors",
            "rank-0/1.safetensors",
        ] {
            wrong("no checkpoint has", &|m| {
                let f = m.files["rank-00000.safetensors"].clone();
                m.files.insert(name.into(), f);
            });
        }
        wrong("impossible header", &|m| {
            m.files.values_mut().for_each(|f| f.header_bytes = 1000);
        });
    }
}
