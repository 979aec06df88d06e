//! Text: tokenizers (the `tokenizers` crate) and preprocessing to `.bin/.idx`.

mod jsonl;

use std::path::{Path, PathBuf};

use neoxc_base::read;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer, TokenizerBuilder,
};

use crate::RuntimeError;
use crate::data::IndexedWriter;
use crate::data::idx::{TokenType, with_suffix};
use jsonl::documents;

/// Marks the end of a document.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer of one of the kinds that configurations name.
pub enum TextTokenizer {
    /// `HFTokenizer`: a tokenizer.json.
    HuggingFace(Box<Tokenizer>),
    /// `CharLevelTokenizer`: bytes, and three special ids behind them as NeoX numbers them.
    Bytes,
}

impl TextTokenizer {
    /// Opens a tokenizer of kind `kind`.
    pub fn open(
        kind: &str,
        vocab: Option<&Path>,
        merges: Option<&Path>,
    ) -> Result<Self, RuntimeError> {
        let need =
            || vocab.ok_or_else(|| RuntimeError::Settings(format!("{kind} needs a vocab_file")));
        match kind {
            "HFTokenizer" => {
                let path = need()?;
                let bytes =
                    read::bytes(path, read::TABLES).map_err(RuntimeError::io("read", path))?;
                let mut t = Tokenizer::from_bytes(&bytes)
                    .map_err(|e| RuntimeError::text(path, format!("is not a tokenizer: {e}")))?;
                // What a file says about lengths is for batches of a server, not for documents.
                t.with_truncation(None).map_err(|e| RuntimeError::text(path, e.to_string()))?;
                t.with_padding(None);
                Ok(Self::HuggingFace(Box::new(t)))
            }
            "GPT2BPETokenizer" => {
                let path = need()?;
                let merges = merges.ok_or_else(|| {
                    RuntimeError::Settings("GPT2BPETokenizer needs a merge_file".into())
                })?;
                // The library opens them by name: what they are is looked at first.
                for p in [path, merges] {
                    read::open(p).map_err(RuntimeError::io("read", p))?;
                }
                let text = |p: &Path| p.to_string_lossy().into_owned();
                let bpe = BPE::from_file(&text(path), &text(merges))
                    .build()
                    .map_err(|e| RuntimeError::text(path, e.to_string()))?;
                let mut t = Tokenizer::new(bpe);
                t.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
                t.with_decoder(Some(ByteLevel::default()));
                // Found in a text it is one token, if the vocabulary has it: none is added to it.
                if t.token_to_id(END_OF_TEXT).is_some() {
                    t.add_special_tokens(&[AddedToken::from(END_OF_TEXT, true)]);
                }
                Ok(Self::HuggingFace(Box::new(t)))
            }
            "CharLevelTokenizer" => Ok(Self::Bytes),
            other => {
                Err(RuntimeError::Settings(format!("tokenizer_type {other} is not supported yet")))
            }
        }
    }

    /// One more than the highest id, as the frontend counts: what a model's vocabulary must have.
    pub fn size(&self) -> usize {
        match self {
            Self::HuggingFace(t) => {
                t.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1)
            }
            Self::Bytes => 512,
        }
    }

    /// The id of the end of a document.
    pub fn end_of_text(&self) -> Option<u32> {
        match self {
            Self::HuggingFace(t) => t.token_to_id(END_OF_TEXT),
            Self::Bytes => Some(0),
        }
    }

    /// Text → ids. As in GPT-NeoX, the text of a special token is that token, and the file's post-processor applies,
    /// which some files have put a token in front of every text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        match self {
            Self::HuggingFace(t) => t
                .encode_fast(text, true)
                .map(|e| e.get_ids().to_vec())
                .map_err(|e| RuntimeError::Settings(format!("cannot tokenize: {e}"))),
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
        }
    }

    /// Ids → text.
    pub fn decode(&self, ids: &[u32]) -> Result<String, RuntimeError> {
        match self {
            Self::HuggingFace(t) => t
                .decode(ids, true)
                .map_err(|e| RuntimeError::Settings(format!("cannot decode: {e}"))),
            Self::Bytes => {
                let bytes: Vec<u8> = ids.iter().filter_map(|i| u8::try_from(*i).ok()).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }
}

/// Trains a byte-level BPE tokenizer of `vocab` ids on the text of `inputs`.
pub fn train(
    inputs: &[PathBuf],
    vocab: usize,
    output: &Path,
    force: bool,
) -> Result<usize, RuntimeError> {
    if output.exists() && !force {
        return Err(RuntimeError::Exists(output.to_path_buf()));
    }
    let mut texts = vec![];
    documents(inputs, |t| {
        texts.push(t);
        Ok(())
    })?;
    let bytes = ByteLevel::default().add_prefix_space(false);
    let fail = |e: tokenizers::Error| RuntimeError::text(output, format!("training failed: {e}"));
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::new()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(bytes.into()))
    .with_decoder(Some(ByteLevel::default().into()))
    .build()
    .map_err(fail)?;
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocab)
        .min_frequency(2)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts.iter().map(String::as_str)).map_err(fail)?;
    let json = tokenizer.to_string(true).map_err(fail)?;
    crate::files::write_bytes(output, json.as_bytes())?;
    Ok(tokenizer.get_vocab_size(true))
}

/// What preprocessing made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Preprocessed {
    /// Documents.
    pub documents: usize,
    /// Tokens.
    pub tokens: usize,
}

/// Tokenizes jsonl into `PREFIX_text_document.{bin,idx}`, NeoX's name; documents keep their order.
pub fn preprocess(
    inputs: &[PathBuf],
    tokenizer: &TextTokenizer,
    append_end: bool,
    prefix: &Path,
    force: bool,
    mut progress: impl FnMut(usize),
) -> Result<Preprocessed, RuntimeError> {
    let prefix = with_suffix(prefix, "_text_document");
    let end = tokenizer.end_of_text().filter(|_| append_end);
    if append_end && end.is_none() {
        return Err(RuntimeError::Settings(format!("the tokenizer has no {END_OF_TEXT}")));
    }
    let mut out = IndexedWriter::create(&prefix, TokenType::for_vocab(tokenizer.size()), force)?;
    let mut made = Preprocessed::default();
    documents(inputs, |text| {
        let mut ids = tokenizer.encode(&text)?;
        ids.extend(end);
        if !ids.is_empty() {
            out.document(&ids)?;
            made.documents += 1;
            made.tokens += ids.len();
            progress(made.documents);
        }
        Ok(())
    })?;
    if made.tokens == 0 {
        let what = "there is nothing to tokenize: no line has text".to_string();
        return Err(RuntimeError::Settings(what));
    }
    out.finish()?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three letters, an id that is left out, and the end of a text; `more` stands in the file beside them.
    fn file(folder: &Path, more: &str) -> PathBuf {
        let path = folder.join("t.json");
        let end = r#"{"id": 4, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}"#;
        let text = format!(
            r#"{{"version": "1.0", {more}, "added_tokens": [{end}], "normalizer": null,
            "pre_tokenizer": null, "decoder": null, "model": {{"type": "BPE", "dropout": null,
            "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false,
            "vocab": {{"a": 0, "b": 1, "c": 2, "<|endoftext|>": 4}}, "merges": []}}}}"#
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    const PLAIN: &str = r#""truncation": null, "padding": null, "post_processor": null"#;

    /// Ids counted by hand.
    #[test]
    fn a_file_s_own_lengths_do_not_change_documents() {
        let folder = tempfile::tempdir().unwrap();
        let cut =
            r#"{"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}"#;
        let pad = r#"{"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 4, "pad_type_id": 0, "pad_token": "<|endoftext|>"}"#;
        for more in [
            PLAIN.to_string(),
            format!(r#""truncation": {cut}, "padding": {pad}, "post_processor": null"#),
        ] {
            let path = file(folder.path(), &more);
            let t = TextTokenizer::open("HFTokenizer", Some(&path), None).unwrap();
            assert_eq!(t.encode("abcab").unwrap(), [0, 1, 2, 0, 1]);
            assert_eq!(t.encode("a<|endoftext|>b").unwrap(), [0, 4, 1]);
            assert_eq!((t.size(), t.end_of_text()), (5, Some(4)));
        }
    }

    #[test]
    fn a_post_processor_applies() {
        let folder = tempfile::tempdir().unwrap();
        let first = r#"{"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "c", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"c": {"id": "c", "ids": [2], "tokens": ["c"]}}}"#;
        let more = format!(r#""truncation": null, "padding": null, "post_processor": {first}"#);
        let path = file(folder.path(), &more);
        let t = TextTokenizer::open("HFTokenizer", Some(&path), None).unwrap();
        assert_eq!(t.encode("ab").unwrap(), [2, 0, 1]);
    }

    /// GPT-2's two files: what they do not have is not added.
    #[test]
    fn a_vocabulary_without_an_end_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let (vocab, merges) = (folder.path().join("v.json"), folder.path().join("m.txt"));
        std::fs::write(&merges, "#version: 0.2\n").unwrap();
        let open = |text: &str| {
            std::fs::write(&vocab, text).unwrap();
            TextTokenizer::open("GPT2BPETokenizer", Some(&vocab), Some(&merges)).unwrap()
        };
        let t = open(r#"{"a": 0, "b": 1}"#);
        assert_eq!((t.size(), t.end_of_text()), (2, None));
        let t = open(r#"{"a": 0, "b": 1, "<|endoftext|>": 2}"#);
        assert_eq!((t.size(), t.end_of_text()), (3, Some(2)));
        assert_eq!(t.encode("b<|endoftext|>a").unwrap(), [1, 2, 0]);
    }

    #[test]
    fn a_failure_leaves_no_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        let t =
            TextTokenizer::open("HFTokenizer", Some(&file(folder.path(), PLAIN)), None).unwrap();
        let input = folder.path().join("t.jsonl");
        for (text, why) in
            [("{\"text\": \"ab\"}\n{\"text\": 3}\n", "line 2"), ("\n\n", "nothing to tokenize")]
        {
            std::fs::write(&input, text).unwrap();
            let prefix = folder.path().join("out/d");
            let e = preprocess(std::slice::from_ref(&input), &t, false, &prefix, false, |_| {});
            assert!(e.unwrap_err().to_string().contains(why));
            assert_eq!(std::fs::read_dir(folder.path().join("out")).unwrap().count(), 0);
        }
    }
}
