//! Megatron's order of blending (helpers.cpp of GPT-NeoX, `build_blending_indices`): each sample comes from the source
//! whose share lags most behind its weight, and from the first of those that lag alike.

use crate::RuntimeError;
use crate::device::limits;

/// The source of every sample, and which of its samples that is.
///
/// What each source has given is kept before every 256th sample; the samples between follow from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Blend {
    /// Shares that add up to 1.
    weights: Vec<f64>,
    /// Rows of counts, one for each source.
    marks: Vec<u32>,
}

/// Of so many samples the counts before one are kept.
const APART: u64 = 256;

impl Blend {
    /// A blend by `weights` from which `samples` are drawn, as a rule; `copies` processes of this host each make it.
    ///
    /// # Errors
    /// Memory has no room for it.
    pub fn new(weights: &[f64], samples: u64, copies: u64) -> Result<Blend, RuntimeError> {
        const BLEND: &str = "the order of data sets";
        let n = (samples / APART + 1).saturating_mul(weights.len() as u64);
        limits::check(BLEND, n.saturating_mul(4).saturating_mul(copies))?;
        let mut marks = limits::reserve(BLEND, usize::try_from(n).unwrap_or(usize::MAX))?;
        let mut counts = vec![0u32; weights.len()];
        for at in 0..samples.max(1) {
            if at % APART == 0 {
                marks.extend(&counts);
            }
            let source = lagging(weights, at, &counts);
            counts[source] += 1;
        }
        Ok(Blend { weights: weights.to_vec(), marks })
    }

    /// The source of the sample at `position`, and which of its samples that is.
    pub fn at(&self, position: u64) -> (usize, u64) {
        let sources = self.weights.len();
        let mark = (position / APART).min((self.marks.len() / sources) as u64 - 1);
        let row = mark as usize * sources..(mark as usize + 1) * sources;
        let mut counts = self.marks[row].to_vec();
        for at in mark * APART..position {
            let source = lagging(&self.weights, at, &counts);
            counts[source] += 1;
        }
        let source = lagging(&self.weights, position, &counts);
        (source, u64::from(counts[source]))
    }
}

/// The source that sample `at` comes from, after each has given its `counts`.
fn lagging(weights: &[f64], at: u64, counts: &[u32]) -> usize {
    let at = (at as f64).max(1.0);
    let lag = |(weight, count): (&f64, &u32)| weight * at - f64::from(*count);
    let mut most = (0, f64::NEG_INFINITY);
    for (source, lag) in weights.iter().zip(counts).map(lag).enumerate() {
        if lag > most.1 {
            most = (source, lag);
        }
    }
    most.0
}

/// Weights that add up to 1.
pub fn normalised(weights: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let sum: f64 = weights.clone().sum();
    weights.map(|w| w / sum).collect()
}

/// GPT-NeoX's weights by numbers of documents: with q the shares of all documents and p = qᵅ / Σ qᵅ, those that are
/// proportional to p · (1 − q) (data_utils.py, `weights_by_num_docs`). Two sources get one half each where α is 1.
pub fn by_documents(documents: &[usize], exponent: f64) -> Vec<f64> {
    if documents.len() == 1 {
        return vec![1.0];
    }
    let shares = normalised(documents.iter().map(|n| *n as f64));
    let p = normalised(shares.iter().map(|q| q.powf(exponent)));
    let products: Vec<f64> = p.iter().zip(&shares).map(|(p, q)| p * (1.0 - q)).collect();
    normalised(products.iter().copied())
}
