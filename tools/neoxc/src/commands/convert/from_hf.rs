//! `neoxc convert hf-to-neox`: a Hugging Face folder as a checkpoint of step 0.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use neoxc_base::codes::internal_error::internal_error;
use neoxc_base::read;
use neoxc_driver::hugging_face::{self, Weight};
use neoxc_frontend::Config;
use neoxc_runtime::checkpoint;

use super::shards::Shards;
use super::{bad, compile, draft, finish, reading, refuse_existing, writing};
use crate::Failure;
use crate::commands::told;

/// Files of a folder that are not the model's, and are kept beside its checkpoint: an export carries them on.
const COMPANIONS: [&str; 10] = [
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// The folder beside a converted checkpoint that has them.
pub const KEPT: &str = "hugging_face";

/// A model in a Hugging Face folder, of which everything is there.
pub struct Imported {
    /// Its configuration, to be trained on one rank.
    pub config: Config,
    /// Its weights by logical name, and where they are.
    pub weights: BTreeMap<String, Weight>,
    shards: Shards,
}

impl Imported {
    /// Looks at a folder: what its `config.json` says, and whether its files have the weights of that model.
    pub fn open(dir: &Path) -> Result<Imported, Failure> {
        let config = config(dir)?;
        let shards = Shards::open(dir)?;
        let weights = hugging_face::weights(&config);
        let mut used = BTreeSet::new();
        for piece in weights.iter().flat_map(|w| &w.pieces) {
            let name = &piece.name;
            let shape = shards.shape(name).ok_or_else(|| bad(dir, format!("has no {name}")))?;
            if shape != piece.shape {
                let want = &piece.shape;
                return Err(bad(dir, format!("{name} is {shape:?}, the model has {want:?}")));
            }
            used.insert(name.as_str());
        }
        let buffers = hugging_face::buffers(&config);
        let tied = hugging_face::tied_head(&config);
        for name in shards.names().filter(|n| !used.contains(n.as_str())) {
            if buffers.iter().any(|end| name.ends_with(end)) {
                continue;
            }
            match &tied {
                Some([head, embed]) if head == name => {
                    if shards.read(head)? != shards.read(embed)? {
                        let what = format!("{head} is not {embed}, but the model has one for both");
                        return Err(bad(dir, what));
                    }
                }
                _ => return Err(bad(dir, format!("has {name}, which the model has not"))),
            }
        }
        let weights = weights.into_iter().map(|w| (w.name.clone(), w)).collect();
        Ok(Imported { config, weights, shards })
    }

    /// A weight's f32 bytes.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let w = self.weights.get(name);
        let w =
            w.ok_or_else(|| told(&internal_error(&format!("no family has {name}"), &[], None)))?;
        let mut whole = vec![0; w.elements() * 4];
        for piece in &w.pieces {
            w.join(&mut whole, piece, &self.shards.read(&piece.name)?, 4);
        }
        Ok(whole)
    }
}

/// The configuration that a `config.json` describes.
fn config(dir: &Path) -> Result<Config, Failure> {
    let path = dir.join("config.json");
    let text = read::text(&path, read::SETTINGS).map_err(reading(&path))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| bad(&path, e))?;
    let described = hugging_face::read(&json)
        .map_err(|problems| Failure::all(problems.iter().map(|p| bad(&path, p)).collect()))?;
    let mut sets: Vec<String> =
        described.sets.iter().map(|(key, value)| format!("{key}={value}")).collect();
    sets.extend([
        "train_micro_batch_size_per_gpu=1".into(),
        "train_iters=1".into(),
        "optimizer={type: Adam, params: {lr: 0.001}}".into(),
    ]);
    let tokenizer = dir.join("tokenizer.json");
    if tokenizer.exists() {
        sets.push("tokenizer_type=HFTokenizer".into());
        sets.push(format!("vocab_file={:?}", tokenizer.display().to_string()));
    }
    let loaded = neoxc_frontend::load(&[], None, &sets);
    if loaded.config.is_none() {
        crate::render::report(&loaded.diagnostics, &loaded.sources);
    }
    loaded.config.ok_or_else(|| bad(&path, "describes a model that cannot be built"))
}

/// Runs the conversion.
pub fn run(dir: &Path, out: &Path) -> Result<(), Failure> {
    refuse_existing(out)?;
    let mut model = Imported::open(dir)?;
    if model.config.run.vocab_file.is_some() {
        let kept = out.join(KEPT).join("tokenizer.json");
        let kept = std::path::absolute(&kept).map_err(writing(&kept))?;
        model.config.run.vocab_file = Some(kept.display().to_string());
    }
    let compiled = compile(&model.config)?;
    let mut floats: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for name in model.weights.keys() {
        floats.insert(name.clone(), model.read(name)?);
    }
    let settings = neoxc_runtime::train::settings(&compiled.plan)?;
    let parameters = compiled.plan.tables.parameters.clone();
    // Converted weights start training anew: the optimizer's state is zero.
    let zeros = vec![0; parameters.iter().map(|p| p.elements() as usize * 4).max().unwrap_or(0)];
    let get = |_, t: &checkpoint::Tensor| match floats.get(&t.name) {
        Some(bytes) => bytes.as_slice(),
        _ => &zeros[..parameters[t.parameter].elements() as usize * 4],
    };
    let draft = draft(out)?;
    let saved = checkpoint::save(draft.path(), &compiled.plan, &settings, 0, 0, &get)?;
    let name = saved.file_name().map(|n| n.to_os_string()).unwrap_or_default();
    keep_companions(dir, &draft.path().join(KEPT))?;
    finish(draft, out)?;
    println!("{}: {} tensors", out.join(name).display(), floats.len());
    Ok(())
}

fn keep_companions(dir: &Path, to: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(to).map_err(writing(to))?;
    for name in COMPANIONS {
        let from = dir.join(name);
        if from.exists() {
            let bytes = read::bytes(&from, read::TABLES).map_err(reading(&from))?;
            neoxc_runtime::files::write_bytes(&to.join(name), &bytes)?;
        }
    }
    Ok(())
}
