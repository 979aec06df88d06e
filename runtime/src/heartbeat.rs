//! Signs of life between the processes of a job, over TCP connections of its own: a library for messages
//! notices neither a stopped process nor a cut link.
//!
//! A process is connected to rank 0's and to all that it makes collectives with. On every connection both sides
//! say several times per timeout that they are there. A connection that closes without a farewell means
//! that the process is gone; one that is silent for the timeout, that it is stopped or cannot be reached.
//! Whoever notices tells all it is connected to, so that everybody blames the rank that was lost and not
//! one that ended because of it.
//!
//! A sign of life is small and may pass where data do not. So it also says for how long its rank has waited for
//! others without anything arriving. Rank 0, who hears all, ends the job when every rank waits: one that computes,
//! however long, does not. Work with files has a deadline in each process (`activity.rs`).
//!
//! Invariant: no call here waits for another process once the connections stand.

mod connect;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use connect::{Address, Lobby, addresses, launchers_secret};

use crate::RuntimeError;
use crate::activity;
use crate::health::{Health, How, Loss};

/// Time between looks at the connections.
const TICK: Duration = Duration::from_millis(20);

/// Signs of life per timeout.
const BEATS: u32 = 8;

// What is said: the kind, the seconds without progress, and of a loss the rank and how it was lost.
const ALIVE: u8 = 0;
const BYE: u8 = 1;
const GONE: u8 = 2;
const SILENT: u8 = 3;
const FAILED: u8 = 4;
const STALLED: u8 = 5;
/// Bytes of a message: kind, a zero, seconds (two), rank (four).
const FRAME: usize = 8;

// What the main thread wants of this one.
const RUN: u8 = 0;
const FAIL: u8 = 1;
const LEAVE: u8 = 2;

/// The connection to another rank.
struct Peer {
    rank: u64,
    stream: TcpStream,
    heard: Instant,
    /// Seconds for which it has waited, as it last said.
    still: u64,
    /// What has come of a message.
    partial: Vec<u8>,
    /// Whether it has said farewell, or is given up.
    over: bool,
}

/// What a look at a connection found.
enum Found {
    Nothing,
    Loss(Loss),
}

impl Peer {
    /// Best effort: a connection that takes nothing is found out by its silence.
    fn say(&mut self, kind: u8, rank: u64) {
        self.say_still(kind, rank, 0);
    }

    fn say_still(&mut self, kind: u8, rank: u64, still: u64) {
        let mut frame = [0; FRAME];
        frame[0] = kind;
        frame[2..4].copy_from_slice(&u16::try_from(still).unwrap_or(u16::MAX).to_le_bytes());
        frame[4..].copy_from_slice(&(rank as u32).to_le_bytes());
        let _ = self.stream.write(&frame);
    }

    fn look(&mut self, timeout: Duration) -> Found {
        let lost = |rank, how| Found::Loss(Loss { rank, how });
        let mut bytes = [0; 64 * FRAME];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.over = true;
                    return lost(self.rank, How::Gone);
                }
                Ok(n) => {
                    self.heard = Instant::now();
                    self.partial.extend_from_slice(&bytes[..n]);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.over = true;
                    return lost(self.rank, How::Gone);
                }
            }
            let whole = self.partial.len() / FRAME * FRAME;
            let frames: Vec<u8> = self.partial.drain(..whole).collect();
            for frame in frames.chunks_exact(FRAME) {
                let rank = u64::from(u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]));
                match frame[0] {
                    ALIVE => self.still = u64::from(u16::from_le_bytes([frame[2], frame[3]])),
                    BYE => {
                        self.over = true;
                        return Found::Nothing;
                    }
                    GONE => return lost(rank, How::Gone),
                    SILENT => return lost(rank, How::Silent(timeout.as_secs())),
                    STALLED => return lost(rank, How::Stalled(timeout.as_secs())),
                    _ => return lost(rank, How::Failed),
                }
            }
        }
        if self.heard.elapsed() > timeout {
            self.over = true;
            return lost(self.rank, How::Silent(timeout.as_secs()));
        }
        Found::Nothing
    }
}

/// The thread that gives and watches signs of life.
pub struct Heartbeat {
    wish: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Watches `peers`; the first loss goes into `health`.
    pub fn start(
        rank: u64,
        peers: Vec<(u64, TcpStream)>,
        timeout: Duration,
        health: Arc<Health>,
    ) -> Result<Heartbeat, RuntimeError> {
        let fail = |e| RuntimeError::Link(format!("cannot watch the other ranks: {e}"));
        let new = |(rank, stream): (u64, TcpStream)| {
            stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).map_err(fail)?;
            let heard = Instant::now();
            Ok(Peer { rank, stream, heard, still: 0, partial: vec![], over: false })
        };
        let peers = peers.into_iter().map(new).collect::<Result<Vec<_>, RuntimeError>>()?;
        let wish = Arc::new(AtomicU8::new(RUN));
        let watched = wish.clone();
        let thread = std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || watch(rank, peers, timeout, &health, &watched))
            .map_err(fail)?;
        Ok(Heartbeat { wish, thread: Some(thread) })
    }

    fn end(&mut self, wish: u8) {
        self.wish.store(wish, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }

    /// Ends because all have ended well.
    pub fn leave(mut self) {
        self.end(LEAVE);
    }
}

impl Drop for Heartbeat {
    /// Ends because this rank has failed, and says so.
    fn drop(&mut self) {
        self.end(FAIL);
    }
}

fn watch(rank: u64, mut peers: Vec<Peer>, timeout: Duration, health: &Health, wish: &AtomicU8) {
    let (mut beat, mut last) = (None::<Instant>, Instant::now());
    let mut told = None;
    loop {
        // Who was stopped itself has heard nobody, and cannot blame others for it.
        if last.elapsed() > timeout / 2 {
            peers.iter_mut().for_each(|p| p.heard = Instant::now());
            activity::forgive();
            health.moved();
        }
        last = Instant::now();
        match wish.load(Ordering::Relaxed) {
            RUN => {}
            LEAVE => return peers.iter_mut().for_each(|p| p.say(BYE, rank)),
            // A loss that others are told of is the reason already.
            _ if told.is_some() => return,
            _ => return peers.iter_mut().for_each(|p| p.say(FAILED, rank)),
        }
        if beat.is_none_or(|b| b.elapsed() > timeout / BEATS) {
            beat = Some(Instant::now());
            let still = health.still();
            peers.iter_mut().for_each(|p| p.say_still(ALIVE, rank, still));
        }
        for p in peers.iter_mut().filter(|p| !p.over) {
            if let Found::Loss(loss) = p.look(timeout) {
                health.lose(loss);
            }
        }
        if rank == 0 && stalled(&peers, health, timeout) {
            health.lose(Loss { rank, how: How::Stalled(timeout.as_secs()) });
        }
        if let Some(what) = activity::overdue(timeout) {
            end_of_patience(rank, &what, timeout, &mut peers);
        }
        if told.is_none()
            && let Some(loss) = health.loss()
        {
            told = Some(Instant::now());
            let kind = match loss.how {
                How::Gone => GONE,
                How::Silent(_) => SILENT,
                How::Failed => FAILED,
                How::Stalled(_) => STALLED,
            };
            peers.iter_mut().for_each(|p| p.say(kind, loss.rank));
        }
        // The main thread ends at its next collective. If it comes to none, nobody else ends this process.
        if let (Some(since), Some(loss)) = (told, health.loss())
            && since.elapsed() > timeout
        {
            let e = loss.error(rank, vec![]).at("work that did not end in time");
            crate::tell!("rank {rank}: error[{}]: {e}", e.code());
            std::process::exit(e.exit_code().into());
        }
        std::thread::sleep(TICK);
    }
}

/// Whether every rank has waited for `timeout`, and nothing has arrived at any.
fn stalled(peers: &[Peer], health: &Health, timeout: Duration) -> bool {
    // What the others said may be as old as a beat.
    let most = timeout.as_secs().max(1);
    let mut others = peers.iter().filter(|p| !p.over).peekable();
    others.peek().is_some() && health.still() >= most && others.all(|p| p.still >= most)
}

/// Ends this process: its work with a file has not gone on for too long, and a call of the system cannot be ended.
fn end_of_patience(rank: u64, what: &str, timeout: Duration, peers: &mut [Peer]) -> ! {
    peers.iter_mut().for_each(|p| p.say(FAILED, rank));
    let what = format!("has not come on with {what} for {} s", timeout.as_secs());
    let e = RuntimeError::Lost { rank, lost: rank, what, waited: vec![], at: Some("it".into()) };
    let (code, exit) = (e.code(), e.exit_code());
    // What is stuck may be the very pipe that this goes to.
    let told =
        std::thread::Builder::new().spawn(move || crate::tell!("rank {rank}: error[{code}]: {e}"));
    let end = Instant::now() + crate::job::PATIENCE;
    while told.as_ref().is_ok_and(|t| !t.is_finished()) && Instant::now() < end {
        std::thread::sleep(TICK);
    }
    std::process::exit(exit.into());
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Both ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (a, listener.accept().unwrap().0)
    }

    fn loss(health: &Health) -> Loss {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match health.loss() {
                Some(loss) => return loss.clone(),
                None => assert!(Instant::now() < end, "nothing was noticed"),
            }
            std::thread::sleep(TICK);
        }
    }

    /// Ranks 0, 1 and 2 in a row; what becomes of rank 2 is known to all.
    fn row(timeout: Duration, end: impl FnOnce(TcpStream)) -> [Loss; 2] {
        let ((a, b), (c, d)) = (pair(), pair());
        let healths = [Arc::new(Health::default()), Arc::new(Health::default())];
        let start = |rank, peers| {
            Heartbeat::start(rank, peers, timeout, healths[rank as usize].clone()).unwrap()
        };
        let beats = [start(0, vec![(1, a)]), start(1, vec![(0, b), (2, c)])];
        end(d);
        let found = [loss(&healths[0]), loss(&healths[1])];
        drop(beats);
        found
    }

    #[test]
    fn a_rank_that_is_gone_is_named_by_all() {
        let found = row(Duration::from_secs(600), drop);
        assert_eq!(found[0], Loss { rank: 2, how: How::Gone });
        assert_eq!(found[1], found[0]);
    }

    #[test]
    fn a_silent_rank_is_named_by_all() {
        // Kept open, but nobody speaks.
        let mut kept = None;
        let found = row(Duration::from_secs(2), |d| kept = Some(d));
        assert_eq!(found[0], Loss { rank: 2, how: How::Silent(2) });
        assert_eq!(found[1], found[0]);
    }

    /// Rank 2 computes as long as it likes; when it waits too, the job has come to a stop.
    #[test]
    fn a_job_in_which_all_wait_is_ended_and_one_in_which_a_rank_computes_is_not() {
        let ((a, b), (c, d)) = (pair(), pair());
        let healths = [(); 3].map(|()| Arc::new(Health::default()));
        let timeout = Duration::from_secs(1);
        let start = |rank: u64, peers| {
            Heartbeat::start(rank, peers, timeout, healths[rank as usize].clone()).unwrap()
        };
        let beats =
            [start(0, vec![(1, a), (2, c)]), start(1, vec![(0, b)]), start(2, vec![(0, d)])];
        healths[0].waits();
        healths[1].waits();
        std::thread::sleep(timeout * 3);
        assert!(healths.iter().all(|h| h.loss().is_none()));
        healths[2].waits();
        for h in &healths {
            let found = loss(h);
            assert_eq!(found, Loss { rank: 0, how: How::Stalled(1) });
            let told = found.error(2, vec![1]).at("`all_reduce data`").to_string();
            assert!(told.contains("rank 2 waited for rank 1 in `all_reduce data`"), "{told}");
        }
        drop(beats);
    }

    #[test]
    fn who_was_stopped_itself_begins_to_wait_anew() {
        let health = Health::default();
        health.moved();
        assert_eq!(health.still(), 0, "it does not wait");
        assert!(health.waits() && !health.waits());
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(health.still(), 1);
        health.moved();
        assert_eq!(health.still(), 0);
        health.goes_on();
        health.moved();
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(health.still(), 0, "it does not wait");
    }

    #[test]
    fn a_failure_is_told_and_a_farewell_is_none() {
        let (a, b) = pair();
        let (c, d) = pair();
        let health = Arc::new(Health::default());
        let long = Duration::from_secs(600);
        let watching = Heartbeat::start(0, vec![(1, a), (2, c)], long, health.clone()).unwrap();
        let one = Heartbeat::start(1, vec![(0, b)], long, Arc::default()).unwrap();
        let two = Heartbeat::start(2, vec![(0, d)], long, Arc::default()).unwrap();
        one.leave();
        std::thread::sleep(10 * TICK);
        assert_eq!(health.loss(), None);
        drop(two);
        assert_eq!(loss(&health), Loss { rank: 2, how: How::Failed });
        watching.leave();
    }
}
