//! GPT-NeoX's sample order, exactly: documents of all epochs shuffled together, samples laid over
//! them end to end, samples shuffled. One stream of random numbers for both.

use neoxc_config::MOST_SAMPLES;

use super::mt19937::RandomState;
use crate::RuntimeError;
use crate::device::limits;

/// Document order, sample boundaries, sample order: 4 bytes per sample, and 4 per document and epoch. GPT-NeoX's
/// shuffles need them all at once; starts of samples follow from the documents, and only some are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Documents in the order they are read; each appears once per epoch.
    pub documents: Vec<u32>,
    /// Start of every [`APART`]-th sample: index into `documents`, token offset in that document.
    starts: Vec<(u32, u32)>,
    /// Sample that is drawn at each position.
    pub shuffle: Vec<u32>,
    seq: u64,
}

/// What takes the memory, for people.
const ORDER: &str = "the order of samples";

/// Of so many samples the start of one is kept.
const APART: usize = 64;

/// Epochs needed so that `samples` samples of `seq` tokens (neighbours share one) fit.
pub fn epochs(tokens_per_epoch: u64, seq: u64, samples: u64) -> u64 {
    let tokens = u128::from(seq) * u128::from(samples) + 1;
    u64::try_from(tokens.div_ceil(u128::from(tokens_per_epoch))).unwrap_or(u64::MAX).max(1)
}

/// What an order is made of.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// Lengths of the documents, the first of which has the number `first`.
    pub sizes: &'a [i32],
    /// Its number.
    pub first: u32,
    /// Tokens of a sample.
    pub seq: u64,
    /// Samples that are drawn at least.
    pub samples: u64,
    /// Seed of both shuffles.
    pub seed: u32,
    /// Processes on this host that each make it.
    pub copies: u64,
}

/// The order over documents `first .. first + sizes.len()`, whose lengths are `sizes`.
///
/// # Errors
/// There are more samples than can be numbered, or more than memory has room for: told before any is taken.
pub fn build(of: &Of) -> Result<Order, RuntimeError> {
    let Of { sizes, first, seq, samples, seed, copies } = *of;
    let per_epoch: u64 = sizes.iter().map(|s| *s as u64).sum();
    let epochs = epochs(per_epoch, seq, samples);
    let all = u128::from(epochs) * sizes.len() as u128;
    let total = (u128::from(epochs) * u128::from(per_epoch) - 1) / u128::from(seq);
    for (n, what) in [(total, "samples"), (all, "documents of all epochs")] {
        if n > u128::from(MOST_SAMPLES) {
            let message = format!("the run draws {n} {what}, and {MOST_SAMPLES} can be numbered");
            return Err(RuntimeError::Settings(message));
        }
    }
    let (all, total) = (all as usize, total as usize);
    limits::check(ORDER, (4 * all + 4 * total + 8 * (total / APART + 1)) as u64 * copies)?;
    let mut random = RandomState::new(seed);
    let mut documents = limits::reserve(ORDER, all)?;
    (0..epochs).for_each(|_| documents.extend(first..first + sizes.len() as u32));
    random.shuffle(&mut documents);
    let mut starts = limits::reserve(ORDER, total / APART + 1)?;
    let mut at = (0, 0);
    for n in 0..total {
        if n % APART == 0 {
            starts.push(at);
        }
        at = behind(at, &documents, seq, &|d| sizes[(d - first) as usize] as u64);
    }
    let mut shuffle = limits::reserve(ORDER, total)?;
    shuffle.extend(0..total as u32);
    random.shuffle(&mut shuffle);
    Ok(Order { documents, starts, shuffle, seq })
}

/// Where the sample behind the one at `at` starts: seq + 1 tokens are taken, the last of which the next takes again.
fn behind(
    (mut at, offset): (u32, u32),
    documents: &[u32],
    seq: u64,
    size: &dyn Fn(u32) -> u64,
) -> (u32, u32) {
    let (mut left, mut offset) = (seq + 1, u64::from(offset));
    loop {
        let length = size(documents[at as usize]) - offset;
        if length >= left {
            return (at, (offset + left - 1) as u32);
        }
        left -= length;
        at += 1;
        offset = 0;
    }
}

impl Order {
    /// Where sample `id` starts: index into `documents`, and token offset in that document, whose lengths `size` gives.
    pub fn start(&self, id: u32, size: &dyn Fn(u32) -> u64) -> (u32, u32) {
        let id = id as usize;
        let first = self.starts[id / APART];
        (0..id % APART).fold(first, |at, _| behind(at, &self.documents, self.seq, size))
    }
}

/// Document boundaries of the train, validation and test parts of a `split` such as `969, 30, 1`.
pub fn split(text: &str, documents: u64) -> Option<[u64; 4]> {
    let parts = neoxc_config::shares(text)?;
    let sum: f64 = parts.iter().sum();
    let mut bounds = [0i64; 4];
    for i in 0..3 {
        // Python rounds halves to even.
        bounds[i + 1] = bounds[i] + (parts[i] / sum * documents as f64).round_ties_even() as i64;
    }
    let surplus = bounds[3] - documents as i64;
    for b in &mut bounds[1..] {
        *b -= surplus;
    }
    Some(bounds.map(|b| b.max(0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases computed by GPT-NeoX's own functions.
    #[test]
    fn the_order_is_neox_s() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/upstream/sample_order.json");
        let Ok(text) = std::fs::read_to_string(path) else {
            eprintln!("skipped: the reference cases are not here");
            return;
        };
        let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
        let list = |v: &serde_json::Value| -> Vec<u32> {
            v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
        };
        for c in cases["index"].as_array().unwrap() {
            let sizes: Vec<i32> = list(&c["sizes"]).into_iter().map(|s| s as i32).collect();
            let n = |k: &str| c[k].as_u64().unwrap();
            let (seq, samples, seed) = (n("seq_length"), n("num_samples"), n("seed") as u32);
            let of = Of { sizes: &sizes, first: 0, seq, samples, seed, copies: 1 };
            let order = build(&of).unwrap();
            assert_eq!(order.documents, list(&c["doc_idx"]));
            assert_eq!(order.shuffle, list(&c["shuffle_idx"]));
            let samples: Vec<(u32, u32)> = c["sample_idx"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| (p[0].as_u64().unwrap() as u32, p[1].as_u64().unwrap() as u32))
                .collect();
            // The last one is where a further sample would start.
            let start = |n: usize| order.start(n as u32, &|d| sizes[d as usize] as u64);
            let starts: Vec<(u32, u32)> = (0..samples.len() - 1).map(start).collect();
            assert_eq!(starts, samples[..samples.len() - 1]);
        }
        for c in cases["splits"].as_array().unwrap() {
            let want: Vec<u64> =
                c["boundaries"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap()).collect();
            let got = split(c["split"].as_str().unwrap(), c["documents"].as_u64().unwrap());
            assert_eq!(got.unwrap().to_vec(), want, "{c}");
        }
    }

    /// A case small enough to follow by hand; no reference file needed.
    #[test]
    fn samples_share_a_token_with_their_neighbours() {
        let of = Of { sizes: &[3, 4], first: 0, seq: 2, samples: 3, seed: 1, copies: 1 };
        let order = build(&of).unwrap();
        assert_eq!(order.documents.len(), 2);
        let mut sorted = order.shuffle.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2]);
    }

    /// Starts that are walked to are those of one walk from the beginning.
    #[test]
    fn every_sample_starts_where_the_one_before_it_ends() {
        let sizes: Vec<i32> = (0..40).map(|n| 1 + n * 7 % 23).collect();
        let size = |d: u32| sizes[(d - 5) as usize] as u64;
        for seq in [1, 7, 100] {
            let of = Of { sizes: &sizes, first: 5, seq, samples: 300, seed: 3, copies: 1 };
            let order = build(&of).unwrap();
            let mut tokens = order
                .documents
                .iter()
                .zip(0..)
                .flat_map(|(d, n)| (0..size(*d) as u32).map(move |offset| (n, offset)));
            assert!(order.shuffle.len() >= 300);
            for id in 0..order.shuffle.len() as u32 {
                assert_eq!(Some(order.start(id, &size)), tokens.next(), "{seq} {id}");
                tokens.by_ref().take(seq as usize - 1).for_each(drop);
            }
        }
    }

    #[test]
    fn what_no_memory_holds_is_refused_at_once() {
        let start = std::time::Instant::now();
        for (sizes, samples, told) in [
            (&[2][..], 8_000_000_000, "can be numbered"),
            (&[2], u64::MAX, "can be numbered"),
            (&[1_000; 4], 1 << 30, "bytes"),
        ] {
            // As many processes as no machine has.
            let of = Of { sizes, first: 0, seq: 1, samples, seed: 1, copies: 1 << 20 };
            let e = build(&of).unwrap_err().to_string();
            assert!(e.contains(told), "{e}");
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(5));
        assert_eq!(
            [(10, 1, 9), (10, 1, 10), (10, 3, 3), (1, 1, 1)].map(|(t, s, n)| epochs(t, s, n)),
            [1, 2, 1, 2]
        );
    }
}
