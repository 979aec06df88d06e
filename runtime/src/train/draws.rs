//! What decides which samples a run draws and what its dropout drops: a run that goes on from a checkpoint
//! under anything else is another run, which must be meant.

use std::collections::BTreeMap;
use std::path::Path;

use neoxc_plan::Plan;

use super::settings::Settings;
use crate::RuntimeError;
use crate::checkpoint::Manifest;
use crate::data::TokenDataset;

/// By what is responsible in a configuration: what decides, besides the seed.
pub fn draws(plan: &Plan, s: &Settings, data: Option<&TokenDataset>) -> BTreeMap<String, String> {
    let model = &plan.tables.config["model"];
    let mut out = BTreeMap::from([
        ("seq_length".to_string(), s.seq_length.to_string()),
        ("hidden_dropout".to_string(), model["hidden_dropout"].to_string()),
        ("attention_dropout".to_string(), model["attention_dropout"].to_string()),
    ]);
    if let Some(data) = data {
        out.insert("training data".into(), data.digest());
        out.insert("split".into(), data.documents());
        // All epochs are shuffled together.
        out.insert("train_iters".into(), format!("{} epochs", data.epochs()));
    }
    out
}

/// Refuses to go on from a checkpoint whose run drew other samples or masks; gives a warning instead where
/// that is `allowed`.
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
        let is_hash = is.len() == 64;
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
