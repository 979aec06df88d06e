//! Checkpoints: the manifest, with and without its seal made anew, and the files of ranks.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use arbitrary::{Result, Unstructured};
use neoxc_plan::Plan;
use neoxc_runtime::checkpoint::{self, Manifest, Reader, Tensor};
use neoxc_runtime::train::settings;
use serde_json::Value;

use crate::{Target, wreck};

/// Loads a damaged checkpoint whole.
pub struct CheckpointTarget {
    folder: tempfile::TempDir,
    plan: Plan,
    manifest: Value,
    /// Name, bytes.
    files: Vec<(String, Vec<u8>)>,
    /// Each rank's part of each tensor.
    parts: BTreeMap<(u64, String), Vec<u8>>,
}

impl CheckpointTarget {
    /// Damages a checkpoint of `plan`.
    pub fn new(plan: Plan) -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let most = plan.tables.parameters.iter().map(|p| p.elements() as usize * 4).max();
        let bytes: Vec<u8> = (0..most.unwrap_or(0)).map(|n| (n % 251) as u8).collect();
        let get = |rank, t: &Tensor| &bytes[..t.block(&plan, rank).elements() as usize * 4];
        let settings = settings(&plan).map_err(std::io::Error::other)?;
        let made = checkpoint::save(folder.path(), &plan, &settings, 3, 9, &get)
            .map_err(std::io::Error::other)?;
        let manifest = serde_json::from_slice(&fs::read(made.join("manifest.json"))?)?;
        let mut parts = BTreeMap::new();
        for rank in 0..plan.ranks() {
            for t in checkpoint::tensors(&plan).into_iter().filter(|t| t.is_on(&plan, rank)) {
                parts.insert((rank, t.name.clone()), get(rank, &t).to_vec());
            }
        }
        let reader = Reader::open(&made).map_err(std::io::Error::other)?;
        let mut files = vec![];
        for name in reader.manifest.files.keys() {
            files.push((name.clone(), fs::read(made.join(name))?));
        }
        Ok(Self { folder, plan, manifest, files, parts })
    }

    fn attempt(&self, u: &mut Unstructured) -> Result<bool> {
        let place: PathBuf = self.folder.path().join("x");
        fs::create_dir_all(&place).expect("the folder can be written");
        let write = |name: &str, bytes: &[u8]| {
            fs::write(place.join(name), bytes).expect("the folder can be written");
        };
        let mut manifest = self.manifest.clone();
        let mut sealed = false;
        // What the run before has damaged.
        for (name, bytes) in &self.files {
            if fs::read(place.join(name)).ok().as_ref() != Some(bytes) {
                write(name, bytes);
            }
        }
        match u.int_in_range(0..=3)? {
            // Bytes of a file, as they are.
            0 => {
                let (name, mut bytes) = self.files[u.choose_index(self.files.len())?].clone();
                wreck::bytes(u, &mut bytes)?;
                write(&name, &bytes);
            }
            // The header of a file, with sizes and hash as the manifest should have them.
            1 => {
                let (name, bytes) = &self.files[u.choose_index(self.files.len())?];
                let head = manifest["files"][name]["header_bytes"].as_u64().unwrap_or(8) as usize;
                let mut header: Value = serde_json::from_slice(&bytes[8..head]).unwrap_or_default();
                wreck::json(u, &mut header)?;
                let mut text = header.to_string().into_bytes();
                text.resize(text.len().div_ceil(8) * 8, b' ');
                let new = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
                let entry = &mut manifest["files"][name];
                entry["bytes"] = (bytes.len() - head + new.len()).into();
                entry["header_bytes"] = new.len().into();
                entry["header"] = checkpoint::hash(&new).into();
                write(name, &[&new, &bytes[head..]].concat());
                sealed = true;
            }
            // The manifest: as it is, or sealed again.
            _ => {
                for _ in 0..u.int_in_range(1..=2)? {
                    wreck::json(u, &mut manifest)?;
                }
                sealed = u.ratio(7, 8)?;
            }
        }
        if sealed {
            let Ok(read) = serde_json::from_value::<Manifest>(manifest) else { return Ok(false) };
            manifest = read
                .sealed()
                .ok()
                .and_then(|m| serde_json::to_value(m).ok())
                .expect("a manifest is JSON");
        }
        let text = serde_json::to_vec(&manifest).expect("it is JSON");
        write("manifest.json", &text);
        let on_disk: usize = self.files.iter().map(|(_, bytes)| bytes.len()).sum();
        // All ranks, or one that reads its own parts only.
        let ranks: Vec<u64> = (0..self.plan.ranks()).collect();
        let ranks =
            if u.ratio(1, 2)? { &ranks[..] } else { &ranks[u.choose_index(ranks.len())?..][..1] };
        let mut loaded = 0;
        let done = checkpoint::load(&place, &self.plan, ranks, &mut |rank, t, at, bytes| {
            let part = &self.parts[&(rank, t.name.clone())];
            assert!(at + bytes.len() <= part.len(), "{}: {} bytes at {at}", t.name, bytes.len());
            // Without a seal made anew, whatever is accepted is what was written.
            assert!(sealed || *bytes == part[at..at + bytes.len()], "{}", t.name);
            loaded += bytes.len();
        });
        if done.is_ok() {
            let own = self.parts.iter().filter(|((rank, _), _)| ranks.contains(rank));
            assert_eq!(loaded, own.map(|(_, part)| part.len()).sum::<usize>());
        }
        let mut whole = vec![];
        if let Ok(reader) = Reader::open(&place) {
            for name in reader.manifest.tensors.keys() {
                let _ = reader.read(name, &mut whole);
                assert!(whole.len() <= on_disk, "{name} has {} bytes", whole.len());
            }
        }
        Ok(done.is_ok())
    }
}

impl Target for CheckpointTarget {
    fn run(&self, choices: &[u8]) -> bool {
        self.attempt(&mut Unstructured::new(choices)).unwrap_or(false)
    }
}
