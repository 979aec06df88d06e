//! The identity of a run: the settings and files that decide which samples it draws and which elements its dropout drops.
//!
//! A run that resumes from a checkpoint with another identity is another run. It is refused, unless the user says that it
//! is meant.

use std::collections::BTreeMap;
use std::path::Path;

use neoxc_config::Packing;
use neoxc_plan::Plan;
use sha2::{Digest, Sha256};

use super::settings::Settings;
use crate::RuntimeError;
use crate::checkpoint::Manifest;
use crate::data::{Mixture, TokenDataset};

/// The identity of a run besides its seed: for each key of the configuration that belongs to it, its value or the hash
/// of the data that it names.
///
/// # Errors
/// The data cannot be read.
pub fn identity(
    plan: &Plan,
    s: &Settings,
    data: Option<&Mixture>,
) -> Result<BTreeMap<String, String>, RuntimeError> {
    let model = &plan.tables.config["model"];
    let mut out = BTreeMap::from([
        ("seq_length".to_string(), s.seq_length.to_string()),
        ("hidden_dropout".to_string(), model["hidden_dropout"].to_string()),
        ("attention_dropout".to_string(), model["attention_dropout"].to_string()),
    ]);
    if let Some(data) = data {
        out.insert("training data".into(), hash(data)?);
        let each = |of: &dyn Fn(&TokenDataset) -> String| {
            data.sources().iter().map(of).collect::<Vec<_>>().join(", ")
        };
        let documents =
            |d: &TokenDataset| format!("documents {}..{}", d.documents().start, d.documents().end);
        out.insert("split".into(), each(&documents));
        // All epochs are shuffled together.
        out.insert("train_iters".into(), each(&TokenDataset::extent));
        // What runs had before there were several of these, they have without a word of them.
        if s.run.packing != Packing::Packed {
            out.insert("pack_impl".into(), s.run.packing.to_string());
            out.insert("allow_chopped".into(), s.run.allow_chopped.to_string());
        }
        if data.sources().len() > 1 {
            out.insert("train_data_weights".into(), format!("{:?}", data.weights()));
        }
    }
    Ok(out)
}

/// A hash of all files of `data`; of a single file it is the file's.
fn hash(data: &Mixture) -> Result<String, RuntimeError> {
    let hashes = data.digest()?;
    Ok(match hashes.len() {
        HASH => hashes,
        _ => Sha256::digest(&hashes).iter().map(|b| format!("{b:02x}")).collect(),
    })
}

/// Characters of a hash.
const HASH: usize = 64;

/// Compares the identity of this run (`seed` and `draws`) with that of the checkpoint `m`. Where they differ the result is a
/// warning if that is `allowed`.
///
/// # Errors
/// If they differ and it is not allowed: the message names each difference.
pub fn compare(
    folder: &Path,
    m: &Manifest,
    seed: u32,
    draws: &BTreeMap<String, String>,
    allowed: bool,
) -> Result<Option<String>, RuntimeError> {
    // Weights that were converted have drawn nothing yet.
    if m.samples == 0 {
        return Ok(None);
    }
    let differs = |(key, is): (&String, &String)| {
        let was = m.draws.get(key).filter(|was| *was != is)?;
        // Hashes tell people nothing.
        let is_hash = is.len() == HASH;
        Some(if is_hash { format!("other {key}") } else { format!("{key}: {is}, it was {was}") })
    };
    let other = (m.seed != seed).then(|| format!("seed: {seed}, it was {}", m.seed));
    let all: Vec<String> = other.into_iter().chain(draws.iter().filter_map(differs)).collect();
    match all.is_empty() {
        true => Ok(None),
        false if allowed => Ok(Some(format!(
            "{}: other samples or dropout than before: {}",
            folder.display(),
            all.join("; ")
        ))),
        false => Err(RuntimeError::Draws { path: folder.to_path_buf(), what: all.join("; ") }),
    }
}
