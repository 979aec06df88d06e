//! How the processes of a job find each other: each listens, all learn all addresses, and of two that
//! belong together the higher rank calls. What they say is in [`crate::greeting`].
//!
//! Callers are heard beside each other, a bounded number of them for a bounded time, so that a stranger who says nothing
//! keeps nobody from being heard. A caller whose line was cut calls again.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::RuntimeError;
use crate::greeting::{ANSWER, Caller, HELLO, Heard, Pair, Reply, Secret, TAKEN, random};

/// How long a call may take.
const CALL: Duration = Duration::from_secs(3);

/// How long processes look for each other.
const MEETING: Duration = Duration::from_secs(12);

/// Callers beyond those expected that are heard at a time; of more, the one that came first has to call again.
const STRANGERS: usize = 64;

/// Time between looks at the callers.
const LOOK: Duration = Duration::from_millis(2);

/// Where a process can be called.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Address {
    /// Its host, for people and for proofs.
    pub host: String,
    /// Where it listens, the loopback last.
    at: Vec<SocketAddr>,
    /// Random bytes, of which rank 0's are a part of the job's secret.
    salt: [u8; 32],
}

/// A process that waits to be called.
pub struct Lobby {
    listeners: Vec<TcpListener>,
    /// What the others have to know.
    pub address: Address,
}

fn fail(e: std::io::Error) -> RuntimeError {
    RuntimeError::Link(format!("cannot listen to the other ranks: {e}"))
}

/// What the launcher gave each process of the job and no other: the key that OpenMPI makes for a job, or what the
/// environment or a file says.
///
/// # Errors
/// The file cannot be read, or others than its owner may.
pub fn launchers_secret() -> Result<Vec<u8>, RuntimeError> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(path) = std::env::var_os("NEOXC_SECRET_FILE") {
        let path = std::path::PathBuf::from(path);
        let file = neoxc_base::read::open(&path).and_then(|f| f.metadata());
        let mode = file.map_err(RuntimeError::io("open", &path))?.permissions().mode();
        if mode & 0o077 != 0 {
            let what = format!(
                "{}: others than its owner may use it (mode {:03o}); `chmod 600`",
                path.display(),
                mode & 0o777
            );
            return Err(RuntimeError::Settings(format!("NEOXC_SECRET_FILE: {what}")));
        }
        return neoxc_base::read::bytes(&path, 1 << 16).map_err(RuntimeError::io("read", &path));
    }
    let names = ["NEOXC_SECRET", "OMPI_MCA_orte_precondition_transports"];
    Ok(names.iter().find_map(std::env::var_os).map(|s| s.into_encoded_bytes()).unwrap_or_default())
}

/// The addresses of this host on which a job listens: those of the networks in `include` (names of interfaces, or
/// `10.0.0.0/24`, with commas, as OpenMPI's `btl_tcp_if_include` has them), or all; the loopback's only, where all ranks
/// are `alone` on this host.
pub fn addresses(of: &[(String, IpAddr)], include: Option<&str>, alone: bool) -> Vec<IpAddr> {
    let within = |ip: IpAddr, item: &str| {
        let (IpAddr::V4(ip), Some((net, bits))) = (ip, item.split_once('/')) else { return false };
        let (Ok(net), Ok(bits)) = (net.parse::<std::net::Ipv4Addr>(), bits.parse::<u32>()) else {
            return false;
        };
        let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
        u32::from(ip) & mask == u32::from(net) & mask
    };
    let meant = |(name, ip): &&(String, IpAddr)| match include {
        _ if alone => ip.is_loopback(),
        None => true,
        Some(list) => list.split(',').map(str::trim).any(|i| i == name.as_str() || within(*ip, i)),
    };
    let mut out: Vec<IpAddr> = of.iter().filter(meant).map(|(_, ip)| *ip).collect();
    if alone && out.is_empty() {
        return addresses(of, include, false);
    }
    out.sort_by_key(|a| (a.is_loopback(), a.is_ipv6()));
    out
}

impl Lobby {
    /// Listens on these addresses of this host, and no others.
    pub fn open(host: String, addresses: &[IpAddr]) -> Result<Lobby, RuntimeError> {
        let mut last = std::io::Error::from(ErrorKind::AddrNotAvailable);
        let mut listeners = vec![];
        for a in addresses {
            match TcpListener::bind((*a, 0)) {
                Ok(listener) => listeners.push(listener),
                // An address that is only of its link, or one of a protocol that is switched off.
                Err(e) => last = e,
            }
        }
        if listeners.is_empty() {
            return Err(fail(last));
        }
        let at = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>();
        let (at, salt) = (at.map_err(fail)?, random().map_err(fail)?);
        Ok(Lobby { listeners, address: Address { host, at, salt } })
    }

    /// Connects rank `me` with the ranks of `peers`; `all` has every rank's address, and `given` is what the launcher gave
    /// to all of them.
    pub fn meet(
        self,
        me: u64,
        peers: &[u64],
        all: &[Address],
        given: &[u8],
    ) -> Result<Vec<(u64, TcpStream)>, RuntimeError> {
        let secret = Secret::of(&[&all[0].salt, given]);
        let hosts: Vec<&str> = all.iter().map(|a| a.host.as_str()).collect();
        let callers: Vec<u64> = peers.iter().copied().filter(|r| *r > me).collect();
        // Everybody calls and is called at the same time.
        let deadline = Instant::now() + MEETING;
        let (listeners, secret, hosts) = (self.listeners, &secret, &hosts[..]);
        std::thread::scope(|s| {
            let hearing = s.spawn(|| {
                Hearing { secret, me, hosts, callers: &callers }.hear(&listeners, deadline)
            });
            let mut found = vec![];
            for rank in peers.iter().copied().filter(|r| *r < me) {
                let pair =
                    Pair { caller: (me, hosts[me as usize]), heard: (rank, hosts[rank as usize]) };
                found.push((rank, call(secret, pair, &all[rank as usize], deadline)?));
            }
            let gone = || RuntimeError::Link("the thread that listens has ended".into());
            let heard = hearing.join().map_err(|_| gone())??;
            let missing = callers.iter().find(|r| heard.iter().all(|(h, _)| h != *r));
            if let Some(r) = missing {
                let host = hosts[*r as usize];
                let what = format!("rank {r} on {host} did not reach rank {me} over TCP");
                return Err(RuntimeError::Link(what));
            }
            found.extend(heard);
            Ok(found)
        })
    }
}

/// A connection that has not proved anything yet.
struct Line {
    stream: TcpStream,
    since: Instant,
    heard: Heard,
    said: Vec<u8>,
}

/// How a look at a line ended.
enum Look {
    Waits,
    Takes(u64),
    Over,
}

/// What a process that is called knows.
struct Hearing<'a> {
    secret: &'a Secret,
    me: u64,
    hosts: &'a [&'a str],
    callers: &'a [u64],
}

impl Hearing<'_> {
    /// Receives the calls of all callers, each once; of two of one rank the later counts, as it has called again.
    fn hear(
        &self,
        listeners: &[TcpListener],
        deadline: Instant,
    ) -> Result<Vec<(u64, TcpStream)>, RuntimeError> {
        listeners.iter().try_for_each(|l| l.set_nonblocking(true)).map_err(fail)?;
        let most = self.callers.len() + STRANGERS;
        let mut lines: Vec<Line> = vec![];
        let mut taken: Vec<(u64, TcpStream)> = vec![];
        while taken.len() < self.callers.len() && Instant::now() < deadline {
            for listener in listeners {
                // A few at a time: those that came before are to be looked at as well.
                for _ in 0..16 {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            let nonce = random().map_err(fail)?;
                            if stream.set_nonblocking(true).is_ok() {
                                let (since, heard) = (Instant::now(), Heard::new(nonce));
                                lines.push(Line { stream, since, heard, said: vec![] });
                            }
                        }
                        // Also one that hung up before it was looked at, and too many open files: there will be room.
                        Err(_) => break,
                    }
                }
            }
            let surplus = lines.len().saturating_sub(most);
            lines.drain(..surplus);
            let mut open = vec![];
            for mut line in lines {
                match self.look(&mut line) {
                    Look::Waits if line.since.elapsed() < CALL => open.push(line),
                    Look::Takes(rank) => {
                        let done = line.stream.set_nonblocking(false);
                        if done.and_then(|()| line.stream.write_all(&[TAKEN])).is_ok() {
                            taken.retain(|(r, _)| *r != rank);
                            taken.push((rank, line.stream));
                        }
                    }
                    Look::Waits | Look::Over => {}
                }
            }
            lines = open;
            std::thread::sleep(LOOK);
        }
        Ok(taken)
    }

    fn look(&self, line: &mut Line) -> Look {
        loop {
            let wants = line.heard.wants();
            let mut bytes = [0; HELLO];
            let room = wants - line.said.len();
            match line.stream.read(&mut bytes[..room]) {
                Ok(0) => return Look::Over,
                Ok(n) => line.said.extend_from_slice(&bytes[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Look::Waits,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Look::Over,
            }
            if line.said.len() < wants {
                continue;
            }
            let said = std::mem::take(&mut line.said);
            let expected = |rank: u64| self.callers.contains(&rank);
            match line.heard.reply(&said, self.secret, self.me, self.hosts, &expected) {
                // A few bytes into an empty buffer: they fit, or the line is over.
                Reply::Say(words) => match line.stream.write(&words) {
                    Ok(n) if n == words.len() => {}
                    _ => return Look::Over,
                },
                Reply::Take(rank) => return Look::Takes(rank),
                Reply::Refuse => return Look::Over,
            }
        }
    }
}

/// Calls a rank at one address after the other, again until the deadline.
fn call(
    secret: &Secret,
    pair: Pair,
    theirs: &Address,
    deadline: Instant,
) -> Result<TcpStream, RuntimeError> {
    let mut addresses = theirs.at.clone();
    if pair.caller.1 == pair.heard.1 {
        addresses.reverse();
    } else {
        addresses.retain(|a| !a.ip().is_loopback());
    }
    loop {
        let mut tried = String::new();
        for a in &addresses {
            match dial(secret, pair, a) {
                Ok(stream) => return Ok(stream),
                Err(e) => tried += &format!("; {a}: {e}"),
            }
        }
        if Instant::now() > deadline || addresses.is_empty() {
            let ((me, _), (rank, host)) = (pair.caller, pair.heard);
            return Err(RuntimeError::Link(format!(
                "rank {me} does not reach rank {rank} on {host} over TCP{tried}"
            )));
        }
        std::thread::sleep(LOOK * 10);
    }
}

/// One call.
fn dial(secret: &Secret, pair: Pair, at: &SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(at, CALL)?;
    stream.set_read_timeout(Some(CALL))?;
    stream.set_write_timeout(Some(CALL))?;
    let caller = Caller::new(secret, pair, random()?);
    stream.write_all(&caller.hello())?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer)?;
    let stranger = || std::io::Error::other("somebody else answers");
    stream.write_all(&caller.last(&answer).ok_or_else(stranger)?)?;
    let mut end = [0];
    stream.read_exact(&mut end)?;
    (end == [TAKEN]).then_some(()).ok_or_else(stranger)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}

#[cfg(test)]
mod tests;
