//! Writing: every rank its own file, then one manifest over all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use neoxc_plan::Plan;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::manifest::{Entry, FileEntry, Slice, hex};
use super::{Tensor, tensors};
use crate::RuntimeError;

/// The bytes that a rank has of a tensor.
pub type Source<'a> = &'a dyn Fn(u64, &Tensor) -> &'a [u8];

/// One rank's file, written: what the manifest says of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Its name, and what there is to say of it.
    pub file: (String, FileEntry),
    /// Its parts of tensors, each as an entry with one slice.
    pub parts: Vec<(String, Entry)>,
}

/// The tensors of which each rank writes its part, by rank: every element is written once, and ranks
/// that have the same part take turns.
pub fn assignment(plan: &Plan) -> BTreeMap<u64, Vec<Tensor>> {
    let mut out: BTreeMap<u64, Vec<Tensor>> = BTreeMap::new();
    for (turn, t) in tensors(plan).into_iter().enumerate() {
        for rank in t.writers(plan, turn as u64) {
            out.entry(rank).or_default().push(t.clone());
        }
    }
    out
}

/// Writes `rank`'s file into `folder`, tensor by tensor. It is not durable yet.
pub fn write_rank(
    folder: &Path,
    plan: &Plan,
    rank: u64,
    list: &[Tensor],
    get: Source<'_>,
) -> Result<(File, Written), RuntimeError> {
    let name = format!("rank-{rank:05}.safetensors");
    let path = folder.join(&name);
    let mut header = serde_json::Map::new();
    let mut at = 0;
    let blocks: Vec<_> = list.iter().map(|t| t.block(plan, rank)).collect();
    for (t, block) in list.iter().zip(&blocks) {
        let end = at + block.elements() * 4;
        let entry =
            serde_json::json!({ "dtype": "F32", "shape": block.size, "data_offsets": [at, end] });
        header.insert(t.name.clone(), entry);
        at = end;
    }
    let mut text = serde_json::to_vec(&header)
        .map_err(|e| RuntimeError::Settings(format!("checkpoint header: {e}")))?;
    // The format wants tensors to start at a multiple of eight bytes.
    text.resize(text.len().div_ceil(8) * 8, b' ');
    let head = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
    let mut file = File::create(&path).map_err(RuntimeError::io("make", &path))?;
    let mut put = |bytes: &[u8], what: &str| {
        let named = |e: std::io::Error| std::io::Error::new(e.kind(), format!("{what}: {e}"));
        file.write_all(bytes).map_err(named).map_err(RuntimeError::io("write", &path))
    };
    put(&head, "the header")?;
    let mut parts = vec![];
    for (t, block) in list.iter().zip(blocks) {
        let bytes = get(rank, t);
        put(bytes, &t.name)?;
        let slice = Slice { file: name.clone(), block, sha256: hex(&Sha256::digest(bytes)) };
        parts.push((t.name.clone(), t.entry(plan, vec![slice])));
    }
    let entry = FileEntry {
        bytes: head.len() as u64 + at,
        header_bytes: head.len() as u64,
        header: hex(&Sha256::digest(&head)),
    };
    Ok((file, Written { file: (name, entry), parts }))
}

/// What all ranks wrote, put together.
pub fn merge(written: Vec<Written>) -> (BTreeMap<String, FileEntry>, BTreeMap<String, Entry>) {
    let (mut files, mut all) = (BTreeMap::new(), BTreeMap::<String, Entry>::new());
    for w in written {
        files.insert(w.file.0, w.file.1);
        for (name, mut part) in w.parts {
            match all.get_mut(&name) {
                Some(e) => e.slices.append(&mut part.slices),
                None => {
                    all.insert(name, part);
                }
            }
        }
    }
    for e in all.values_mut() {
        e.slices.sort_by(|a, b| a.block.cmp(&b.block));
    }
    (files, all)
}
