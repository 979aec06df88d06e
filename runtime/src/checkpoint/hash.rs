//! The hash of everything in a checkpoint: XXH3 with 128 bits, which finds damage as fast as memory is read. It is no
//! protection against forgery: who can change a checkpoint can also seal it again.

use twox_hash::xxhash3_128::Hasher;

/// A hash under way.
pub struct Hash(Hasher);

impl Hash {
    /// Of nothing yet.
    #[allow(clippy::new_without_default)] // there is no use for one that is made without being asked for
    pub fn new() -> Hash {
        Hash(Hasher::new())
    }

    /// Goes on with `bytes`.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// What stands in a manifest: 32 digits, lower-case hexadecimal.
    pub fn text(&self) -> String {
        format!("{:032x}", self.0.finish_128())
    }
}

/// The hash of `bytes` as it stands in a manifest.
pub fn hash(bytes: &[u8]) -> String {
    format!("{:032x}", Hasher::oneshot(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checkpoints outlive builds and machines: the hash is the published one, whole or in parts.
    #[test]
    fn the_hash_is_xxh3() {
        assert_eq!(hash(b""), "99aa06d3014798d86001c324468d497f");
        let bytes: Vec<u8> = (0..200_000u64).map(|n| ((n * n) >> 7) as u8).collect();
        for size in [1, 17, 240, 241, 1024, 200_000] {
            let mut parts = Hash::new();
            bytes[..size].chunks(97).for_each(|part| parts.add(part));
            assert_eq!(parts.text(), hash(&bytes[..size]));
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut bytes = vec![0; 3000];
        let whole = hash(&bytes);
        for bit in (0..8 * bytes.len()).step_by(7) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(hash(&bytes), whole);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
