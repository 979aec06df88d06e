//! A data set of one source: a range of the documents of a file, in a fixed order of samples.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use neoxc_config::Packing;

use super::documents::{self, Whole};
use super::idx::IndexedFile;
use super::order;
use crate::RuntimeError;
use crate::activity::Activity;

/// How samples are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Tokens of a sample.
    pub seq: usize,
    /// Seed of their order.
    pub seed: u32,
    /// Ids of the vocabulary: data stay below it.
    pub vocab: usize,
    /// Processes on this host that each keep the order.
    pub copies: u64,
    /// How documents fill samples.
    pub packing: Packing,
    /// Whether a document that is longer than a sample is cut, where documents are not joined.
    pub allow_chopped: bool,
}

/// One sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// seq + 1 tokens.
    pub tokens: Vec<i32>,
    /// What is learned at each: a token, or [`NOT_LEARNED`]. The first is never predicted.
    pub labels: Vec<i32>,
}

/// The label of what is not learned: padding, and tokens that a file of labels marks.
pub const NOT_LEARNED: i32 = -100;

impl Sample {
    /// A sample of `seq` + 1 tokens.
    pub fn new(seq: usize) -> Sample {
        Sample { tokens: vec![0; seq + 1], labels: vec![NOT_LEARNED; seq + 1] }
    }
}

/// The tokens of a source, and its labels if it has a file of them.
#[derive(Clone)]
pub struct Files {
    /// The tokens.
    pub tokens: Arc<IndexedFile>,
    /// A label for each token.
    pub labels: Option<Arc<IndexedFile>>,
}

impl Files {
    /// Opens `tokens`, and `labels` of the same shape.
    ///
    /// # Errors
    /// A file cannot be read, or the labels are of another shape.
    pub fn open(tokens: &Path, labels: Option<&Path>) -> Result<Files, RuntimeError> {
        let tokens = Arc::new(IndexedFile::open(tokens)?);
        let labels = labels.map(|path| IndexedFile::open(path).map(Arc::new)).transpose()?;
        if let Some(labels) = &labels {
            let (of, at) = (labels.documents(), tokens.documents());
            let beside = tokens.path().display();
            if of != at {
                let what = format!("has labels of {of} documents, and {beside} has {at} documents");
                return Err(RuntimeError::data(labels.path(), what));
            }
            let pairs = labels.sizes().iter().zip(tokens.sizes());
            if let Some((n, (of, at))) = pairs.enumerate().find(|(_, (of, at))| of != at) {
                let what = format!("document {n} has {of} labels, and in {beside} {at} tokens");
                return Err(RuntimeError::data(labels.path(), what));
            }
        }
        Ok(Files { tokens, labels })
    }

    /// Lengths of the documents `range` with 0 where one is left out: one that is too short to predict a token, longer
    /// than `longest`, or has no label to learn among its first seq + 1.
    fn lengths(&self, range: &Range<usize>, draw: Draw) -> Result<Vec<u32>, RuntimeError> {
        let least = if draw.packing == Packing::Unpacked { 2 } else { 1 };
        let longest = if draw.allow_chopped { u32::MAX } else { draw.seq as u32 + 1 };
        let doing = self
            .labels
            .as_ref()
            .map(|l| Activity::begin(format!("reading {}", l.path().display())));
        let mut lengths = vec![];
        for d in range.clone() {
            let length = self.tokens.sizes()[d] as u32;
            let mut kept = (least..=longest).contains(&length);
            if let Some(labels) = self.labels.as_ref().filter(|_| kept) {
                doing.iter().for_each(Activity::moved);
                let mut learned = false;
                labels.tokens(d, 0, draw.seq + 1, &mut |label| {
                    learned |= label >= 0;
                    Ok(())
                })?;
                kept = learned;
            }
            lengths.push(if kept { length } else { 0 });
        }
        Ok(lengths)
    }
}

/// Which documents a sample has.
enum Order {
    /// Pieces of them, joined.
    Joined(order::Order),
    /// Whole ones.
    Whole(Whole),
}

/// Samples of seq + 1 tokens in NeoX's order.
pub struct TokenDataset {
    files: Files,
    range: Range<usize>,
    order: Order,
    draw: Draw,
}

impl TokenDataset {
    /// Documents `range` of `files`, ordered for `samples` samples.
    ///
    /// # Errors
    /// The documents have no sample, or memory has no room for the order.
    pub fn new(
        files: Files,
        range: Range<usize>,
        samples: u64,
        draw: Draw,
    ) -> Result<TokenDataset, RuntimeError> {
        let Draw { seq, seed, copies, .. } = draw;
        let (seq, samples) = (seq as u64, samples.max(1));
        let sizes = files.tokens.sizes().get(range.clone()).unwrap_or(&[]);
        let tokens: u64 = sizes.iter().map(|s| *s as u64).sum();
        let bad = |what: String| RuntimeError::data(files.tokens.path(), what);
        if tokens < 2 {
            let Range { start, end } = range;
            return Err(bad(format!("documents {start}..{end} have {tokens} tokens: too few")));
        }
        let first = range.start as u32;
        if draw.packing == Packing::Packed {
            let of = order::Of { sizes, first, seq, samples, seed, copies };
            let order = Order::Joined(order::build(&of)?);
            return Ok(TokenDataset { files, range, order, draw });
        }
        let lengths = files.lengths(&range, draw)?;
        if lengths.iter().all(|n| *n == 0) {
            let Range { start, end } = range;
            return Err(bad(format!(
                "no document of {start}..{end} can be a sample of {seq} tokens: too short, without a label to learn, or too \
                 long where `allow_chopped` is false"
            )));
        }
        let of = documents::Of { lengths: &lengths, first, seq, samples, seed, copies };
        let order = match draw.packing {
            Packing::Unpacked => documents::unpacked(&of)?,
            _ => documents::until_overflow(&of)?,
        };
        Ok(TokenDataset { files, range, order: Order::Whole(order), draw })
    }

    fn shuffle(&self) -> &[u32] {
        match &self.order {
            Order::Joined(order) => &order.shuffle,
            Order::Whole(order) => &order.shuffle,
        }
    }

    /// Number of samples before they repeat.
    pub fn len(&self) -> u64 {
        self.shuffle().len() as u64
    }

    /// Never: a data set has at least one sample.
    pub fn is_empty(&self) -> bool {
        self.shuffle().is_empty()
    }

    /// The id of the sample drawn at `position`.
    pub fn id(&self, position: u64) -> u32 {
        self.shuffle()[(position % self.len()) as usize]
    }

    /// A hash of the files that it is drawn from.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn digest(&self) -> Result<String, RuntimeError> {
        let labels = self.files.labels.as_ref().map(|l| l.digest()).transpose()?;
        Ok(self.files.tokens.digest()? + &labels.unwrap_or_default())
    }

    /// The file of its tokens, for messages.
    pub fn path(&self) -> &Path {
        self.files.tokens.path()
    }

    /// Whether it has a file of labels.
    pub fn has_labels(&self) -> bool {
        self.files.labels.is_some()
    }

    /// The documents of that file that it has.
    pub fn documents(&self) -> Range<usize> {
        self.range.clone()
    }

    /// How much is shuffled together, for people: what the order depends on beside the seed.
    pub fn extent(&self) -> String {
        match &self.order {
            Order::Joined(order) => format!("{} epochs", order.documents.len() / self.range.len()),
            Order::Whole(order) => format!("{} samples", order.shuffle.len()),
        }
    }

    /// Fills `into` with the sample drawn at `position`; gives its id.
    ///
    /// # Errors
    /// It cannot be read, or has an id that the vocabulary has not.
    pub fn sample(&self, position: u64, into: &mut Sample) -> Result<u32, RuntimeError> {
        let id = self.id(position);
        let all = self.draw.seq + 1;
        let mut filled = 0;
        match &self.order {
            Order::Joined(order) => {
                let size = |d: u32| self.files.tokens.sizes()[d as usize] as u64;
                let (first, offset) = order.start(id, &size);
                let mut offset = offset as usize;
                for d in &order.documents[first as usize..] {
                    filled += self.piece(*d as usize, offset, filled, into)?;
                    offset = 0;
                    if filled == all {
                        break;
                    }
                }
            }
            Order::Whole(order) => {
                for d in order.sample(id) {
                    filled += self.piece(*d as usize, 0, filled, into)?;
                }
            }
        }
        into.tokens[filled..].fill(0);
        into.labels[filled..].fill(NOT_LEARNED);
        Ok(id)
    }

    /// Fills `into` from its token `filled` on with document `d` from its token `offset` on; gives how many there were.
    fn piece(
        &self,
        d: usize,
        offset: usize,
        filled: usize,
        into: &mut Sample,
    ) -> Result<usize, RuntimeError> {
        let (all, vocab) = (self.draw.seq + 1, self.draw.vocab as i64);
        let outside = |file: &IndexedFile, what: &str, at: usize, id: i64| {
            let what = format!(
                "document {d}, {what} {}: id {id} is outside the vocabulary of {vocab}",
                offset + at
            );
            RuntimeError::data(file.path(), what)
        };
        let Files { tokens, labels } = &self.files;
        let mut at = 0;
        let n = tokens.tokens(d, offset, all - filled, &mut |token| {
            if !(0..vocab).contains(&token) {
                return Err(outside(tokens, "token", at, token));
            }
            into.tokens[filled + at] = token as i32;
            at += 1;
            Ok(())
        })?;
        let Some(labels) = labels else {
            into.labels[filled..filled + n].copy_from_slice(&into.tokens[filled..filled + n]);
            return Ok(n);
        };
        let mut at = 0;
        labels.tokens(d, offset, n, &mut |label| {
            if label >= vocab {
                return Err(outside(labels, "label", at, label));
            }
            into.labels[filled + at] = if label < 0 { NOT_LEARNED } else { label as i32 };
            at += 1;
            Ok(())
        })?;
        Ok(n)
    }

    /// Tokens of all documents, each once.
    pub(super) fn tokens(&self) -> u64 {
        self.range.clone().map(|d| self.files.tokens.sizes()[d] as u64).sum()
    }

    /// Calls `each` with the tokens of the documents, each once, or of some of them: whole documents in the order in
    /// which the run draws them, which is random, up to `most` tokens.
    pub(super) fn some_tokens(
        &self,
        most: u64,
        each: &mut dyn FnMut(i64) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let drawn = match &self.order {
            Order::Joined(order) => &order.documents,
            Order::Whole(order) => &order.documents,
        };
        let documents: Box<dyn Iterator<Item = usize>> = match self.tokens() <= most {
            true => Box::new(self.range.clone()),
            false => Box::new(drawn.iter().map(|d| *d as usize)),
        };
        let mut left = usize::try_from(most).unwrap_or(usize::MAX);
        for d in documents {
            left -= self.files.tokens.tokens(d, 0, left, each)?;
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Ids of the vocabulary.
    pub(super) fn vocab(&self) -> usize {
        self.draw.vocab
    }
}
