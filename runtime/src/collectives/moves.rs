//! What ranks that share no memory send each other for a collective: parts of strided views.
//!
//! Every collective moves parts of a value seen as [outer, ranks, block]: part r is all blocks at place r, and
//! both sides walk it in the same order. A chunk is a range of that walk.

use neoxc_plan::Collective;

use super::Sizes;

/// Floats up to which ranks send each other whole operands of an all-reduce: one round, not two.
const SMALL: usize = 1 << 11;

/// A value of `elements` floats, divided into blocks of `block` floats that belong to the ranks in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    ranks: usize,
    block: usize,
    elements: usize,
}

impl View {
    /// Floats of a rank's part. Only a value in one row of blocks may end early.
    pub fn len(&self, rank: usize) -> usize {
        let row = self.ranks * self.block;
        if self.elements > row {
            return self.elements / self.ranks;
        }
        self.elements.saturating_sub(rank * self.block).min(self.block)
    }

    /// Where float `at` of a rank's part lies, and how many lie together from there on.
    pub fn stretch(&self, rank: usize, at: usize) -> (usize, usize) {
        let (row, off) = (at / self.block, at % self.block);
        ((row * self.ranks + rank) * self.block + off, self.block - off)
    }

    /// Whether each part lies together.
    pub fn is_plain(&self) -> bool {
        self.elements <= self.ranks * self.block
    }
}

/// The floats that a rank sends to each of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sends {
    /// To each its part of the operand.
    Parts(View),
    /// All of it.
    Whole,
}

/// The use of the floats that a rank receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receives {
    /// They are summed in the order of the ranks.
    Sum,
    /// Those of each rank are a part of the result.
    Parts(View),
}

/// A collective as one round of messages, or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moves {
    /// Sent in the first round.
    pub sends: Sends,
    /// Received in the first round.
    pub receives: Receives,
    /// Second round: each tells the others its sums, which are parts of this view.
    pub then: Option<View>,
    /// The most floats that one rank sends to another.
    pub longest: usize,
}

impl Moves {
    /// The messages of a collective between `ranks` ranks.
    pub fn of(kind: Collective, shape: Sizes, ranks: usize) -> Moves {
        let elements = shape.iter().product::<usize>();
        let view = |block: usize| View { ranks, block, elements };
        let [_, first, between, second, after] = shape;
        let (sends, receives, then, longest) = match kind {
            Collective::AllReduce if elements <= SMALL => {
                (Sends::Whole, Receives::Sum, None, elements)
            }
            Collective::AllReduce => {
                let share = elements.div_ceil(ranks);
                (Sends::Parts(view(share)), Receives::Sum, Some(view(share)), share)
            }
            // The sizes are before, dim, after.
            Collective::ReduceScatter => {
                let part = view(first / ranks * between);
                (Sends::Parts(part), Receives::Sum, None, elements / ranks)
            }
            // Nothing is sent to take a part of what is there.
            Collective::AllGather | Collective::TakePart => {
                let part = view(first / ranks * between);
                (Sends::Whole, Receives::Parts(part), None, elements / ranks)
            }
            Collective::AllToAll | Collective::AllToAllBack => {
                // A rank has all of one dim and a part of the other: a value of `elements / ranks`.
                let view = |block| View { ranks, block, elements: elements / ranks };
                let inner = view(second / ranks * after);
                let outer = view(first / ranks * between * (second / ranks) * after);
                let there = kind == Collective::AllToAll;
                let (out, into) = if there { (inner, outer) } else { (outer, inner) };
                (Sends::Parts(out), Receives::Parts(into), None, elements / ranks / ranks)
            }
        };
        Moves { sends, receives, then, longest }
    }

    /// Floats that `rank` gets from any other in the first round.
    pub fn sent_to(&self, rank: usize) -> usize {
        match self.sends {
            Sends::Parts(view) => view.len(rank),
            Sends::Whole => self.longest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_view_once() {
        for (ranks, block, elements) in [(3, 4, 36), (3, 5, 13), (4, 1, 3), (2, 7, 14), (1, 6, 6)] {
            let view = View { ranks, block, elements };
            let mut seen = vec![0; elements];
            for rank in 0..ranks {
                let mut at = 0;
                while at < view.len(rank) {
                    let (place, n) = view.stretch(rank, at);
                    let n = n.min(view.len(rank) - at);
                    seen[place..place + n].iter_mut().for_each(|s| *s += 1);
                    at += n;
                }
            }
            assert!(seen.iter().all(|n| *n == 1), "{view:?}: {seen:?}");
        }
    }
}
