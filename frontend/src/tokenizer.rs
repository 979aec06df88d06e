//! The tokenizer's keys: where its files lie, how many ids they have, and whether one of them ends documents.

use std::path::Path;

use neoxc_base::codes::{file, missing_key};

use crate::reader::Reader;
use crate::yaml::Value;

/// What ends a document, in every vocabulary that has such a token.
const END_OF_TEXT: &str = "<|endoftext|>";

/// What a tokenizer's file says.
#[derive(Debug, PartialEq, Eq)]
struct Ids {
    /// One more than the highest id.
    count: usize,
    /// Whether one of them ends documents.
    ends: bool,
}

impl Reader<'_> {
    /// A file that a configuration names: beside the configuration's own file, else from the current folder.
    pub(crate) fn beside(&self, name: &str) -> Option<String> {
        let (_, node) = self.find(name)?;
        let Value::Str(given) = &node.value else { return None };
        let folder = Path::new(&*node.span.file).parent();
        let beside = folder.map(|f| f.join(given)).filter(|p| p.exists());
        Some(beside.map_or_else(|| given.clone(), |p| p.display().to_string()))
    }

    /// Ids of the tokenizer, read off its file.
    pub(crate) fn vocabulary(&mut self, padded: Option<usize>) -> Option<usize> {
        if self.word("tokenizer_type") == "CharLevelTokenizer" {
            return Some(512);
        }
        let masks = self.bool("eod_mask_loss");
        let Some((_, node)) = self.find("vocab_file") else {
            if padded.is_none() {
                let hint = "give `vocab_file`, or `--set padded_vocab_size=50304`";
                self.tell(missing_key::missing_key("the size of the vocabulary", hint));
            } else if masks {
                let what = "the token that ends documents, which `eod_mask_loss` asks for,";
                let hint = "give `vocab_file`, or `--set eod_mask_loss=false`";
                self.tell(missing_key::missing_key(what, hint));
            }
            return None;
        };
        let (span, path) = (node.span.clone(), self.beside("vocab_file")?);
        match count_ids(&path) {
            Ok(ids) => {
                if masks && !ids.ends {
                    let message = format!("the tokenizer has no {END_OF_TEXT} to mask the loss of");
                    let hint = "`--set eod_mask_loss=false`, or a tokenizer with that token";
                    self.both(message, "eod_mask_loss", "vocab_file", hint);
                }
                Some(ids.count)
            }
            Err(_) if padded.is_some() => None,
            Err(e) => {
                let why = format!("its ids cannot be counted: {e}");
                let hint = "`--set padded_vocab_size=50304` does without it";
                self.tell(file::unreadable(&path, &why, hint).label(&span, "tokenizer file"));
                None
            }
        }
    }
}

/// Reads a tokenizer.json, or GPT-2's vocab.json.
fn count_ids(path: &str) -> Result<Ids, String> {
    let text = std::fs::read(path).map_err(|e| e.to_string())?;
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let behind = |v: &serde_json::Value| v.as_u64().unwrap_or(0) as usize + 1;
    let of = |vocab: &serde_json::Map<String, serde_json::Value>| Ids {
        count: vocab.values().map(behind).max().unwrap_or(0),
        ends: vocab.contains_key(END_OF_TEXT),
    };
    let Some(model) = json.get("model") else {
        return json.as_object().map(of).ok_or_else(|| "is not a vocabulary".into());
    };
    let mut ids = match model.get("vocab") {
        Some(serde_json::Value::Object(vocab)) => of(vocab),
        // Unigram models: pieces and their scores, in the order of ids.
        Some(serde_json::Value::Array(pieces)) => {
            Ids { count: pieces.len(), ends: pieces.iter().any(|p| p[0] == END_OF_TEXT) }
        }
        _ => return Err("has no model.vocab".into()),
    };
    let added = json.get("added_tokens").and_then(|a| a.as_array());
    for token in added.into_iter().flatten() {
        ids.count = ids.count.max(token.get("id").map_or(0, behind));
        ids.ends |= token["content"] == END_OF_TEXT;
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_by_the_highest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.json").display().to_string();
        let count = |text: &str| {
            std::fs::write(&path, text).unwrap();
            count_ids(&path).map(|i| (i.count, i.ends))
        };
        assert_eq!(count(r#"{"a": 0, "b": 5}"#), Ok((6, false)));
        assert_eq!(count(r#"{"a": 0, "<|endoftext|>": 1}"#), Ok((2, true)));
        let added = r#""added_tokens": [{"id": 7, "content": "<|endoftext|>"}]"#;
        let file = format!(r#"{{"model": {{"vocab": {{"a": 0}}}}, {added}}}"#);
        assert_eq!(count(&file), Ok((8, true)));
        assert_eq!(count(r#"{"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}"#), Ok((2, false)));
        assert!(count(r#"{"model": {}}"#).is_err() && count("[]").is_err());
    }
}
