//! A data set: a range of documents in a fixed order of samples.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::idx::IndexedFile;
use super::order::{self, Order};
use crate::RuntimeError;

/// Samples of seq + 1 tokens in NeoX's order.
pub struct TokenDataset {
    file: Arc<IndexedFile>,
    range: Range<usize>,
    order: Order,
    seq: usize,
    vocab: usize,
}

impl TokenDataset {
    /// Documents `range` of `file`, ordered for `samples` samples.
    pub fn new(
        file: Arc<IndexedFile>,
        range: Range<usize>,
        seq: usize,
        samples: u64,
        seed: u32,
        vocab: usize,
    ) -> Result<TokenDataset, RuntimeError> {
        let sizes = file.sizes().get(range.clone()).unwrap_or(&[]);
        let tokens: u64 = sizes.iter().map(|s| *s as u64).sum();
        if tokens < 2 {
            return Err(RuntimeError::data(
                file.path(),
                format!("documents {}..{} have {tokens} tokens: too few", range.start, range.end),
            ));
        }
        let order = order::build(sizes, range.start as u32, seq as u64, samples.max(1), seed);
        Ok(TokenDataset { range, file, order, seq, vocab })
    }

    /// Number of samples before they repeat.
    pub fn len(&self) -> u64 {
        self.order.shuffle.len() as u64
    }

    /// Never: a data set has at least one sample.
    pub fn is_empty(&self) -> bool {
        self.order.shuffle.is_empty()
    }

    /// The id of the sample drawn at `position`.
    pub fn id(&self, position: u64) -> u32 {
        self.order.shuffle[(position % self.len()) as usize]
    }

    /// A hash of the file that it is drawn from.
    pub fn digest(&self) -> String {
        self.file.digest()
    }

    /// The documents of that file that it has.
    pub fn documents(&self) -> String {
        format!("documents {}..{}", self.range.start, self.range.end)
    }

    /// How often each document is drawn.
    pub fn epochs(&self) -> usize {
        self.order.documents.len() / self.range.len()
    }

    /// Fills `tokens` (seq + 1) with the sample drawn at `position`; gives its id.
    pub fn sample(&self, position: u64, tokens: &mut [i32]) -> Result<u32, RuntimeError> {
        let id = self.id(position);
        let (mut document, mut offset) = self.order.samples[id as usize];
        let mut filled = 0;
        while filled <= self.seq {
            let sequence = self.order.documents[document as usize] as usize;
            let size = self.file.sizes()[sequence] as usize;
            while (offset as usize) < size && filled <= self.seq {
                let token = self.file.token(sequence, offset as usize);
                if token < 0 || token as usize >= self.vocab {
                    return Err(RuntimeError::data(
                        self.file.path(),
                        format!(
                            "document {sequence}, token {offset}: id {token} is outside the \
                             vocabulary of {}",
                            self.vocab
                        ),
                    ));
                }
                tokens[filled] = token;
                filled += 1;
                offset += 1;
            }
            document += 1;
            offset = 0;
        }
        Ok(id)
    }

    /// Tokens of the documents, each once.
    fn tokens(&self) -> impl Iterator<Item = i32> + '_ {
        let mut documents = self.order.documents.clone();
        documents.sort_unstable();
        documents.dedup();
        documents.into_iter().flat_map(move |d| {
            let size = self.file.sizes()[d as usize] as usize;
            (0..size).map(move |i| self.file.token(d as usize, i))
        })
    }
}

/// Entropy of the distribution of single tokens, nats: the loss of a model that knows only how often
/// each token appears.
pub fn unigram_entropy(data: &TokenDataset) -> f64 {
    let mut counts: Vec<u64> = vec![];
    let mut total = 0u64;
    for t in data.tokens() {
        let t = t.max(0) as usize;
        if t >= counts.len() {
            counts.resize(t + 1, 0);
        }
        counts[t] += 1;
        total += 1;
    }
    counts
        .iter()
        .filter(|c| **c > 0)
        .map(|c| {
            let p = *c as f64 / total as f64;
            -p * p.ln()
        })
        .sum()
}

/// The data sets of a run.
pub struct Splits {
    /// For training.
    pub train: TokenDataset,
    /// For evaluation, if the split has one.
    pub valid: Option<TokenDataset>,
}

impl Splits {
    /// A hash of the files that they are drawn from.
    pub fn digest(&self) -> String {
        let valid = self.valid.as_ref().map(TokenDataset::digest);
        self.train.digest() + &valid.unwrap_or_default()
    }
}

/// How many samples a run draws of each part, as NeoX counts them.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// Training samples: iterations × global batch.
    pub train: u64,
    /// Validation samples: (iterations / interval + 1) × evaluation iterations × global batch.
    pub valid: u64,
}

/// Opens one file for all parts, divided by `split`.
pub fn open_split(
    prefix: &Path,
    text: &str,
    seq: usize,
    demand: Demand,
    seed: u32,
    vocab: usize,
) -> Result<Splits, RuntimeError> {
    let file = Arc::new(IndexedFile::open(prefix)?);
    let documents = file.documents();
    let bounds = order::split(text, documents as u64)
        .ok_or_else(|| RuntimeError::Settings(format!("`split` is {text:?}, not three numbers")))?;
    let part = |i: usize| bounds[i] as usize..bounds[i + 1] as usize;
    let open = |i, samples| TokenDataset::new(file.clone(), part(i), seq, samples, seed, vocab);
    let train = open(0, demand.train)?;
    let valid = if part(1).is_empty() { None } else { Some(open(1, demand.valid)?) };
    Ok(Splits { train, valid })
}

/// Opens one file per part.
pub fn open_separate(
    train: &Path,
    valid: Option<&Path>,
    seq: usize,
    demand: Demand,
    seed: u32,
    vocab: usize,
) -> Result<Splits, RuntimeError> {
    let open = |prefix: &Path, samples| {
        let file = Arc::new(IndexedFile::open(prefix)?);
        let all = 0..file.documents();
        TokenDataset::new(file, all, seq, samples, seed, vocab)
    };
    let valid = valid.map(|v| open(v, demand.valid)).transpose()?;
    Ok(Splits { train: open(train, demand.train)?, valid })
}
