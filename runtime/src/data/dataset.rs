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
                if !(0..self.vocab as i64).contains(&token) {
                    return Err(RuntimeError::data(
                        self.file.path(),
                        format!(
                            "document {sequence}, token {offset}: id {token} is outside the \
                             vocabulary of {}",
                            self.vocab
                        ),
                    ));
                }
                tokens[filled] = token as i32;
                filled += 1;
                offset += 1;
            }
            document += 1;
            offset = 0;
        }
        Ok(id)
    }

    /// Tokens of the documents, each once, or of some of them: whole documents in the order in which the run draws
    /// them, which is random, up to `most` tokens.
    fn some_tokens(&self, most: u64) -> impl Iterator<Item = i64> + '_ {
        let all: u64 = self.range.clone().map(|d| self.file.sizes()[d] as u64).sum();
        let once = all <= most;
        let drawn = self.order.documents.iter().map(|d| *d as usize);
        let documents: Box<dyn Iterator<Item = usize>> = match once {
            true => Box::new(self.range.clone()),
            false => Box::new(drawn),
        };
        let tokens = documents.flat_map(move |d| {
            let size = self.file.sizes()[d] as usize;
            (0..size).map(move |i| self.file.token(d, i))
        });
        tokens.take(usize::try_from(most).unwrap_or(usize::MAX))
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
pub fn unigram_entropy(data: &TokenDataset) -> Entropy {
    entropy_of(data, COUNTED)
}

fn entropy_of(data: &TokenDataset, most: u64) -> Entropy {
    let mut counts: Vec<u64> = vec![];
    let mut total = 0u64;
    for t in data.some_tokens(most) {
        // What the vocabulary does not have is refused where it is trained on.
        let Some(t) = usize::try_from(t).ok().filter(|t| *t < data.vocab) else { continue };
        if t >= counts.len() {
            counts.resize(t + 1, 0);
        }
        counts[t] += 1;
        total += 1;
    }
    let part = |c: &u64| *c as f64 / total as f64;
    let nats = counts.iter().filter(|c| **c > 0).map(|c| -part(c) * part(c).ln()).sum();
    let all: u64 = data.range.clone().map(|d| data.file.sizes()[d] as u64).sum();
    Entropy { nats, sample: (all > most).then_some(total) }
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

/// Samples that a source gets ready, where a part has sources of its own: GPT-NeoX asks each for half a percent more
/// than its share of the `samples`, lest blending run out of them. It decides how many epochs are shuffled together.
fn of_a_source(samples: u64) -> u64 {
    (samples as f64 * 1.005).ceil() as u64
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
        let samples = of_a_source(samples);
        let file = Arc::new(IndexedFile::open(prefix)?);
        let all = 0..file.documents();
        TokenDataset::new(file, all, seq, samples, seed, vocab)
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
        let split = open_split(&prefix, "1,0,0", 8, demand, 1, 66).unwrap();
        assert_eq!((split.train.epochs(), split.train.len()), (1, 8));
        let own = open_separate(&prefix, None, 8, demand, 1, 66).unwrap();
        assert_eq!((own.train.epochs(), own.train.len()), (2, 16));
        assert_eq!([1, 200, 201, 1000].map(of_a_source), [2, 201, 203, 1005]);
    }

    /// Half of the tokens are 0, a quarter each 1 and 2: ln 2 / 2 + 2 · ln 4 / 4.
    #[test]
    fn the_entropy_of_many_tokens_is_that_of_a_sample() {
        let folder = tempfile::tempdir().unwrap();
        let documents: Vec<&[u32]> = vec![&[0, 1, 0, 2]; 50];
        let prefix = written(folder.path(), &documents);
        let data = open_split(&prefix, "1,0,0", 4, Demand { train: 200, valid: 0 }, 1, 3).unwrap();
        let want = 1.5 * 2f64.ln();
        assert!(data.train.epochs() > 1);
        for (most, sample) in [(1 << 20, None), (200, None), (100, Some(100))] {
            let got = entropy_of(&data.train, most);
            assert!((got.nats - want).abs() < 1e-12 && got.sample == sample, "{got:?}");
        }
    }
}
