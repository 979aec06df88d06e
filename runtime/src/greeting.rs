//! How two processes of a job prove to each other that they belong to it, before either says anything else.
//!
//! ```text
//! caller → "neoxc1\0\0", its rank, the other's rank, 16 random bytes, proof of these
//! heard  → 16 random bytes, proof of all so far
//! caller → proof of all so far
//! heard  → one byte: it takes the call
//! ```
//! A proof is an HMAC-SHA-256 (RFC 2104) over the job's secret, of the step's name, both ranks with the names of their hosts,
//! and both sides' random bytes. Who does not know the secret gets no byte; who repeats what it has overheard gets a
//! question that it cannot answer. The secret itself is never sent.
//!
//! Invariant: nothing here waits or reads from a connection, so that it can be tried with any bytes.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"neoxc1\0\0";
const NONCE: usize = 16;
const PROOF: usize = 32;
/// Bytes of the caller's first words, of the answer to them, and of the byte that ends it.
pub const HELLO: usize = 8 + 8 + 8 + NONCE + PROOF;
/// Bytes of the answer.
pub const ANSWER: usize = NONCE + PROOF;
/// Bytes of the caller's last words.
pub const LAST: usize = PROOF;
/// The byte that ends it.
pub const TAKEN: u8 = 0x06;

/// What only processes of the job know.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a secret")
    }
}

impl Secret {
    /// The secret that follows from what the processes have told each other, and from what their launcher gave each.
    pub fn of(parts: &[&[u8]]) -> Secret {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Secret(hash.finalize().into())
    }
}

/// Two processes that may belong together: rank and host of the caller and of the one that hears it.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// Of the caller.
    pub caller: (u64, &'a str),
    /// Of the other.
    pub heard: (u64, &'a str),
}

fn mac(secret: &Secret, step: &str, pair: &Pair, nonces: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("keys may have any length");
    mac.update(step.as_bytes());
    for (rank, host) in [pair.caller, pair.heard] {
        mac.update(&rank.to_le_bytes());
        mac.update(&(host.len() as u64).to_le_bytes());
        mac.update(host.as_bytes());
    }
    nonces.iter().for_each(|n| mac.update(n));
    mac
}

fn proof(secret: &Secret, step: &str, pair: &Pair, nonces: &[&[u8]]) -> [u8; PROOF] {
    mac(secret, step, pair, nonces).finalize().into_bytes().into()
}

/// Compares in a time that does not depend on where they differ.
fn proves(secret: &Secret, step: &str, pair: &Pair, nonces: &[&[u8]], said: &[u8]) -> bool {
    mac(secret, step, pair, nonces).verify_slice(said).is_ok()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// The caller's side.
#[derive(Debug)]
pub struct Caller<'a> {
    secret: &'a Secret,
    pair: Pair<'a>,
    nonce: [u8; NONCE],
}

impl<'a> Caller<'a> {
    /// A call with random bytes of its own.
    pub fn new(secret: &'a Secret, pair: Pair<'a>, nonce: [u8; NONCE]) -> Self {
        Caller { secret, pair, nonce }
    }

    /// Its first words: [`HELLO`] bytes.
    pub fn hello(&self) -> Vec<u8> {
        let proof = proof(self.secret, "hello", &self.pair, &[&self.nonce]);
        let ranks = [self.pair.caller.0, self.pair.heard.0].map(u64::to_le_bytes);
        [&MAGIC[..], &ranks[0], &ranks[1], &self.nonce, &proof].concat()
    }

    /// Its last words to an answer of [`ANSWER`] bytes; none if that proves nothing.
    pub fn last(&self, answer: &[u8]) -> Option<[u8; LAST]> {
        let (theirs, said) = answer.split_at_checked(NONCE)?;
        let nonces = [&self.nonce[..], theirs];
        proves(self.secret, "answer", &self.pair, &nonces, said)
            .then(|| proof(self.secret, "last", &self.pair, &nonces))
    }
}

/// The side of a process that was called: what a connection has said so far.
#[derive(Debug)]
pub struct Heard {
    nonce: [u8; NONCE],
    /// The caller's rank and random bytes, once it has begun well.
    caller: Option<(u64, [u8; NONCE])>,
}

/// What to do about what a caller has said.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Say this, and go on listening.
    Say(Vec<u8>),
    /// It is this rank: say [`TAKEN`].
    Take(u64),
    /// Hang up, and say nothing.
    Refuse,
}

impl Heard {
    /// A connection that has said nothing yet; `nonce` are random bytes of its own.
    pub fn new(nonce: [u8; NONCE]) -> Heard {
        Heard { nonce, caller: None }
    }

    /// How many bytes it has to say next.
    pub fn wants(&self) -> usize {
        if self.caller.is_none() { HELLO } else { LAST }
    }

    /// What to do about its next [`Heard::wants`] bytes. `me` is the rank that is called, `hosts` are those of all ranks, and
    /// `expected` says which ranks may call.
    pub fn reply(
        &mut self,
        said: &[u8],
        secret: &Secret,
        me: u64,
        hosts: &[&str],
        expected: &dyn Fn(u64) -> bool,
    ) -> Reply {
        if said.len() != self.wants() {
            return Reply::Refuse;
        }
        let pair = |rank: u64| {
            let host = |rank: u64| usize::try_from(rank).ok().and_then(|r| hosts.get(r).copied());
            Some(Pair { caller: (rank, host(rank)?), heard: (me, host(me)?) })
        };
        if let Some((rank, theirs)) = &self.caller {
            let nonces = [&theirs[..], &self.nonce];
            return match pair(*rank) {
                Some(p) if proves(secret, "last", &p, &nonces, said) => Reply::Take(*rank),
                _ => Reply::Refuse,
            };
        }
        let (magic, rest) = said.split_at(8);
        let (rank, to) = (number(rest), number(&rest[8..]));
        let (nonce, said) = rest[16..].split_at(NONCE);
        let known = magic == MAGIC && to == me && expected(rank);
        let Some(p) = pair(rank).filter(|p| known && proves(secret, "hello", p, &[nonce], said))
        else {
            return Reply::Refuse;
        };
        let mut theirs = [0; NONCE];
        theirs.copy_from_slice(nonce);
        self.caller = Some((rank, theirs));
        let proof = proof(secret, "answer", &p, &[nonce, &self.nonce]);
        Reply::Say([&self.nonce[..], &proof].concat())
    }
}

/// Random bytes of the system.
///
/// # Errors
/// It gives none.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut out = [0; N];
    let mut done = 0;
    while done < N {
        // SAFETY: the rest of the array can be written.
        let n = unsafe { libc::getrandom(out[done..].as_mut_ptr().cast(), N - done, 0) };
        match n {
            n if n > 0 => done += n as usize,
            _ => {
                let e = std::io::Error::last_os_error();
                if e.kind() != std::io::ErrorKind::Interrupted {
                    return Err(e);
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2, through the crate that is used.
    #[test]
    fn proofs_are_rfc_4231_s() {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        mac.update(b"what do ya want for nothing?");
        let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn only_who_knows_the_secret_is_taken_and_nobody_else_hears_anything() {
        let (secret, other) = (Secret::of(&[b"a", b"b"]), Secret::of(&[b"ab"]));
        let hosts = ["h0", "h1", "h2"];
        let pair = Pair { caller: (2, "h2"), heard: (1, "h1") };
        let expected = |rank: u64| rank == 2;
        let hear = |h: &mut Heard, said: &[u8]| h.reply(said, &secret, 1, &hosts, &expected);
        let call = |pair, secret| Caller::new(secret, pair, [3; NONCE]);
        let good = call(pair, &secret);
        let mut h = Heard::new([9; NONCE]);
        let Reply::Say(answer) = hear(&mut h, &good.hello()) else { panic!("it is known") };
        let last = good.last(&answer).unwrap();
        assert_eq!(hear(&mut h, &last), Reply::Take(2));
        // Overheard and said again: the question is another one.
        let mut again = Heard::new([8; NONCE]);
        let Reply::Say(other_answer) = hear(&mut again, &good.hello()) else {
            panic!("it is known")
        };
        assert_ne!(other_answer, answer);
        assert_eq!(hear(&mut again, &last), Reply::Refuse);
        // Another secret, another host, a rank that does not call this one, another rank that is meant.
        for wrong in [
            call(pair, &other).hello(),
            call(Pair { caller: (2, "x"), ..pair }, &secret).hello(),
            call(Pair { caller: (0, "h0"), ..pair }, &secret).hello(),
            call(Pair { caller: (7, "h7"), ..pair }, &secret).hello(),
            call(Pair { heard: (0, "h0"), ..pair }, &secret).hello(),
            vec![0; HELLO],
            vec![],
        ] {
            assert_eq!(hear(&mut Heard::new([9; NONCE]), &wrong), Reply::Refuse);
        }
        // Every bit counts.
        for bit in 0..HELLO * 8 {
            let mut said = good.hello();
            said[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(hear(&mut Heard::new([9; NONCE]), &said), Reply::Refuse, "{bit}");
        }
        // Who poses as the one that is called learns a proof, but cannot answer.
        assert_eq!(good.last(&[0; ANSWER]), None);
        assert_eq!(good.last(&[]), None);
        assert_eq!(call(pair, &other).last(&answer), None);
    }
}
