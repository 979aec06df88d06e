//! GPT-NeoX's sample order, exactly: documents of all epochs shuffled together, samples laid over
//! them end to end, samples shuffled. One stream of random numbers for both.

use super::mt19937::RandomState;

/// Document order, sample boundaries, sample order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Documents in the order they are read; each appears once per epoch.
    pub documents: Vec<u32>,
    /// Start of each sample: index into `documents`, token offset in that document.
    pub samples: Vec<(u32, u32)>,
    /// Sample that is drawn at each position.
    pub shuffle: Vec<u32>,
}

/// Epochs needed so that `samples` samples of `seq` tokens (neighbours share one) fit.
pub fn epochs(tokens_per_epoch: u64, seq: u64, samples: u64) -> u64 {
    let mut epochs = 0;
    let mut tokens = 0;
    loop {
        epochs += 1;
        tokens += tokens_per_epoch;
        if tokens.saturating_sub(1) / seq >= samples {
            return epochs;
        }
    }
}

/// The order over documents `first .. first + sizes.len()`, whose lengths are `sizes`.
pub fn build(sizes: &[i32], first: u32, seq: u64, samples: u64, seed: u32) -> Order {
    let per_epoch: u64 = sizes.iter().map(|s| *s as u64).sum();
    let epochs = epochs(per_epoch, seq, samples);
    let mut random = RandomState::new(seed);
    let one: Vec<u32> = (first..first + sizes.len() as u32).collect();
    let mut documents = one.repeat(epochs as usize);
    random.shuffle(&mut documents);
    let total = (epochs * per_epoch - 1) / seq;
    let mut starts = Vec::with_capacity(total as usize + 1);
    let (mut at, mut offset) = (0usize, 0u64);
    starts.push((0, 0));
    for _ in 0..total {
        // seq + 1 tokens are taken, the last of which the next sample takes again.
        let mut left = seq + 1;
        while left != 0 {
            let length = sizes[(documents[at] - first) as usize] as u64 - offset;
            if length >= left {
                offset += left - 1;
                left = 0;
            } else {
                left -= length;
                at += 1;
                offset = 0;
            }
        }
        starts.push((at as u32, offset as u32));
    }
    let mut shuffle: Vec<u32> = (0..starts.len() as u32 - 1).collect();
    random.shuffle(&mut shuffle);
    Order { documents, samples: starts, shuffle }
}

/// Document boundaries of the train, validation and test parts of a `split` such as `969, 30, 1`.
pub fn split(text: &str, documents: u64) -> Option<[u64; 4]> {
    let separator = if text.contains(',') { ',' } else { '/' };
    let mut parts: Vec<f64> =
        text.split(separator).map(|p| p.trim().parse().ok()).collect::<Option<_>>()?;
    parts.resize(3, 0.0);
    let sum: f64 = parts.iter().sum();
    if !(sum > 0.0 && parts.iter().all(|p| *p >= 0.0 && p.is_finite())) {
        return None;
    }
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
            let order = build(&sizes, 0, n("seq_length"), n("num_samples"), n("seed") as u32);
            assert_eq!(order.documents, list(&c["doc_idx"]));
            assert_eq!(order.shuffle, list(&c["shuffle_idx"]));
            let samples: Vec<(u32, u32)> = c["sample_idx"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| (p[0].as_u64().unwrap() as u32, p[1].as_u64().unwrap() as u32))
                .collect();
            assert_eq!(order.samples, samples);
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
        let order = build(&[3, 4], 0, 2, 3, 1);
        assert_eq!(order.documents.len(), 2);
        assert_eq!(order.samples.len(), 4);
        let mut sorted = order.shuffle.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2]);
    }
}
