//! What an export carries beside the weights: the tokenizer's files, special ids, and `generation_config.json`.

use std::path::{Path, PathBuf};

use neoxc_base::read;
use neoxc_frontend::Config;
use neoxc_runtime::files::{folder_of, write_bytes};
use neoxc_runtime::text::{END_OF_TEXT, TextTokenizer};
use serde_json::{Map, Value, json};

use super::from_hf::KEPT;
use super::{bad, reading, refused};
use crate::Failure;

/// Special ids that configurations name.
const IDS: [&str; 5] =
    ["bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id"];

/// The token that upstream's tokenizers fill sequences with.
const PADDING: &str = "<|padding|>";

/// Writes the tokenizer's files and `generation_config.json` of a checkpoint's model into `to`; gives the special
/// ids for `config.json`. They are those of `given` (a tokenizer.json), or of the Hugging Face folder that the
/// checkpoint was converted from, or of the tokenizer that its configuration names.
pub fn carry(
    checkpoint: &Path,
    config: &Config,
    given: Option<&Path>,
    to: &Path,
) -> Result<Map<String, Value>, Failure> {
    let kept = folder_of(checkpoint).join(KEPT);
    let special = match given {
        Some(path) => of_tokenizer("HFTokenizer", path, None, config, to)?,
        None if kept.join("config.json").exists() => return copied(&kept, to),
        None => named(checkpoint, config, to)?,
    };
    let mut generation = Map::new();
    generation.insert("_from_model_config".into(), true.into());
    generation.extend(special.clone().into_iter().filter(|(_, v)| !v.is_null()));
    let text = serde_json::to_vec_pretty(&generation).map_err(|e| bad(to, e))?;
    write_bytes(&to.join("generation_config.json"), &text)?;
    Ok(special)
}

/// Copies what came with the model, and takes the ids from its configuration.
fn copied(kept: &Path, to: &Path) -> Result<Map<String, Value>, Failure> {
    for entry in std::fs::read_dir(kept).map_err(reading(kept))? {
        let path = entry.map_err(reading(kept))?.path();
        let Some(name) = path.file_name().filter(|n| *n != "config.json") else { continue };
        let bytes = read::bytes(&path, read::TABLES).map_err(reading(&path))?;
        write_bytes(&to.join(name), &bytes)?;
    }
    let path = kept.join("config.json");
    let text = read::bytes(&path, read::SETTINGS).map_err(reading(&path))?;
    let json: Map<String, Value> = serde_json::from_slice(&text).map_err(|e| bad(&path, e))?;
    // Without a key, Hugging Face has a default: nothing is added to what came.
    Ok(json.into_iter().filter(|(key, _)| IDS.contains(&key.as_str())).collect())
}

/// The tokenizer that the configuration names.
fn named(checkpoint: &Path, config: &Config, to: &Path) -> Result<Map<String, Value>, Failure> {
    let run = &config.run;
    if run.tokenizer_type == "CharLevelTokenizer" {
        return Ok(ids(&TextTokenizer::Bytes));
    }
    let Some(vocab) = &run.vocab_file else {
        eprintln!(
            "warning: the configuration names no tokenizer: the folder has none, and no special ids\n  = hint: \
             --tokenizer FILE"
        );
        return Ok(IDS[..2].iter().map(|key| (key.to_string(), Value::Null)).collect());
    };
    let find = |name: &str| -> Result<PathBuf, Failure> {
        let path = PathBuf::from(name);
        let beside = path.file_name().map(|n| folder_of(checkpoint).join(n));
        let all = [Some(path.clone()), beside];
        let found = all.into_iter().flatten().find(|p| p.exists());
        found.ok_or_else(|| {
            refused(&path, "the checkpoint's tokenizer is not there", "--tokenizer FILE")
        })
    };
    let merges = run.merge_file.as_deref().map(find).transpose()?;
    of_tokenizer(&run.tokenizer_type, &find(vocab)?, merges.as_deref(), config, to)
}

fn of_tokenizer(
    kind: &str,
    vocab: &Path,
    merges: Option<&Path>,
    config: &Config,
    to: &Path,
) -> Result<Map<String, Value>, Failure> {
    let t = TextTokenizer::open(kind, Some(vocab), merges)?;
    let names = if merges.is_some() { "vocab.json" } else { "tokenizer.json" };
    for (from, name) in [(Some(vocab), names), (merges, "merges.txt")] {
        if let Some(from) = from {
            let bytes = read::bytes(from, read::TABLES).map_err(reading(from))?;
            write_bytes(&to.join(name), &bytes)?;
        }
    }
    let class = if merges.is_some() { "GPT2Tokenizer" } else { "PreTrainedTokenizerFast" };
    let mut json = json!({
        "tokenizer_class": class,
        "model_max_length": config.model.max_position_embeddings,
        "clean_up_tokenization_spaces": false,
    });
    let special = ids(&t);
    for (key, id, token) in [
        ("bos_token", "bos_token_id", END_OF_TEXT),
        ("eos_token", "eos_token_id", END_OF_TEXT),
        ("unk_token", "eos_token_id", END_OF_TEXT),
        ("pad_token", "pad_token_id", PADDING),
    ] {
        if special.get(id).is_some_and(|v| !v.is_null()) {
            json[key] = token.into();
        }
    }
    let text = serde_json::to_vec_pretty(&json).map_err(|e| bad(to, e))?;
    write_bytes(&to.join("tokenizer_config.json"), &text)?;
    Ok(special)
}

/// As GPT-NeoX has it, the end of a document begins the next one. Null says that there is no such id, where
/// Hugging Face would otherwise take a default.
fn ids(t: &TextTokenizer) -> Map<String, Value> {
    let end = t.end_of_text().map_or(Value::Null, Value::from);
    let mut out = Map::new();
    out.insert("bos_token_id".into(), end.clone());
    out.insert("eos_token_id".into(), end);
    if let TextTokenizer::HuggingFace(t) = t
        && let Some(id) = t.token_to_id(PADDING)
    {
        out.insert("pad_token_id".into(), id.into());
    }
    out
}
