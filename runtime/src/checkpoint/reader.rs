//! Reading: tensors, or ranks' parts of them, from the parts that other ranks wrote. Every byte is verified before it is
//! used; slices of which nothing is used are not read. Files are read, not mapped: one that is cut meanwhile is an error
//! with its name, where a mapped one would end the process by a signal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use neoxc_base::read;
use neoxc_plan::Run;
use safetensors::tensor::Metadata;

use super::hash::hash;
use super::manifest::{Entry, Manifest, Slice};
use super::writer::not_finite;
use crate::RuntimeError;
use crate::activity::Activity;
use crate::device::limits;

/// A file, its header verified.
struct Opened {
    path: PathBuf,
    file: File,
    /// Where each tensor's part lies.
    parts: BTreeMap<String, (u64, u64)>,
}

impl Opened {
    /// `len` bytes from byte `at` on.
    fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, RuntimeError> {
        let _doing = Activity::begin(format!("reading {}", self.path.display()));
        let mut bytes = limits::reserve("a part of a checkpoint", len)?;
        bytes.resize(len, 0);
        self.file.read_exact_at(&mut bytes, at).map_err(RuntimeError::io("read", &self.path))?;
        Ok(bytes)
    }
}

/// An opened checkpoint.
pub struct Reader {
    folder: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
    files: BTreeMap<String, Opened>,
}

impl Reader {
    /// Opens the checkpoint in `folder`: manifest and headers are verified, tensors when they are read.
    pub fn open(folder: &Path) -> Result<Reader, RuntimeError> {
        let manifest = Manifest::read(folder)?;
        let mut files = BTreeMap::new();
        for (name, entry) in &manifest.files {
            let path = folder.join(name);
            let file = read::open(&path).map_err(RuntimeError::io("open", &path))?;
            let size = file.metadata().map_err(RuntimeError::io("read", &path))?.len();
            let mut opened = Opened { path: path.clone(), file, parts: BTreeMap::new() };
            let damaged =
                |what: String| RuntimeError::checkpoint(&path, format!("is damaged: {what}"));
            if size != entry.bytes {
                return Err(damaged(format!("it has {size} bytes, not {}", entry.bytes)));
            }
            if entry.header_bytes > read::TABLES {
                return Err(damaged(format!("its header has {} bytes", entry.header_bytes)));
            }
            let head = opened.read(0, entry.header_bytes as usize)?;
            if hash(&head) != entry.header {
                return Err(damaged("its header is not the manifest's".into()));
            }
            let mut length = [0; 8];
            length.copy_from_slice(&head[..8]);
            if u64::from_le_bytes(length).checked_add(8) != Some(entry.header_bytes) {
                return Err(damaged("its header has another size".into()));
            }
            // Reading it checks that tensors lie one behind the other.
            let none = |e: String| {
                RuntimeError::checkpoint(&path, format!("is not a safetensors file: {e}"))
            };
            let meta: Metadata =
                serde_json::from_slice(&head[8..]).map_err(|e| none(e.to_string()))?;
            let mut end = entry.header_bytes;
            for (name, info) in meta.tensors() {
                let at = |n: usize| entry.header_bytes.saturating_add(n as u64);
                let (from, to) = info.data_offsets;
                end = end.max(at(to));
                opened.parts.insert(name, (at(from), at(to)));
            }
            if end != size {
                return Err(none(format!("its tensors end at byte {end} of {size}")));
            }
            files.insert(name.clone(), opened);
        }
        let reader = Reader { folder: folder.to_path_buf(), manifest, files };
        reader.check()?;
        Ok(reader)
    }

    /// Whether manifest and files have the same parts, and every weight that is trained some state.
    fn check(&self) -> Result<(), RuntimeError> {
        let (slots, frozen) = (self.manifest.slots(), &self.manifest.frozen);
        let mut listed: BTreeSet<(&str, &str)> = BTreeSet::new();
        for (name, entry) in &self.manifest.tensors {
            entry.slices.iter().try_for_each(|s| self.part(name, s).map(|_| ()))?;
            listed.extend(entry.slices.iter().map(|s| (s.file.as_str(), name.as_str())));
            let weight = self.manifest.state_of(name).map_or(name.as_str(), |(_, weight)| weight);
            // State alone reads as a weight with a long name.
            let alone = slots.iter().find_map(|s| name.strip_prefix(s.as_str())?.strip_prefix('.'));
            if let Some(weight) = alone.filter(|w| self.entry(w).is_none()) {
                let what = format!("has {name}, but no {weight}");
                return Err(RuntimeError::checkpoint(&self.folder, what));
            }
            let none = frozen.iter().any(|f| f == weight);
            if none && weight != name {
                let what = format!("has {name}, though {weight} is not trained");
                return Err(RuntimeError::checkpoint(&self.folder, what));
            }
            // An optimizer may keep one thing of some weights and another of others, but something of each.
            let state = slots.iter().filter(|_| !none).map(|slot| format!("{slot}.{weight}"));
            let mut kept: Vec<String> = state.collect();
            if kept.iter().any(|s| self.entry(s).is_some()) {
                kept.retain(|s| self.entry(s).is_some());
            }
            for other in std::iter::once(weight.to_string()).chain(kept) {
                if self.entry(&other).is_none_or(|o| o.shape != entry.shape) {
                    let what = format!("has {name}, but no {other} of its shape");
                    return Err(RuntimeError::checkpoint(&self.folder, what));
                }
            }
        }
        for (file, opened) in &self.files {
            if let Some(name) = opened.parts.keys().find(|n| !listed.contains(&(file, n.as_str())))
            {
                let what = format!("has a part of {name}, which the manifest does not list");
                return Err(RuntimeError::checkpoint(&opened.path, what));
            }
        }
        Ok(())
    }

    /// What the checkpoint says of a tensor.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.manifest.tensors.get(name)
    }

    /// A slice's file, and its first byte there.
    fn part(&self, name: &str, s: &Slice) -> Result<(&Opened, u64), RuntimeError> {
        let file = self.files.get(&s.file).ok_or_else(|| {
            RuntimeError::checkpoint(&self.folder, format!("{name}: there is no {}", s.file))
        })?;
        let bytes = s.block.elements().checked_mul(4);
        let part = file.parts.get(name).filter(|(begin, end)| Some(end - begin) == bytes);
        let (begin, _) = part.ok_or_else(|| {
            RuntimeError::checkpoint(
                &file.path,
                format!("is damaged: its part of {name} is missing"),
            )
        })?;
        Ok((file, *begin))
    }

    /// The bytes of a slice, verified.
    fn slice(&self, name: &str, s: &Slice) -> Result<Vec<u8>, RuntimeError> {
        let (file, at) = self.part(name, s)?;
        let bytes = file.read(at, s.block.elements() as usize * 4)?;
        if hash(&bytes) != s.hash {
            let what = format!("is damaged: the hash of {name} is not the manifest's");
            return Err(RuntimeError::checkpoint(&file.path, what));
        }
        if let Some(value) = not_finite(&bytes) {
            let what = format!("holds {value} in {name}: nobody can go on from it");
            return Err(RuntimeError::checkpoint(&file.path, what));
        }
        Ok(bytes)
    }

    /// Hands out what `places` need of the tensor `name`: each has some elements of it, in the order of its runs. `put`
    /// takes a place's number, where in it bytes go, and these.
    pub fn read_parts(
        &self,
        name: &str,
        places: &[Vec<Run>],
        put: &mut dyn FnMut(usize, usize, &[u8]),
    ) -> Result<(), RuntimeError> {
        let missing = || RuntimeError::checkpoint(&self.folder, format!("has no {name}"));
        let entry = self.entry(name).ok_or_else(missing)?;
        for s in &entry.slices {
            let has = s.block.runs(&entry.dims);
            let mut verified: Option<Vec<u8>> = None;
            for (number, place) in places.iter().enumerate() {
                for (from, to, n) in Shared(&has, place) {
                    let bytes = match &verified {
                        Some(bytes) => bytes,
                        None => verified.insert(self.slice(name, s)?),
                    };
                    put(number, to * 4, &bytes[from * 4..(from + n) * 4]);
                }
            }
        }
        Ok(())
    }

    /// The whole tensor `name` in `whole`, which is made to fit.
    pub fn read(&self, name: &str, whole: &mut Vec<u8>) -> Result<(), RuntimeError> {
        let missing = || RuntimeError::checkpoint(&self.folder, format!("has no {name}"));
        let entry = self.entry(name).ok_or_else(missing)?;
        whole.clear();
        // The files are as large as they say: nothing larger is allocated.
        let bytes: u64 = entry.slices.iter().map(|s| s.block.elements() * 4).sum();
        if bytes > self.manifest.files.values().map(|f| f.bytes).sum() {
            let what = format!("is damaged: its files have no room for {name}");
            return Err(RuntimeError::checkpoint(&self.folder, what));
        }
        whole.resize(bytes as usize, 0);
        for s in &entry.slices {
            let bytes = self.slice(name, s)?;
            for run in s.block.runs(&entry.dims) {
                let (to, from, n) = (run.whole * 4, run.local * 4, run.elements * 4);
                whole[to..to + n].copy_from_slice(&bytes[from..from + n]);
            }
        }
        Ok(())
    }
}

/// Elements that two parts of a tensor share, as they follow each other: first element in one, in the other, how many.
/// The parts may be counted in different dims.
struct Shared<'a>(&'a [Run], &'a [Run]);

impl Iterator for Shared<'_> {
    type Item = (usize, usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (a, b) = (self.0.first()?, self.1.first()?);
            let start = a.whole.max(b.whole);
            let (a_end, b_end) = (a.whole + a.elements, b.whole + b.elements);
            let end = a_end.min(b_end);
            if a_end <= b_end {
                self.0 = &self.0[1..];
            }
            if b_end <= a_end {
                self.1 = &self.1[1..];
            }
            if start < end {
                return Some((a.local + start - a.whole, b.local + start - b.whole, end - start));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use neoxc_plan::Block;

    use super::*;

    /// Blocks of 24 elements, counted in other dims, against element by element.
    #[test]
    fn shared_elements_are_those_of_both() {
        let blocks = |dims: [u64; 2], size: [u64; 2]| {
            let starts = (0..dims[0] / size[0])
                .flat_map(move |i| (0..dims[1] / size[1]).map(move |j| [i * size[0], j * size[1]]));
            starts.map(move |start| {
                let runs =
                    Block { start: start.to_vec(), size: size.to_vec() }.runs(&[dims[0], dims[1]]);
                let mut at = [None; 24];
                for r in &runs {
                    (0..r.elements).for_each(|n| at[r.whole + n] = Some(r.local + n));
                }
                (runs, at)
            })
        };
        let cuts = [
            ([4, 6], [4, 6]),
            ([4, 6], [2, 6]),
            ([4, 6], [4, 3]),
            ([4, 6], [2, 2]),
            ([24, 1], [8, 1]),
            ([3, 8], [3, 2]),
            ([1, 24], [1, 1]),
        ];
        let all = || cuts.iter().flat_map(|(dims, size)| blocks(*dims, *size));
        for (a, a_at) in all() {
            for (b, b_at) in all() {
                let got: Vec<_> = Shared(&a, &b)
                    .flat_map(|(x, y, n)| (0..n).map(move |i| (x + i, y + i)))
                    .collect();
                let want: Vec<_> = (0..24).filter_map(|n| a_at[n].zip(b_at[n])).collect();
                assert_eq!(got, want);
            }
        }
    }
}
