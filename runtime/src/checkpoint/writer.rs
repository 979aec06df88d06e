//! Writing: every rank its own file, then one manifest over all.

use std::collections::BTreeMap;
use std::fs::File;

use neoxc_plan::Plan;
use serde::{Deserialize, Serialize};

use super::direct::{BLOCK, Output};
use super::manifest::{Entry, FileEntry, Slice};
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

/// The file of `rank` under `folder`.
pub fn file_name(rank: u64) -> String {
    format!("rank-{rank:05}.safetensors")
}

/// The first value among `bytes`, numbers in f32, that is infinite or NaN.
pub fn not_finite(bytes: &[u8]) -> Option<f32> {
    /// Bytes looked at together, without a branch.
    const STRIP: usize = 4096;
    const EXPONENT: u32 = 0x7f80_0000;
    let bits = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let spoiled = |b: &[u8]| bits(b) & EXPONENT == EXPONENT;
    let strip = bytes
        .chunks(STRIP)
        .find(|strip| strip.chunks_exact(4).fold(false, |found, b| found | spoiled(b)))?;
    strip.chunks_exact(4).find(|b| spoiled(b)).map(|b| f32::from_bits(bits(b)))
}

/// Writes `rank`'s file after step `step` to `out`, tensor by tensor. It is not durable yet.
///
/// # Errors
/// It cannot be written, or a value is not finite: what nobody could go on from is no checkpoint.
pub fn write_rank(
    mut out: Output<'_>,
    plan: &Plan,
    (step, rank): (u64, u64),
    list: &[Tensor],
    get: Source<'_>,
) -> Result<(File, Written), RuntimeError> {
    let name = file_name(rank);
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
    // The format wants tensors to start at a multiple of eight bytes; at a block's begin they are seldom copied.
    text.resize((text.len() + 8).next_multiple_of(BLOCK) - 8, b' ');
    let head = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
    let header = out.put(&head, "the header")?;
    let mut parts = vec![];
    for (t, block) in list.iter().zip(blocks) {
        let bytes = get(rank, t);
        if let Some(value) = not_finite(bytes) {
            return Err(RuntimeError::Spoiled { step, value, tensor: t.name.clone() });
        }
        let hash = out.put(bytes, &t.name)?;
        let slice = Slice { file: name.clone(), block, hash };
        parts.push((t.name.clone(), t.entry(plan, vec![slice])));
    }
    let header_bytes = head.len() as u64;
    let entry = FileEntry { bytes: header_bytes + at, header_bytes, header };
    Ok((out.finish()?, Written { file: (name, entry), parts }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_that_is_not_finite_is_found() {
        let mut values = vec![f32::MAX, f32::MIN, f32::from_bits(1), -0.0];
        values.resize(5000, 1.0);
        let found = |values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            not_finite(&bytes)
        };
        assert_eq!(found(&values), None);
        values[4999] = f32::NEG_INFINITY;
        assert_eq!(found(&values), Some(f32::NEG_INFINITY));
        values[1024] = f32::NAN;
        assert!(found(&values).is_some_and(f32::is_nan));
    }
}
