//! How the processes of a job find each other: each listens, all learn all addresses, and of two that
//! belong together the higher rank calls.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::RuntimeError;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(3);

/// Where a process can be called.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Address {
    /// Its host, for people.
    pub host: String,
    /// Addresses of its host, the loopback last.
    addresses: Vec<IpAddr>,
    port: u16,
    /// What rank 0 picked at random: a stray listener does not know it.
    word: u64,
}

/// A process that waits to be called.
pub struct Lobby {
    listener: TcpListener,
    /// What the others have to know.
    pub address: Address,
}

fn fail(e: std::io::Error) -> RuntimeError {
    RuntimeError::Link(format!("cannot listen to the other ranks: {e}"))
}

/// Says a word and a rank, and hears those of the other side.
fn greet(stream: &mut TcpStream, word: u64, rank: u64) -> std::io::Result<(u64, u64)> {
    stream.set_read_timeout(Some(CALL))?;
    stream.set_write_timeout(Some(CALL))?;
    stream.write_all(&[word.to_le_bytes(), rank.to_le_bytes()].concat())?;
    let mut heard = [0; 16];
    stream.read_exact(&mut heard)?;
    let number = |at: usize| heard[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    Ok((number(0), number(8)))
}

impl Lobby {
    /// Listens on every one of this host's `addresses`.
    pub fn open(host: String, mut addresses: Vec<IpAddr>) -> Result<Lobby, RuntimeError> {
        // IPv6 sockets of Linux take IPv4 as well; not every host has IPv6.
        let listener = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0"));
        let listener = listener.map_err(fail)?;
        let port = listener.local_addr().map_err(fail)?.port();
        addresses.sort_by_key(|a| (a.is_loopback(), a.is_ipv6()));
        let word = {
            use std::hash::{BuildHasher, Hasher};
            std::collections::hash_map::RandomState::new().build_hasher().finish()
        };
        Ok(Lobby { listener, address: Address { host, addresses, port, word } })
    }

    /// Connects rank `me` with the ranks of `peers`; `all` has every rank's address.
    pub fn meet(
        self,
        me: u64,
        peers: &[u64],
        all: &[Address],
    ) -> Result<Vec<(u64, TcpStream)>, RuntimeError> {
        let word = all[0].word;
        let callers = peers.iter().filter(|r| **r > me).count();
        // Everybody calls and is called at the same time.
        let deadline = Instant::now() + CALL * 4;
        let listener = self.listener;
        std::thread::scope(|s| {
            let hearing = s.spawn(move || hear(&listener, me, word, callers, deadline));
            let mut found = vec![];
            for rank in peers.iter().copied().filter(|r| *r < me) {
                found.push((rank, call(me, rank, word, &all[me as usize], &all[rank as usize])?));
            }
            let gone = || RuntimeError::Link("the thread that listens has ended".into());
            let heard = hearing.join().map_err(|_| gone())??;
            let missing = peers.iter().find(|r| **r > me && heard.iter().all(|(h, _)| h != *r));
            if let Some(r) = missing {
                let host = &all[*r as usize].host;
                let what = format!("rank {r} on {host} did not reach rank {me} over TCP");
                return Err(RuntimeError::Link(what));
            }
            found.extend(heard);
            Ok(found)
        })
    }
}

/// Receives the calls of `callers` ranks.
fn hear(
    listener: &TcpListener,
    me: u64,
    word: u64,
    callers: usize,
    deadline: Instant,
) -> Result<Vec<(u64, TcpStream)>, RuntimeError> {
    listener.set_nonblocking(true).map_err(fail)?;
    let mut heard: Vec<(u64, TcpStream)> = vec![];
    while heard.len() < callers && Instant::now() < deadline {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nonblocking(false).map_err(fail)?;
                // A stray caller is left alone.
                if let Ok((said, rank)) = greet(&mut stream, word, me)
                    && said == word
                {
                    heard.push((rank, stream));
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(fail(e)),
        }
    }
    Ok(heard)
}

/// Calls `rank` at one address after the other.
fn call(
    me: u64,
    rank: u64,
    word: u64,
    mine: &Address,
    theirs: &Address,
) -> Result<TcpStream, RuntimeError> {
    let mut addresses = theirs.addresses.clone();
    if mine.host == theirs.host {
        addresses.reverse();
    } else {
        addresses.retain(|a| !a.is_loopback());
    }
    let mut tried = String::new();
    for a in addresses {
        let done = TcpStream::connect_timeout(&SocketAddr::new(a, theirs.port), CALL)
            .and_then(|mut stream| greet(&mut stream, word, me).map(|heard| (stream, heard)));
        match done {
            Ok((stream, heard)) if heard == (word, rank) => return Ok(stream),
            Ok(_) => tried += &format!("; {a}: somebody else"),
            Err(e) => tried += &format!("; {a}: {e}"),
        }
    }
    let host = &theirs.host;
    Err(RuntimeError::Link(format!(
        "rank {me} does not reach rank {rank} on {host} over TCP{tried}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_find_each_other_past_strangers() {
        let here = || vec!["127.0.0.1".parse().unwrap()];
        let lobbies: Vec<Lobby> =
            (0..4).map(|_| Lobby::open("h".into(), here()).unwrap()).collect();
        let all: Vec<Address> = lobbies.iter().map(|l| l.address.clone()).collect();
        // Somebody who knows nothing calls first.
        let mut stray = TcpStream::connect(("127.0.0.1", all[0].port)).unwrap();
        stray.write_all(&[7; 16]).unwrap();
        std::thread::scope(|s| {
            for (me, lobby) in lobbies.into_iter().enumerate() {
                let (me, all) = (me as u64, &all);
                s.spawn(move || {
                    let peers: Vec<u64> = (0..4).filter(|r| *r != me).collect();
                    let mut found = lobby.meet(me, &peers, all).unwrap();
                    found.sort_by_key(|(r, _)| *r);
                    assert_eq!(found.iter().map(|(r, _)| *r).collect::<Vec<_>>(), peers);
                });
            }
        });
    }
}
