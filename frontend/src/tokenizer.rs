//! The tokenizer's keys: where its files lie, how many ids they have, and whether one of them ends documents.

use std::path::Path;

use neoxc_base::codes::{assumed_vocabulary, file, missing_key};
use neoxc_base::diag::Span;
use neoxc_base::read;

use crate::arguments::{Range, find};
use crate::reader::Reader;
use crate::vocabularies::{published, usual_rows};
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

    /// Ids of the tokenizer, and rows of the embedding: `padded_vocab_size`, or the ids rounded up to a multiple of
    /// `make_vocab_size_divisible_by` × tensor ranks, as GPT-NeoX pads them.
    pub(crate) fn vocabulary(&mut self) -> (Option<usize>, Option<usize>) {
        let given = self.int("padded_vocab_size");
        let ids = self.ids(given);
        if let (Some(given), Some(ids)) = (given, ids)
            && ids > given
        {
            let message = format!("the tokenizer has {ids} ids, the embedding {given} rows");
            self.both(message, "padded_vocab_size", "vocab_file", "raise it, or leave it out");
        }
        let rows = given.or(ids.map(|ids| self.padded(ids)));
        let range = find("padded_vocab_size").map_or(Range::Any, |a| a.range);
        if let Some(rows) = rows.filter(|n| !range.contains(*n as f64)) {
            let message = format!("the embedding has {rows} rows; they must be {range}");
            let (by, ranks) = ("make_vocab_size_divisible_by", "model_parallel_size");
            self.both(message, by, ranks, "choose a smaller multiple");
            return (ids, None);
        }
        (ids, rows)
    }

    fn padded(&self, ids: usize) -> usize {
        let tensor = self.whole("model_parallel_size").max(1);
        ids.next_multiple_of(self.whole("make_vocab_size_divisible_by") * tensor)
    }

    /// Ids of the tokenizer: counted in its file, else the published number of its kind.
    fn ids(&mut self, given: Option<usize>) -> Option<usize> {
        let kind = self.word("tokenizer_type");
        let known = published(&kind, self.text("vocab_file").as_deref());
        if kind == "CharLevelTokenizer" {
            return known.map(|k| k.ids);
        }
        let masks = self.bool("eod_mask_loss");
        let read = self.beside("vocab_file").map(|path| (count_ids(&path), path));
        match (read, known) {
            (Some((Ok(ids), _)), known) => {
                if masks && !ids.ends {
                    let message = format!("the tokenizer has no {END_OF_TEXT} to mask the loss of");
                    let hint = "`--set eod_mask_loss=false`, or a tokenizer with that token";
                    self.both(message, "eod_mask_loss", "vocab_file", hint);
                }
                if let Some(k) = known.filter(|k| k.ids != ids.count) {
                    let places = self.tokenizer_places();
                    let d = assumed_vocabulary::another_vocabulary;
                    self.tell(d(k.whose, k.ids, ids.count, &places));
                }
                Some(ids.count)
            }
            _ if masks => {
                let what = "the token that ends documents, which `eod_mask_loss` asks for,";
                let hint = "give a `vocab_file` that can be read, or `--set eod_mask_loss=false`";
                self.tell(missing_key::missing_key(what, hint));
                None
            }
            _ if given.is_some() => None,
            (read, Some(k)) => {
                let why = match read {
                    Some((Err(e), path)) => format!("{path} cannot be read ({e})"),
                    _ => "no `vocab_file` is given".into(),
                };
                let (places, rows) = (self.tokenizer_places(), self.padded(k.ids));
                let d = assumed_vocabulary::assumed_vocabulary;
                self.tell(d(k.whose, k.ids, rows, &why, &places));
                Some(k.ids)
            }
            (read, None) => {
                let (rows, whose) = usual_rows(&kind, self.text("vocab_file").as_deref());
                let hint = format!("`--set padded_vocab_size={rows}` ({whose})");
                let d = match (read, self.find("vocab_file")) {
                    (Some((Err(e), path)), Some((_, node))) => {
                        let why = format!("its ids cannot be counted: {e}");
                        let hint = format!("{hint} does without it");
                        file::unreadable(&path, &why, &hint).label(&node.span, "tokenizer file")
                    }
                    _ => missing_key::missing_key(
                        "the size of the vocabulary",
                        &format!("give `vocab_file`, or {hint}"),
                    ),
                };
                self.tell(d);
                None
            }
        }
    }

    /// The keys that say which tokenizer it is, where they are given.
    fn tokenizer_places(&self) -> Vec<(Span, String)> {
        let place =
            |name: &str| self.find(name).map(|(_, n)| (n.span.clone(), format!("`{name}`")));
        ["vocab_file", "tokenizer_type"].into_iter().filter_map(place).collect()
    }
}

/// Reads a tokenizer.json, or GPT-2's vocab.json.
fn count_ids(path: &str) -> Result<Ids, String> {
    let text = read::bytes(path.as_ref(), read::TABLES).map_err(|e| e.to_string())?;
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
