//! The hash of everything in a checkpoint: XXH3 with 128 bits, which finds damage as fast as memory is read. It is no
//! protection against forgery: who can change a checkpoint can also seal it again.
//!
//! What is longer than a piece has the hash of its pieces' hashes, so that two cores can share the work: one alone would
//! hold up the other, which trains beside it.

use std::thread;

use twox_hash::xxhash3_128::Hasher;

/// Bytes of a piece; part of the format.
const PIECE: usize = 4 << 20;

/// A hash under way.
pub struct Hash {
    /// Of the piece under way, and its bytes so far.
    piece: Hasher,
    filled: usize,
    /// Hashes of the pieces before, one behind the other.
    before: Vec<u8>,
}

/// The hashes of whole pieces, one behind the other.
fn of_pieces(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(PIECE).flat_map(|piece| Hasher::oneshot(piece).to_be_bytes()).collect()
}

impl Hash {
    /// Of nothing yet.
    #[allow(clippy::new_without_default)] // there is no use for one that is made without being asked for
    pub fn new() -> Hash {
        Hash { piece: Hasher::new(), filled: 0, before: vec![] }
    }

    /// Goes on with `bytes`; of many, another thread takes half.
    pub fn add(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(PIECE - self.filled));
        // The last piece stays under way, even if it is whole.
        let (whole, last) = rest.split_at(rest.len().saturating_sub(1) / PIECE * PIECE);
        let (own, other) = whole.split_at(whole.len() / PIECE / 2 * PIECE);
        let (own, other) = thread::scope(|s| {
            let helper = (!own.is_empty()).then(|| {
                thread::Builder::new().name("hash".into()).spawn_scoped(s, || of_pieces(other))
            });
            self.piece.write(head);
            self.filled += head.len();
            let own = of_pieces(own);
            let helped = match helper {
                Some(Ok(helper)) => helper.join().ok(),
                _ => None,
            };
            // Where no thread can be had, this one does it all.
            (own, helped.unwrap_or_else(|| of_pieces(other)))
        });
        if rest.is_empty() {
            return;
        }
        self.before.extend(self.piece.finish_128().to_be_bytes());
        self.before.extend([own, other].concat());
        self.piece = Hasher::new();
        self.piece.write(last);
        self.filled = last.len();
    }

    /// What stands in a manifest: 32 digits, lower-case hexadecimal.
    pub fn text(mut self) -> String {
        let last = self.piece.finish_128();
        if self.before.is_empty() {
            return format!("{last:032x}");
        }
        self.before.extend(last.to_be_bytes());
        format!("{:032x}", Hasher::oneshot(&self.before))
    }
}

/// The hash of `bytes` as it stands in a manifest.
pub fn hash(bytes: &[u8]) -> String {
    let mut hash = Hash::new();
    hash.add(bytes);
    hash.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checkpoints outlive builds and machines: the hash is the published one of a piece, and that of the pieces' hashes,
    /// however the bytes come.
    #[test]
    fn the_hash_is_xxh3() {
        assert_eq!(hash(b""), "99aa06d3014798d86001c324468d497f");
        let bytes: Vec<u8> = (0..5 * PIECE as u64 + 3).map(|n| ((n * n) >> 7) as u8).collect();
        let sizes = [1, 17, 240, 241, 1024, 200_000, PIECE, PIECE + 1, 3 * PIECE, bytes.len()];
        for bytes in sizes.into_iter().map(|size| &bytes[..size]) {
            let want = match bytes.chunks(PIECE).map(Hasher::oneshot).collect::<Vec<_>>()[..] {
                [one] => one,
                ref all => {
                    Hasher::oneshot(&all.iter().flat_map(|h| h.to_be_bytes()).collect::<Vec<_>>())
                }
            };
            let parts = if bytes.len() < PIECE { [97, 70_000] } else { [PIECE - 1, 3 * PIECE] };
            for part in [parts[0], parts[1], bytes.len()] {
                let mut parts = Hash::new();
                bytes.chunks(part).for_each(|part| parts.add(part));
                let (size, want) = (bytes.len(), format!("{want:032x}"));
                assert_eq!(parts.text(), want, "{size} bytes, {part} at a time");
            }
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
