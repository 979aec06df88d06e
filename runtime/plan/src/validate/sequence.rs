//! Sequences of collectives with loops in them, compared without unrolling.
//!
//! A sequence has a length and a hash; those of two sequences behind each other, or of one so many times, follow
//! from those of the parts. So two sequences are equal if both agree, however their loops are nested (up to a
//! chance of about length / 2^61), and the first difference is found by comparing prefixes.

/// 2^61 − 1, a prime.
const PRIME: u128 = (1 << 61) - 1;

/// Any number below the prime that is not small.
const BASE: u64 = 0x1234_5678_9ABC_DEF1;

/// Length and hash of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    length: u64,
    hash: u64,
    /// The base to the power of the length.
    power: u64,
}

fn times(a: u64, b: u64) -> u64 {
    (u128::from(a) * u128::from(b) % PRIME) as u64
}

impl Sum {
    const EMPTY: Sum = Sum { length: 0, hash: 0, power: 1 };

    fn then(self, next: Sum) -> Option<Sum> {
        let hash = (u128::from(times(self.hash, next.power)) + u128::from(next.hash)) % PRIME;
        Some(Sum {
            length: self.length.checked_add(next.length)?,
            hash: hash as u64,
            power: times(self.power, next.power),
        })
    }

    /// This sequence so many times.
    fn repeated(self, mut n: u64) -> Option<Sum> {
        let (mut out, mut doubled) = (Sum::EMPTY, self);
        self.length.checked_mul(n)?;
        while n > 0 {
            if n & 1 == 1 {
                out = out.then(doubled)?;
            }
            n >>= 1;
            if n > 0 {
                doubled = doubled.then(doubled)?;
            }
        }
        Some(out)
    }
}

/// Items of type `T` in a row, some of them in loops. Items are equal if their keys are.
#[derive(Debug, Clone)]
pub struct Sequence<T> {
    parts: Vec<Part<T>>,
    sum: Sum,
}

#[derive(Debug, Clone)]
enum Part<T> {
    One(T, Sum),
    Loop(Sequence<T>, Sum),
}

impl<T> Default for Sequence<T> {
    fn default() -> Self {
        Self { parts: vec![], sum: Sum::EMPTY }
    }
}

impl<T> Sequence<T> {
    /// Number of items; loops multiplied out.
    pub fn len(&self) -> u64 {
        self.sum.length
    }

    /// Adds an item with a key. Nothing if the sequence becomes impossibly long.
    pub fn push(&mut self, item: T, key: u64) -> Option<()> {
        let hash = (u128::from(key) % (PRIME - 1)) as u64 + 1;
        let sum = Sum { length: 1, hash, power: BASE };
        self.sum = self.sum.then(sum)?;
        self.parts.push(Part::One(item, sum));
        Some(())
    }

    /// Adds another sequence so many times. Nothing if the sequence becomes impossibly long.
    pub fn repeat(&mut self, n: u64, body: Sequence<T>) -> Option<()> {
        if body.parts.is_empty() || n == 0 {
            return Some(());
        }
        let sum = body.sum.repeated(n)?;
        self.sum = self.sum.then(sum)?;
        self.parts.push(Part::Loop(body, sum));
        Some(())
    }

    /// Item `n`.
    pub fn get(&self, mut n: u64) -> Option<&T> {
        for part in &self.parts {
            let (Part::One(_, sum) | Part::Loop(_, sum)) = part;
            if n < sum.length {
                return match part {
                    Part::One(item, _) => Some(item),
                    Part::Loop(body, _) => body.get(n % body.len()),
                };
            }
            n -= sum.length;
        }
        None
    }

    /// Of the first `n` items.
    fn prefix(&self, mut n: u64) -> Option<Sum> {
        let mut out = Sum::EMPTY;
        for part in &self.parts {
            let (Part::One(_, sum) | Part::Loop(_, sum)) = part;
            if n >= sum.length {
                out = out.then(*sum)?;
                n -= sum.length;
                continue;
            }
            if let Part::Loop(body, _) = part {
                out = out.then(body.sum.repeated(n / body.len())?)?;
                out = out.then(body.prefix(n % body.len())?)?;
            }
            break;
        }
        Some(out)
    }

    /// The number of the first item that differs; nothing if the sequences are equal.
    pub fn first_difference(&self, other: &Sequence<T>) -> Option<u64> {
        if self.sum == other.sum {
            return None;
        }
        let (mut same, mut differ) = (0, self.len().min(other.len()));
        if self.prefix(differ) == other.prefix(differ) {
            return Some(differ);
        }
        while differ - same > 1 {
            let middle = same + (differ - same) / 2;
            match self.prefix(middle) == other.prefix(middle) {
                true => same = middle,
                false => differ = middle,
            }
        }
        Some(same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % n
        }
    }

    /// A random nest of loops, and its items one by one.
    fn random(r: &mut Random, depth: u64) -> (Sequence<u64>, Vec<u64>) {
        let (mut nest, mut flat) = (Sequence::default(), vec![]);
        for _ in 0..r.below(4) {
            if depth > 0 && r.below(2) == 0 {
                let (n, (body, items)) = (r.below(4), random(r, depth - 1));
                (0..n).for_each(|_| flat.extend(&items));
                nest.repeat(n, body).unwrap();
            } else {
                let item = r.below(2);
                flat.push(item);
                nest.push(item, item).unwrap();
            }
        }
        (nest, flat)
    }

    #[test]
    fn the_first_difference_is_that_of_the_unrolled_ones() {
        let mut r = Random(3);
        let (mut equal, mut different) = (0, 0);
        for _ in 0..20_000 {
            let ((a, x), (b, y)) = (random(&mut r, 3), random(&mut r, 3));
            assert_eq!(a.len(), x.len() as u64);
            assert!((0..a.len()).all(|n| a.get(n) == Some(&x[n as usize])));
            let n = x.iter().zip(&y).take_while(|(a, b)| a == b).count() as u64;
            let want = (x != y).then_some(n);
            assert_eq!(a.first_difference(&b), want, "{x:?} {y:?}");
            *(if x == y { &mut equal } else { &mut different }) += 1;
        }
        assert!(equal > 100 && different > 1000, "{equal} {different}");
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        let mut inner = Sequence::default();
        inner.push(0, 0).unwrap();
        let mut outer = Sequence::default();
        outer.repeat(1 << 40, inner).unwrap();
        assert_eq!(outer.get((1 << 40) - 1), Some(&0));
        let mut all = Sequence::default();
        assert_eq!(all.repeat(1 << 40, outer), None);
    }
}
