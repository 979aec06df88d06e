//! Offsets for buffers whose lives are known: largest first, each at the lowest offset where no
//! buffer of an overlapping life is.

/// A buffer: size in bytes, and its life as inclusive times.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// Bytes, aligned.
    pub size: u64,
    /// When it is first written.
    pub first: usize,
    /// When it is last read.
    pub last: usize,
}

/// Offsets of all buffers, and the bytes they take together.
pub fn assign(buffers: &[Buffer]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(buffers[*i].size), buffers[*i].first, *i));
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
        let buffers: Vec<Buffer> = (0..60usize)
            .map(|i| Buffer {
                size: 64 * (1 + (i as u64 * 7919) % 13),
                first: (i * 31) % 50,
                last: (i * 31) % 50 + (i * 17) % 9,
            })
            .collect();
        let (offsets, total) = assign(&buffers);
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
