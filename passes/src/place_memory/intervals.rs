//! Offsets for buffers whose lives are known: those that have one keep it; then one after the other, each at the
//! lowest offset where no buffer of an overlapping life is. The largest first, or those that live longest: whichever
//! takes less.

use std::cmp::Reverse;

/// A buffer: size in bytes, and its life as inclusive times.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// Bytes, aligned.
    pub size: u64,
    /// When it is first written.
    pub first: usize,
    /// When it is last read.
    pub last: usize,
    /// The offset that it has to have, if any.
    pub pinned: Option<u64>,
}

/// Offsets of all buffers, and the bytes they take together.
pub fn assign(buffers: &[Buffer]) -> (Vec<u64>, u64) {
    let life = |b: &Buffer| b.last - b.first;
    let largest = in_turn(buffers, |b| (Reverse(b.size), b.first));
    let longest = in_turn(buffers, |b| (Reverse(life(b)), Reverse(b.size)));
    if longest.1 < largest.1 { longest } else { largest }
}

/// The same in the order of `key`.
fn in_turn<K: Ord>(buffers: &[Buffer], key: impl Fn(&Buffer) -> K) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|i| (buffers[*i].pinned.is_none(), key(&buffers[*i]), *i));
    let mut offsets = vec![0; buffers.len()];
    let mut placed: Vec<usize> = vec![];
    let mut total = 0;
    for i in order {
        let b = &buffers[i];
        let mut busy: Vec<(u64, u64)> = placed
            .iter()
            .filter(|j| buffers[**j].first <= b.last && b.first <= buffers[**j].last)
            .map(|j| (offsets[*j], offsets[*j] + buffers[*j].size))
            .collect();
        busy.sort_unstable();
        let mut at = 0;
        for (lo, hi) in busy {
            if at + b.size <= lo {
                break;
            }
            at = at.max(hi);
        }
        at = b.pinned.unwrap_or(at);
        offsets[i] = at;
        total = total.max(at + b.size);
        placed.push(i);
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_that_overlap_do_not_share_bytes() {
        let mut buffers: Vec<Buffer> = (0..60usize)
            .map(|i| Buffer {
                size: 64 * (1 + (i as u64 * 7919) % 13),
                first: (i * 31) % 50,
                last: (i * 31) % 50 + (i * 17) % 9,
                pinned: None,
            })
            .collect();
        // Two next to each other that have to stay where they are.
        for (n, first) in [(20, 40), (40, 5)] {
            buffers[n] = Buffer { size: 64, first, last: 70, pinned: Some(64 * (n as u64 / 20)) };
        }
        let (offsets, total) = assign(&buffers);
        assert_eq!((offsets[20], offsets[40]), (64, 128));
        for i in 0..buffers.len() {
            assert!(offsets[i] + buffers[i].size <= total);
            for j in 0..i {
                let (a, b) = (&buffers[i], &buffers[j]);
                let together = a.first <= b.last && b.first <= a.last;
                let apart = offsets[i] + a.size <= offsets[j] || offsets[j] + b.size <= offsets[i];
                assert!(!together || apart, "{i} {j}");
            }
        }
        let busiest = (0..60)
            .map(|t| buffers.iter().filter(|b| b.first <= t && t <= b.last).map(|b| b.size).sum())
            .max();
        assert!(total <= 2 * busiest.unwrap_or(0u64), "{total} {busiest:?}");
    }
}
