//! Vocabularies with published sizes: what a kind of tokenizer, or the name of its file, says of the number of ids.
//!
//! A size counts every id that a tokenizer can give, tokens that were added to the vocabulary included, as GPT-NeoX
//! counts them before it pads the embedding.

use std::path::Path;

/// A vocabulary whose size everybody can look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    /// Whose it is, as a message says it.
    pub(crate) whose: &'static str,
    /// Its ids.
    pub(crate) ids: usize,
}

const GPT2: Published = Published { whose: "GPT-2", ids: 50_257 };
/// GPT-2's with the `<|padding|>` that GPT-NeoX adds to Hugging Face's tokenizer.
const HF_GPT2: Published = Published { whose: "Hugging Face's GPT-2", ids: 50_258 };
const NEOX_20B: Published = Published { whose: "GPT-NeoX-20B", ids: 50_277 };
const BYTES: Published = Published { whose: "GPT-NeoX's CharLevelTokenizer", ids: 512 };

/// Files that GPT-NeoX's users download, by name; both stand in its own configurations.
const FILES: [(&str, Published); 2] = [("gpt2-vocab.json", GPT2), ("20B_tokenizer.json", NEOX_20B)];

/// Encodings of tiktoken 0.8, which are named where others name a file.
const ENCODINGS: [(&str, Published); 6] = [
    ("gpt2", GPT2),
    ("r50k_base", Published { whose: "tiktoken's r50k_base", ids: 50_257 }),
    ("p50k_base", Published { whose: "tiktoken's p50k_base", ids: 50_281 }),
    ("p50k_edit", Published { whose: "tiktoken's p50k_edit", ids: 50_284 }),
    ("cl100k_base", Published { whose: "tiktoken's cl100k_base", ids: 100_277 }),
    ("o200k_base", Published { whose: "tiktoken's o200k_base", ids: 200_019 }),
];

/// The published vocabulary of a tokenizer of the type `kind` whose `vocab_file` is `file`. A file that is known by
/// its name wins over the type.
pub(crate) fn published(kind: &str, file: Option<&str>) -> Option<Published> {
    let named = |names: &[(&str, Published)], name: &str| {
        names.iter().find(|(n, _)| *n == name).map(|(_, p)| *p)
    };
    let base = file.and_then(|f| Path::new(f).file_name()?.to_str());
    if let Some(known) = base.and_then(|name| named(&FILES, name)) {
        return Some(known);
    }
    match kind {
        "CharLevelTokenizer" => Some(BYTES),
        "GPT2BPETokenizer" => Some(GPT2),
        "HFGPT2Tokenizer" if file.is_none_or(|f| f == "gpt2") => Some(HF_GPT2),
        "TiktokenTokenizer" => named(&ENCODINGS, file?),
        _ => None,
    }
}

/// What to set where nothing says how many ids there are: the size that tokenizers of this name, or else of this type,
/// have. A name is a guess, so this is a hint and no answer.
pub(crate) fn usual_rows(kind: &str, file: Option<&str>) -> (usize, &'static str) {
    let file = file.unwrap_or_default().to_lowercase();
    match kind {
        _ if ["llama3", "llama-3"].iter().any(|n| file.contains(n)) => {
            (128_256, "as Llama 3's tokenizer")
        }
        _ if file.contains("codellama") => (32_016, "as Code Llama's tokenizer"),
        "SPMTokenizer" => (32_000, "as LLaMA's and Mistral's tokenizers"),
        "TiktokenTokenizer" => (128_256, "as Llama 3's tokenizer"),
        _ => (50_304, "as GPT-NeoX-20B's tokenizer, padded"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_known_by_its_name_wins_over_the_type() {
        for (kind, file, want) in [
            ("GPT2BPETokenizer", None, Some(50_257)),
            ("GPT2BPETokenizer", Some("my/vocab.json"), Some(50_257)),
            ("HFTokenizer", Some("/data/20B_tokenizer.json"), Some(50_277)),
            ("HFTokenizer", Some("data/gpt2-vocab.json"), Some(50_257)),
            ("HFTokenizer", Some("tokenizer.json"), None),
            ("HFTokenizer", None, None),
            ("HFGPT2Tokenizer", None, Some(50_258)),
            ("HFGPT2Tokenizer", Some("my/gpt2"), None),
            ("TiktokenTokenizer", Some("cl100k_base"), Some(100_277)),
            ("TiktokenTokenizer", None, None),
            ("SPMTokenizer", Some("tokenizer.model"), None),
            ("CharLevelTokenizer", None, Some(512)),
        ] {
            assert_eq!(published(kind, file).map(|p| p.ids), want, "{kind} {file:?}");
        }
    }
}
