//! Text: tokenizers (the `tokenizers` crate) and preprocessing to `.bin/.idx`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer, TokenizerBuilder,
};

use crate::RuntimeError;
use crate::data::IndexedWriter;
use crate::data::idx::{TokenType, with_suffix};

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
                let bytes = std::fs::read(path).map_err(RuntimeError::io("read", path))?;
                let t = Tokenizer::from_bytes(&bytes)
                    .map_err(|e| RuntimeError::text(path, format!("is not a tokenizer: {e}")))?;
                Ok(Self::HuggingFace(Box::new(t)))
            }
            "GPT2BPETokenizer" => {
                let path = need()?;
                let merges = merges.ok_or_else(|| {
                    RuntimeError::Settings("GPT2BPETokenizer needs a merge_file".into())
                })?;
                let text = |p: &Path| p.to_string_lossy().into_owned();
                let bpe = BPE::from_file(&text(path), &text(merges))
                    .build()
                    .map_err(|e| RuntimeError::text(path, e.to_string()))?;
                let mut t = Tokenizer::new(bpe);
                t.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)));
                t.with_decoder(Some(ByteLevel::default()));
                t.add_special_tokens(&[AddedToken::from(END_OF_TEXT, true)]);
                Ok(Self::HuggingFace(Box::new(t)))
            }
            "CharLevelTokenizer" => Ok(Self::Bytes),
            other => {
                Err(RuntimeError::Settings(format!("tokenizer_type {other} is not supported yet")))
            }
        }
    }

    /// Number of ids.
    pub fn size(&self) -> usize {
        match self {
            Self::HuggingFace(t) => t.get_vocab_size(true),
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

    /// Text → ids.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        match self {
            Self::HuggingFace(t) => t
                .encode_fast(text, false)
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

/// Calls `each` with the `text` of every line of every file.
fn documents(
    inputs: &[PathBuf],
    mut each: impl FnMut(String) -> Result<(), RuntimeError>,
) -> Result<(), RuntimeError> {
    for path in inputs {
        let file = std::fs::File::open(path).map_err(RuntimeError::io("open", path))?;
        for (n, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(RuntimeError::io("read", path))?;
            if line.trim().is_empty() {
                continue;
            }
            let bad = |m: String| RuntimeError::text(path, format!("line {}: {m}", n + 1));
            let value: serde_json::Value =
                serde_json::from_str(&line).map_err(|e| bad(format!("is not JSON: {e}")))?;
            let text = value["text"].as_str().ok_or_else(|| bad("has no `text` string".into()))?;
            each(text.to_string())?;
        }
    }
    Ok(())
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
    out.finish()?;
    Ok(made)
}
