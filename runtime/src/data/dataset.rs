//! A data set: a range of documents in a fixed order of samples.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::idx::IndexedFile;
use super::order::{self, Order};
use crate::RuntimeError;

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
}

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
        samples: u64,
        draw: Draw,
    ) -> Result<TokenDataset, RuntimeError> {
        let Draw { seq, seed, vocab, copies } = draw;
        let sizes = file.sizes().get(range.clone()).unwrap_or(&[]);
        let tokens: u64 = sizes.iter().map(|s| *s as u64).sum();
        if tokens < 2 {
            return Err(RuntimeError::data(
                file.path(),
                format!("documents {}..{} have {tokens} tokens: too few", range.start, range.end),
            ));
        }
        let (first, samples) = (range.start as u32, samples.max(1));
        let of = order::Of { sizes, first, seq: seq as u64, samples, seed, copies };
        let order = order::build(&of)?;
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
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digest(&self) -> Result<String, RuntimeError> {
        self.file.digest()
    }

    /// The file of its tokens, for messages.
    pub fn path(&self) -> &Path {
        self.file.path()
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
        let size = |d: u32| self.file.sizes()[d as usize] as u64;
        let (document, offset) = self.order.start(id, &size);
        let (mut document, mut offset) = (document as usize, offset as usize);
        let mut filled = 0;
        while filled <= self.seq {
            let sequence = self.order.documents[document] as usize;
            let mut at = offset;
            self.file.tokens(sequence, offset, self.seq + 1 - filled, &mut |token| {
                if !(0..self.vocab as i64).contains(&token) {
                    return Err(RuntimeError::data(
                        self.file.path(),
                        format!(
                            "document {sequence}, token {at}: id {token} is outside the \
                             vocabulary of {}",
                            self.vocab
                        ),
                    ));
                }
                tokens[filled] = token as i32;
                filled += 1;
                at += 1;
                Ok(())
            })?;
            document += 1;
            offset = 0;
        }
        Ok(id)
    }

    /// Calls `each` with the tokens of the documents, each once, or of some of them: whole documents in the order in
    /// which the run draws them, which is random, up to `most` tokens.
    fn some_tokens(
        &self,
        most: u64,
        each: &mut dyn FnMut(i64) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let all: u64 = self.range.clone().map(|d| self.file.sizes()[d] as u64).sum();
        let drawn = self.order.documents.iter().map(|d| *d as usize);
        let documents: Box<dyn Iterator<Item = usize>> = match all <= most {
            true => Box::new(self.range.clone()),
            false => Box::new(drawn),
        };
        let mut left = usize::try_from(most).unwrap_or(usize::MAX);
        for d in documents {
            left -= self.file.tokens(d, 0, left, each)?;
            if left == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// Entropy of the distribution of single tokens, in nats: the loss of a model that knows only how often each token
/// appears.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entropy {
    /// Nats per token.
    pub nats: f64,
    /// How many tokens were counted, where that is not all of them.
    pub sample: Option<u64>,
}

/// Tokens that are counted at most: a fraction of a second, whatever the size of the data set.
const COUNTED: u64 = 1 << 24;

/// The entropy of single tokens of `data`.
///
/// # Errors
/// The tokens cannot be read.
pub fn unigram_entropy(data: &TokenDataset) -> Result<Entropy, RuntimeError> {
    entropy_of(data, COUNTED)
}

fn entropy_of(data: &TokenDataset, most: u64) -> Result<Entropy, RuntimeError> {
    let mut counts: Vec<u64> = vec![];
    let mut total = 0u64;
    data.some_tokens(most, &mut |t| {
        // What the vocabulary does not have is refused where it is trained on.
        let Some(t) = usize::try_from(t).ok().filter(|t| *t < data.vocab) else { return Ok(()) };
        if t >= counts.len() {
            counts.resize(t + 1, 0);
        }
        counts[t] += 1;
        total += 1;
        Ok(())
    })?;
    let part = |c: &u64| *c as f64 / total as f64;
    let nats = counts.iter().filter(|c| **c > 0).map(|c| -part(c) * part(c).ln()).sum();
    let all: u64 = data.range.clone().map(|d| data.file.sizes()[d] as u64).sum();
    Ok(Entropy { nats, sample: (all > most).then_some(total) })
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
    ///
    /// # Errors
    /// They cannot be read.
    pub fn digest(&self) -> Result<String, RuntimeError> {
        let valid = self.valid.as_ref().map(TokenDataset::digest).transpose()?;
        Ok(self.train.digest()? + &valid.unwrap_or_default())
    }
}

/// How many samples a run draws of each part, as NeoX counts them, where `split` divides one file.
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
    demand: Demand,
    draw: Draw,
) -> Result<Splits, RuntimeError> {
    let file = Arc::new(IndexedFile::open(prefix)?);
    let documents = file.documents();
    let bounds = order::split(text, documents as u64)
        .ok_or_else(|| RuntimeError::Settings(format!("`split` is {text:?}, not three numbers")))?;
    let part = |i: usize| bounds[i] as usize..bounds[i + 1] as usize;
    let open = |i, samples| TokenDataset::new(file.clone(), part(i), samples, draw);
    let train = open(0, demand.train)?;
    let valid = if part(1).is_empty() { None } else { Some(open(1, demand.valid)?) };
    Ok(Splits { train, valid })
}

/// Samples that a source gets ready, where a part has sources of its own: GPT-NeoX asks each for half a percent more
/// than its share of the `samples`, lest blending run out of them. It decides how many epochs are shuffled together.
fn of_a_source(samples: u64) -> u64 {
    (samples as f64 * 1.005).ceil() as u64
}

/// Opens one file per part.
pub fn open_separate(
    train: &Path,
    valid: Option<&Path>,
    demand: Demand,
    draw: Draw,
) -> Result<Splits, RuntimeError> {
    let open = |prefix: &Path, samples| {
        let samples = of_a_source(samples);
        let file = Arc::new(IndexedFile::open(prefix)?);
        let all = 0..file.documents();
        TokenDataset::new(file, all, samples, draw)
    };
    let valid = valid.map(|v| open(v, demand.valid)).transpose()?;
    Ok(Splits { train: open(train, demand.train)?, valid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::IndexedWriter;
    use crate::data::idx::TokenType;

    fn written(folder: &Path, documents: &[&[u32]]) -> std::path::PathBuf {
        let prefix = folder.join("d");
        let mut w = IndexedWriter::create(&prefix, TokenType::U16, true).unwrap();
        documents.iter().for_each(|d| w.document(d).unwrap());
        w.finish().unwrap();
        prefix
    }

    /// 8 samples of 8 tokens are what 66 tokens have, but not 8 · 1.005, rounded up.
    #[test]
    fn a_source_of_its_own_has_half_a_percent_more_samples() {
        let folder = tempfile::tempdir().unwrap();
        let document: Vec<u32> = (0..66).collect();
        let prefix = written(folder.path(), &[&document]);
        let demand = Demand { train: 8, valid: 1 };
        let draw = Draw { seq: 8, seed: 1, vocab: 66, copies: 1 };
        let split = open_split(&prefix, "1,0,0", demand, draw).unwrap();
        assert_eq!((split.train.epochs(), split.train.len()), (1, 8));
        let own = open_separate(&prefix, None, demand, draw).unwrap();
        assert_eq!((own.train.epochs(), own.train.len()), (2, 16));
        assert_eq!([1, 200, 201, 1000].map(of_a_source), [2, 201, 203, 1005]);
    }

    /// Half of the tokens are 0, a quarter each 1 and 2: ln 2 / 2 + 2 · ln 4 / 4.
    #[test]
    fn the_entropy_of_many_tokens_is_that_of_a_sample() {
        let folder = tempfile::tempdir().unwrap();
        let documents: Vec<&[u32]> = vec![&[0, 1, 0, 2]; 50];
        let prefix = written(folder.path(), &documents);
        let draw = Draw { seq: 4, seed: 1, vocab: 3, copies: 1 };
        let demand = Demand { train: 200, valid: 0 };
        let data = open_split(&prefix, "1,0,0", demand, draw).unwrap();
        let want = 1.5 * 2f64.ln();
        assert!(data.train.epochs() > 1);
        for (most, sample) in [(1 << 20, None), (200, None), (100, Some(100))] {
            let got = entropy_of(&data.train, most).unwrap();
            assert!((got.nats - want).abs() < 1e-12 && got.sample == sample, "{got:?}");
        }
    }
}
