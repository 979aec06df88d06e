//! NumPy's legacy generator: MT19937 (Matsumoto & Nishimura 1998) seeded with one integer, and its
//! `shuffle`. Sample order depends on every bit of it.

const N: usize = 624;
const M: usize = 397;

/// `numpy.random.RandomState(seed)`.
pub struct RandomState {
    state: [u32; N],
    at: usize,
}

impl RandomState {
    /// Seeds as `RandomState(seed)` does for an integer.
    pub fn new(seed: u32) -> Self {
        let mut state = [0u32; N];
        state[0] = seed;
        for i in 1..N {
            let x = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(x ^ (x >> 30)).wrapping_add(i as u32);
        }
        Self { state, at: N }
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let mut x = self.state[(i + M) % N] ^ (y >> 1);
            if y & 1 != 0 {
                x ^= 0x9908_b0df;
            }
            self.state[i] = x;
        }
        self.at = 0;
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.at == N {
            self.refill();
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// A number in `0..=max` by masked rejection.
    fn interval(&mut self, max: u64) -> u64 {
        if max == 0 {
            return 0;
        }
        let mask = u64::MAX >> max.leading_zeros();
        loop {
            let bits = if max <= u64::from(u32::MAX) {
                u64::from(self.next_u32())
            } else {
                (u64::from(self.next_u32()) << 32) | u64::from(self.next_u32())
            };
            if bits & mask <= max {
                return bits & mask;
            }
        }
    }

    /// `RandomState.shuffle` of a one-dimensional array.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.interval(i as u64) as usize;
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for seed 5489 are in the algorithm's publication (mt19937ar.out uses
    /// another seeding; these are its single-seed ones).
    #[test]
    fn known_outputs() {
        let mut r = RandomState::new(5489);
        let first: Vec<u32> = (0..5).map(|_| r.next_u32()).collect();
        assert_eq!(first, [3_499_211_612, 581_869_302, 3_890_346_734, 3_586_334_585, 545_404_204]);
    }
}
