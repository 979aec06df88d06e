//! The data of training or of validation: one source, or several that are blended; and how both are opened.

use std::path::Path;
use std::sync::Arc;

use neoxc_config::Source;

use super::blend::{Blend, by_documents, normalised};
use super::dataset::{Draw, Files, Sample, TokenDataset};
use super::idx::IndexedFile;
use super::order;
use crate::RuntimeError;

/// Sources, and the order in which samples come from them.
pub struct Mixture {
    sources: Vec<TokenDataset>,
    weights: Vec<f64>,
    blend: Option<Blend>,
}

/// A sample that was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// The number of its source, from 0.
    pub source: u32,
    /// Its id within the source.
    pub id: u32,
}

impl Mixture {
    /// The mixture of one source.
    pub fn only(source: TokenDataset) -> Mixture {
        Mixture { sources: vec![source], weights: vec![1.0], blend: None }
    }

    /// Its sources.
    pub fn sources(&self) -> &[TokenDataset] {
        &self.sources
    }

    /// Their shares of the samples, which add up to 1.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Number of samples before they repeat.
    pub fn len(&self) -> u64 {
        self.sources.iter().map(TokenDataset::len).sum()
    }

    /// Never: each source has at least one sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A hash of the files that it is drawn from.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn digest(&self) -> Result<String, RuntimeError> {
        self.sources.iter().map(TokenDataset::digest).collect()
    }

    /// The source of the sample at `position`, and which of its samples that is.
    fn at(&self, position: u64) -> (usize, u64) {
        let position = position % self.len();
        self.blend.as_ref().map_or((0, position), |blend| blend.at(position))
    }

    /// The file that the sample at `position` is read from, for messages.
    pub fn path(&self, position: u64) -> &Path {
        self.sources[self.at(position).0].path()
    }

    /// Fills `into` with the sample drawn at `position`.
    ///
    /// # Errors
    /// It cannot be read, or has an id that the vocabulary has not.
    pub fn sample(&self, position: u64, into: &mut Sample) -> Result<Drawn, RuntimeError> {
        let (source, position) = self.at(position);
        let id = self.sources[source].sample(position, into)?;
        Ok(Drawn { source: source as u32, id })
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

/// The entropy of single tokens of `data`, each source with its weight.
///
/// # Errors
/// The tokens cannot be read.
pub fn unigram_entropy(data: &Mixture) -> Result<Entropy, RuntimeError> {
    entropy_of(data, COUNTED)
}

fn entropy_of(data: &Mixture, most: u64) -> Result<Entropy, RuntimeError> {
    let most = (most / data.sources.len() as u64).max(1);
    let (mut parts, mut counted, mut all): (Vec<f64>, u64, u64) = (vec![], 0, 0);
    for (source, weight) in data.sources.iter().zip(&data.weights) {
        let mut counts: Vec<u64> = vec![];
        let mut total = 0u64;
        source.some_tokens(most, &mut |t| {
            // What the vocabulary does not have is refused where it is trained on.
            let id = usize::try_from(t).ok().filter(|t| *t < source.vocab());
            let Some(t) = id else { return Ok(()) };
            if t >= counts.len() {
                counts.resize(t + 1, 0);
            }
            counts[t] += 1;
            total += 1;
            Ok(())
        })?;
        parts.resize(parts.len().max(counts.len()), 0.0);
        let share = |c: &u64| weight * *c as f64 / total.max(1) as f64;
        parts.iter_mut().zip(&counts).for_each(|(part, c)| *part += share(c));
        (counted, all) = (counted + total, all + source.tokens());
    }
    let nats = parts.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
    Ok(Entropy { nats, sample: (all > counted).then_some(counted) })
}

/// The data sets of a run.
pub struct Splits {
    /// For training.
    pub train: Mixture,
    /// For evaluation, if the split has one.
    pub valid: Option<Mixture>,
}

impl Splits {
    /// A hash of the files that they are drawn from.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn digest(&self) -> Result<String, RuntimeError> {
        let valid = self.valid.as_ref().map(Mixture::digest).transpose()?;
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
///
/// # Errors
/// The file cannot be read, or a part has no sample.
pub fn open_split(
    prefix: &Path,
    text: &str,
    demand: Demand,
    draw: Draw,
) -> Result<Splits, RuntimeError> {
    let tokens = Arc::new(IndexedFile::open(prefix)?);
    let files = Files { tokens, labels: None };
    let documents = files.tokens.documents();
    let bounds = order::split(text, documents as u64)
        .ok_or_else(|| RuntimeError::Settings(format!("`split` is {text:?}, not three numbers")))?;
    let part = |i: usize| bounds[i] as usize..bounds[i + 1] as usize;
    let open =
        |i, samples| TokenDataset::new(files.clone(), part(i), samples, draw).map(Mixture::only);
    let train = open(0, demand.train)?;
    let valid = if part(1).is_empty() { None } else { Some(open(1, demand.valid)?) };
    Ok(Splits { train, valid })
}

/// Samples that a source of this weight gets ready: GPT-NeoX asks each for half a percent more than its share of the
/// `samples`, lest blending run out of them. It decides how many epochs are shuffled together.
fn of_a_source(samples: u64, weight: f64) -> u64 {
    (samples as f64 * weight * 1.005).ceil() as u64
}

/// Opens the sources of one part, from which `samples` are drawn. Their weights are those that they have, or follow from
/// their numbers of documents with this `exponent`.
///
/// # Errors
/// A file cannot be read, or has no sample.
pub fn open_sources(
    sources: &[Source],
    exponent: Option<f64>,
    samples: u64,
    draw: Draw,
) -> Result<Mixture, RuntimeError> {
    let open = |s: &Source| Files::open(s.path.as_ref(), s.labels.as_ref().map(Path::new));
    let files: Vec<Files> = sources.iter().map(open).collect::<Result<_, _>>()?;
    let weights = match exponent {
        None => normalised(sources.iter().map(|s| s.weight)),
        Some(exponent) => {
            let documents: Vec<usize> = files.iter().map(|f| f.tokens.documents()).collect();
            by_documents(&documents, exponent)
        }
    };
    if !weights.iter().all(|w| w.is_finite()) {
        let what = "the weights of the data sets add up to nothing";
        return Err(RuntimeError::Settings(what.into()));
    }
    let sets = files.into_iter().zip(&weights).map(|(files, weight)| {
        let all = 0..files.tokens.documents();
        TokenDataset::new(files, all, of_a_source(samples, *weight), draw)
    });
    let sources: Vec<TokenDataset> = sets.collect::<Result<_, _>>()?;
    let several = sources.len() > 1;
    let blend = several.then(|| Blend::new(&weights, samples, draw.copies)).transpose()?;
    Ok(Mixture { sources, weights, blend })
}

#[cfg(test)]
mod tests {
    use neoxc_config::Packing;

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
        let draw = Draw {
            seq: 8,
            seed: 1,
            vocab: 66,
            copies: 1,
            packing: Packing::Packed,
            allow_chopped: true,
        };
        let split = open_split(&prefix, "1,0,0", demand, draw).unwrap();
        let first = &split.train.sources[0];
        assert_eq!((first.extent().as_str(), split.train.len()), ("1 epochs", 8));
        let source = Source::only(prefix.to_str().unwrap());
        let own = open_sources(&[source], None, demand.train, draw).unwrap();
        assert_eq!((own.sources[0].extent().as_str(), own.len()), ("2 epochs", 16));
        assert_eq!([1, 200, 201, 1000].map(|n| of_a_source(n, 1.0)), [2, 201, 203, 1005]);
    }

    /// Half of the tokens are 0, a quarter each 1 and 2: ln 2 / 2 + 2 · ln 4 / 4.
    #[test]
    fn the_entropy_of_many_tokens_is_that_of_a_sample() {
        let folder = tempfile::tempdir().unwrap();
        let documents: Vec<&[u32]> = vec![&[0, 1, 0, 2]; 50];
        let prefix = written(folder.path(), &documents);
        let draw = Draw {
            seq: 4,
            seed: 1,
            vocab: 3,
            copies: 1,
            packing: Packing::Packed,
            allow_chopped: true,
        };
        let demand = Demand { train: 200, valid: 0 };
        let data = open_split(&prefix, "1,0,0", demand, draw).unwrap();
        let want = 1.5 * 2f64.ln();
        assert!(data.train.len() > 50);
        for (most, sample) in [(1 << 20, None), (200, None), (100, Some(100))] {
            let got = entropy_of(&data.train, most).unwrap();
            assert!((got.nats - want).abs() < 1e-12 && got.sample == sample, "{got:?}");
        }
    }

    /// The file that tests/golden/make_data_orders.py wrote with NumPy.
    const ORDERS: &str = include_str!("../../../tests/golden/data_orders.json");

    fn id_of(source: usize, document: usize, i: i32) -> i32 {
        (37 * source as i32 + 11 * document as i32 + 5 * i) % 50
    }

    /// The files of a case: tokens and labels of each source by the rule that the script states.
    fn sources(folder: &Path, case: &serde_json::Value) -> Vec<Source> {
        let list = |v: &serde_json::Value| v.as_array().unwrap().clone();
        let mut out = vec![];
        for (s, sizes) in list(&case["sizes"]).iter().enumerate() {
            let [tokens, labels] = ["t", "l"].map(|kind| folder.join(format!("{s}{kind}")));
            let mut t = IndexedWriter::create(&tokens, TokenType::U16, true).unwrap();
            let mut l = IndexedWriter::create(&labels, TokenType::I32, true).unwrap();
            for (d, size) in list(sizes).iter().enumerate() {
                let all = 0..size.as_i64().unwrap() as i32;
                let learned = |i: &i32| d % 5 != 4 && (s as i32 + d as i32 + 2 * i) % 3 != 0;
                let label = |i: i32| if learned(&i) { id_of(s, d, i) } else { -100 };
                t.document(&all.clone().map(|i| id_of(s, d, i) as u32).collect::<Vec<_>>())
                    .unwrap();
                l.document(&all.map(|i| label(i) as u32).collect::<Vec<_>>()).unwrap();
            }
            t.finish().unwrap();
            l.finish().unwrap();
            let labels = case["labels"].as_bool().unwrap().then(|| labels.display().to_string());
            let weight = case["weights"][s].as_f64().unwrap();
            out.push(Source { path: tokens.display().to_string(), labels, weight });
        }
        out
    }

    #[test]
    fn every_order_is_that_of_an_independent_transcription() {
        let all: serde_json::Value = serde_json::from_str(ORDERS).unwrap();
        for case in all["cases"].as_array().unwrap() {
            let folder = tempfile::tempdir().unwrap();
            let n = |key: &str| case[key].as_u64().unwrap();
            let draw = Draw {
                seq: n("seq") as usize,
                seed: n("seed") as u32,
                vocab: 50,
                copies: 1,
                packing: Packing::parse(case["pack"].as_str().unwrap()).unwrap(),
                allow_chopped: case["chop"].as_bool().unwrap(),
            };
            let sources = sources(folder.path(), case);
            let data = match case["split"].as_array() {
                None => open_sources(&sources, case["alpha"].as_f64(), n("samples"), draw).unwrap(),
                Some(range) => {
                    let [first, last] = [0, 1].map(|k| range[k].as_u64().unwrap() as usize);
                    let files = Files::open(sources[0].path.as_ref(), None).unwrap();
                    Mixture::only(
                        TokenDataset::new(files, first..last, n("samples"), draw).unwrap(),
                    )
                }
            };
            let mut sample = Sample::new(draw.seq);
            let mut drawn = |k: u64| (data.sample(k, &mut sample).unwrap(), sample.clone());
            let wanted: Vec<(u32, u32)> = serde_json::from_value(case["drawn"].clone()).unwrap();
            let got: Vec<(u32, u32)> =
                (0..n("samples")).map(|k| drawn(k).0).map(|d| (d.source, d.id)).collect();
            assert_eq!(got, wanted, "{case}");
            for one in case["some"].as_array().unwrap() {
                let list =
                    |key: &str| -> Vec<i32> { serde_json::from_value(one[key].clone()).unwrap() };
                let got = drawn(one["position"].as_u64().unwrap()).1;
                assert_eq!((got.tokens, got.labels), (list("tokens"), list("labels")), "{case}");
            }
        }
        let weights: Vec<f64> = serde_json::from_value(all["long"]["weights"].clone()).unwrap();
        // Also past what it was made for.
        for samples in [5000, 300, 1] {
            let blend = Blend::new(&weights, samples, 1).unwrap();
            for at in all["long"]["at"].as_array().unwrap() {
                let [n, source, nth] = [0, 1, 2].map(|k| at[k].as_u64().unwrap());
                assert_eq!(blend.at(n), (source as usize, nth), "{samples} {at}");
            }
        }
    }

    /// What two data sets cannot agree on, and what leaves no sample, is told with the file.
    #[test]
    fn sources_that_do_not_fit_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, documents: &[&[u32]]| {
            let prefix = folder.path().join(name);
            let mut w = IndexedWriter::create(&prefix, TokenType::I32, true).unwrap();
            documents.iter().for_each(|d| w.document(d).unwrap());
            w.finish().unwrap();
            prefix.display().to_string()
        };
        let no = -100i32 as u32;
        let tokens = write("tokens", &[&[1, 2, 3], &[4, 5]]);
        let fewer = write("fewer", &[&[1, 2, 3]]);
        let shorter = write("shorter", &[&[1, 2, 3], &[4]]);
        let high = write("high", &[&[1, 2, 3], &[4, 9]]);
        let none = write("none", &[&[no; 3], &[no; 2]]);
        let draw = |packing, allow_chopped| Draw {
            seq: 1,
            seed: 1,
            vocab: 9,
            copies: 1,
            packing,
            allow_chopped,
        };
        for (labels, packing, chopped, told) in [
            (Some(&fewer), Packing::Packed, true, "fewer.bin has labels of 1 documents"),
            (Some(&shorter), Packing::Packed, true, "shorter.bin document 1 has 1 labels"),
            (Some(&high), Packing::Packed, true, "high.bin document 1, label 1: id 9 is outside"),
            (Some(&none), Packing::Unpacked, true, "tokens.bin no document of 0..2 can be"),
            (Some(&none), Packing::UntilOverflow, true, "tokens.bin no document of 0..2 can be"),
            (None, Packing::UntilOverflow, false, ""),
        ] {
            let source = Source { labels: labels.cloned(), ..Source::only(&tokens) };
            let open = open_sources(&[source], None, 9, draw(packing, chopped));
            let read = |data: Mixture| {
                let mut sample = Sample::new(1);
                (0..9).try_for_each(|k| data.sample(k, &mut sample).map(|_| ()))
            };
            match open.and_then(read) {
                Ok(()) => assert_eq!(told, ""),
                Err(e) => assert!(
                    !told.is_empty()
                        && e.to_string().replace(": ", " ").contains(&told.replace(": ", " ")),
                    "{e}"
                ),
            }
        }
    }
}
