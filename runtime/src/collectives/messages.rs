//! Collectives between ranks that share no memory, by messages from one to another.
//!
//! Each axis is a stream that makes one collective after the other, chunk by chunk. Nothing here ever waits
//! inside: sends and receives are posted and asked for, so that whoever calls moves all streams on, and no
//! order of arrival can block another. A rank that waits does that all the time; while it computes, a thread
//! of its own looks every now and then.
//!
//! Sums are made by the rank that a part belongs to, in the order of the ranks and from zero, as
//! ranks in one process make them: results are the same to the bit. Of an all-reduce each rank sums one
//! share and tells the others, so that a rank sends 2 (n - 1) / n of the value, as in a ring.
//!
//! Invariant: a message is known by its two ranks and its tag; the messages of a tag are posted in
//! the same order on both sides.

mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use neoxc_plan::{Collective, ENDS, Plan};
pub use stream::WINDOW;
use stream::{Flight, Stream};

use super::{Collectives, Sizes, Ticket};
use crate::RuntimeError;
use crate::backoff::Backoff;
use crate::health::Health;
use crate::job::Others;

/// What carries messages between the ranks of a plan.
pub trait Wire: Send + 'static {
    /// A message under way.
    type Request: Send;
    /// Begins to send `len` bytes to `rank`.
    ///
    /// # Safety
    /// The bytes must stay as they are until the request is done.
    unsafe fn send(
        &mut self,
        rank: u64,
        tag: u32,
        from: *const u8,
        len: usize,
    ) -> Result<Self::Request, RuntimeError>;
    /// Begins to receive `len` bytes from `rank`.
    ///
    /// # Safety
    /// The bytes must be left alone until the request is done.
    unsafe fn receive(
        &mut self,
        rank: u64,
        tag: u32,
        to: *mut u8,
        len: usize,
    ) -> Result<Self::Request, RuntimeError>;
    /// Whether it is done, and stays so. Never waits, and moves on whatever else is under way.
    fn done(&mut self, request: &mut Self::Request) -> Result<bool, RuntimeError>;
    /// Whether all of these are done.
    fn all_done(&mut self, requests: &mut [Self::Request]) -> Result<bool, RuntimeError> {
        for r in requests {
            if !self.done(r)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// How often the thread beside compute looks.
const LOOK: Duration = Duration::from_micros(100);

/// The values sent to a neighbour on a channel and not received yet: the requests of each, in order.
struct Channel<R> {
    axis: usize,
    way: (bool, usize),
    sent: VecDeque<Vec<R>>,
}

struct Engine<W: Wire> {
    wire: W,
    rank: u64,
    streams: Vec<Stream<W::Request>>,
    channels: Vec<Channel<W::Request>>,
    /// By number of the axis: the rank before and the next one, in a ring.
    neighbours: Vec<[u64; 2]>,
    /// Empty lists, kept so that a send allocates nothing.
    spare: Vec<Vec<W::Request>>,
}

impl<W: Wire> Engine<W> {
    /// Posts what can be posted and finishes what has come, on all streams.
    fn look(&mut self) -> Result<(), RuntimeError> {
        for stream in &mut self.streams {
            stream.look(&mut self.wire)?;
        }
        for channel in &mut self.channels {
            while let Some(first) = channel.sent.front_mut() {
                if !self.wire.all_done(first)? {
                    break;
                }
                first.clear();
                self.spare.extend(channel.sent.pop_front());
            }
        }
        Ok(())
    }

    /// Numbers that change whenever something has arrived.
    fn progress(&self) -> (u64, usize) {
        let streams = self.streams.iter().map(Stream::progress).fold(0, u64::wrapping_add);
        (streams, self.channels.iter().map(|c| c.sent.len()).sum())
    }

    fn channel(&mut self, axis: usize, way: (bool, usize)) -> &mut Channel<W::Request> {
        let at = self.channels.iter().position(|c| c.axis == axis && c.way == way);
        let at = at.unwrap_or_else(|| {
            self.channels.push(Channel { axis, way, sent: VecDeque::with_capacity(8) });
            self.channels.len() - 1
        });
        &mut self.channels[at]
    }
}

/// Tells the others, with the signs of life, that this rank waits, until it is dropped: for them, or for the library, a
/// call of which may wait for a stranger that has called a port of it.
struct Waiting<'a> {
    health: &'a Health,
    /// Whether nobody around says so already.
    first: bool,
}

impl<'a> Waiting<'a> {
    fn begin(health: &'a Health) -> Self {
        Waiting { health, first: health.waits() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.first {
            self.health.goes_on();
        }
    }
}

struct Shared<W: Wire> {
    engine: Mutex<Engine<W>>,
    /// Collectives that nobody may be waiting for.
    beside: AtomicUsize,
    /// The thread beside compute sleeps on this while there are none.
    idle: Mutex<bool>,
    wake: Condvar,
    health: Arc<Health>,
    failed: AtomicBool,
}

impl<W: Wire> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, Engine<W>> {
        self.engine.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Looks until `ready`, which may look itself; an error once a rank is lost, with those that
    /// `missing` says this one waits for.
    fn until(
        &self,
        mut ready: impl FnMut(&mut Engine<W>) -> Result<bool, RuntimeError>,
        missing: impl Fn(&mut Engine<W>) -> Vec<u64>,
    ) -> Result<(), RuntimeError> {
        let mut backoff = Backoff::asking();
        let _waiting = Waiting::begin(&self.health);
        let mut came = None;
        loop {
            {
                let mut engine = self.lock();
                engine.look()?;
                if ready(&mut engine)? {
                    return Ok(());
                }
                let now = engine.progress();
                if came.replace(now).is_some_and(|before| before != now) {
                    self.health.moved();
                }
                if self.failed.load(Ordering::Relaxed) {
                    return Err(RuntimeError::Settings("this rank has given up".into()));
                }
                if let Some(loss) = self.health.loss() {
                    return Err(loss.error(engine.rank, missing(&mut engine)));
                }
            }
            backoff.pause();
        }
    }

    /// What the thread beside compute does until the end.
    fn attend(&self) {
        loop {
            {
                let mut ended = self.idle.lock().unwrap_or_else(|e| e.into_inner());
                while !*ended && self.beside.load(Ordering::Acquire) == 0 {
                    ended = self.wake.wait(ended).unwrap_or_else(|e| e.into_inner());
                }
                if *ended {
                    return;
                }
            }
            // Whoever holds it looks already. Errors come again where somebody waits.
            if let Ok(mut engine) = self.engine.try_lock() {
                let _ = engine.look();
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// One rank's side of the collectives between processes.
pub struct Messages<W: Wire> {
    shared: Arc<Shared<W>>,
    /// By number of the axis: number of ranks, and which of them this is.
    places: Vec<(usize, usize)>,
    ranks: u64,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Two tags for the slots of each axis and way, from 0 on; what else is sent takes others.
fn stream_tag(axis: usize) -> u32 {
    (axis * 2 * WINDOW) as u32
}

/// The first tag of the channels, after those of all streams.
const CHANNELS: u32 = 1 << 10;

/// First tag of what [`Others::all_gather`] sends: lengths, then bytes.
const WORDS: u32 = 1 << 12;

/// The longest message of a send, bytes.
const LONGEST: usize = 1 << 30;

impl<W: Wire> Messages<W> {
    /// This rank's side; `health` knows when another is lost.
    pub fn new(plan: &Plan, rank: u64, wire: W, health: Arc<Health>) -> Result<Self, RuntimeError> {
        // The ends of a pipeline come behind the axes of the mesh.
        let names = plan.tables.mesh.iter().map(|(axis, _)| axis.as_str()).chain([ENDS]);
        let groups: Vec<(Vec<u64>, usize)> = names
            .clone()
            .map(|axis| {
                let members = plan.group(axis, rank);
                let place = members.iter().position(|r| *r == rank).unwrap_or(0);
                (members, place)
            })
            .collect();
        let places = groups.iter().map(|(members, place)| (members.len(), *place)).collect();
        let around = |(members, place): &(Vec<u64>, usize)| {
            let n = members.len();
            [members[(place + n - 1) % n], members[(place + 1) % n]]
        };
        let neighbours = groups.iter().map(around).collect();
        let streams = names.zip(groups).enumerate();
        let streams = streams
            .map(|(n, (axis, (members, place)))| {
                let most = plan.most_under_way(axis) + 1;
                Stream::new(members, place, stream_tag(n), most)
            })
            .collect();
        let (channels, spare) = (vec![], vec![]);
        let shared = Arc::new(Shared {
            engine: Mutex::new(Engine { wire, rank, streams, channels, neighbours, spare }),
            beside: AtomicUsize::new(0),
            idle: Mutex::new(false),
            wake: Condvar::new(),
            health,
            failed: AtomicBool::new(false),
        });
        let attended = shared.clone();
        let thread = std::thread::Builder::new()
            .name("collectives".into())
            .spawn(move || attended.attend())
            .map_err(|e| RuntimeError::Settings(format!("cannot start a thread: {e}")))?;
        Ok(Self { shared, places, ranks: plan.ranks(), thread: Some(thread) })
    }

    /// Sends `bytes` to all others and takes as many from each as `len` says.
    fn round(
        &self,
        tag: u32,
        bytes: &[u8],
        len: impl Fn(u64) -> usize,
    ) -> Result<Vec<Vec<u8>>, RuntimeError> {
        let mut all: Vec<Vec<u8>> = (0..self.ranks).map(|r| vec![0; len(r)]).collect();
        let mut requests = vec![];
        let _waiting = Waiting::begin(&self.shared.health);
        {
            let mut engine = self.shared.lock();
            let rank = engine.rank;
            for (r, to) in (0..self.ranks).zip(&mut all).filter(|(r, _)| *r != rank) {
                // SAFETY: neither is touched until all requests are done; where that is not awaited, the
                // process ends.
                unsafe {
                    let sent = engine.wire.send(r, tag, bytes.as_ptr(), bytes.len())?;
                    let taken = engine.wire.receive(r, tag, to.as_mut_ptr(), to.len())?;
                    requests.extend([(r, sent), (r, taken)]);
                }
            }
        }
        let left = std::cell::RefCell::new(requests);
        self.shared.until(
            |engine| {
                for (_, request) in left.borrow_mut().iter_mut() {
                    if !engine.wire.done(request)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            },
            |engine| stream::undone(&mut engine.wire, &mut left.borrow_mut()),
        )?;
        Ok(all)
    }

    fn begin(&self, axis: usize, flight: Flight) -> Ticket {
        let _waiting = Waiting::begin(&self.shared.health);
        let mut engine = self.shared.lock();
        Ticket(engine.streams[axis].start(flight))
    }

    fn finish(&self, axis: usize, ticket: Ticket) -> Result<(), RuntimeError> {
        self.shared.until(
            |engine| Ok(engine.streams[axis].finished() > ticket.0),
            |engine| engine.streams[axis].missing(&mut engine.wire),
        )
    }

    fn tag(forward: bool, channel: usize) -> u32 {
        CHANNELS + (channel * 2 + usize::from(forward)) as u32
    }
}

impl<W: Wire> Drop for Messages<W> {
    fn drop(&mut self) {
        *self.shared.idle.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.shared.wake.notify_all();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl<W: Wire> Others for Messages<W> {
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, RuntimeError> {
        let rank = self.shared.lock().rank;
        let lengths = self.round(WORDS, &(bytes.len() as u64).to_le_bytes(), |_| 8)?;
        let length = |of: &Vec<u8>| of.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        let lengths: Vec<usize> = lengths.iter().map(length).collect();
        let mut all = self.round(WORDS + 1, bytes, |r| lengths[r as usize])?;
        all[rank as usize] = bytes.to_vec();
        Ok(all)
    }
}

impl<W: Wire> Collectives for Messages<W> {
    unsafe fn start(
        &self,
        axis: usize,
        kind: Collective,
        shape: Sizes,
        from: *mut f32,
        to: *mut f32,
    ) -> Result<Ticket, RuntimeError> {
        let ticket = self.begin(axis, Flight::new(kind, shape, self.places[axis].0, from, to));
        if self.shared.beside.fetch_add(1, Ordering::AcqRel) == 0 {
            // Under the lock, so that the thread is either before its look at `beside` or asleep.
            let _idle = self.shared.idle.lock().unwrap_or_else(|e| e.into_inner());
            self.shared.wake.notify_one();
        }
        Ok(ticket)
    }

    unsafe fn wait(&self, axis: usize, ticket: Ticket) -> Result<(), RuntimeError> {
        let done = self.finish(axis, ticket);
        self.shared.beside.fetch_sub(1, Ordering::AcqRel);
        done
    }

    unsafe fn collective(
        &self,
        axis: usize,
        kind: Collective,
        shape: Sizes,
        from: *mut f32,
        to: *mut f32,
    ) -> Result<(), RuntimeError> {
        // Nothing is computed meanwhile: the thread need not wake.
        let flight = Flight::new(kind, shape, self.places[axis].0, from, to);
        self.finish(axis, self.begin(axis, flight))
    }

    unsafe fn send(
        &self,
        axis: usize,
        way: (bool, usize),
        from: *const f32,
        elements: usize,
        ahead: usize,
    ) -> Result<(), RuntimeError> {
        let _waiting = Waiting::begin(&self.shared.health);
        let mut engine = self.shared.lock();
        let engine_ref = &mut *engine;
        let to = engine_ref.neighbours[axis][usize::from(way.0)];
        let mut requests = engine_ref.spare.pop().unwrap_or_default();
        for at in (0..elements * 4).step_by(LONGEST) {
            let len = (elements * 4 - at).min(LONGEST);
            // SAFETY: the caller keeps the value until it is received.
            let one = unsafe {
                engine_ref.wire.send(to, Self::tag(way.0, way.1), from.cast::<u8>().add(at), len)
            };
            requests.push(one?);
        }
        engine_ref.channel(axis, way).sent.push_back(requests);
        drop(engine);
        self.shared
            .until(|engine| Ok(engine.channel(axis, way).sent.len() <= ahead), move |_| vec![to])
    }

    unsafe fn receive(
        &self,
        axis: usize,
        way: (bool, usize),
        to: *mut f32,
        elements: usize,
    ) -> Result<(), RuntimeError> {
        let _waiting = Waiting::begin(&self.shared.health);
        let mut engine = self.shared.lock();
        let engine_ref = &mut *engine;
        let from = engine_ref.neighbours[axis][usize::from(!way.0)];
        let mut requests = engine_ref.spare.pop().unwrap_or_default();
        for at in (0..elements * 4).step_by(LONGEST) {
            let len = (elements * 4 - at).min(LONGEST);
            // SAFETY: `to` is this rank's, and left alone until this returns.
            let one = unsafe {
                engine_ref.wire.receive(from, Self::tag(way.0, way.1), to.cast::<u8>().add(at), len)
            };
            requests.push(one?);
        }
        drop(engine);
        let done =
            self.shared.until(|engine| engine.wire.all_done(&mut requests), move |_| vec![from]);
        requests.clear();
        self.shared.lock().spare.push(requests);
        done
    }

    fn settle(&self) -> Result<(), RuntimeError> {
        let missing = |engine: &mut Engine<W>| {
            let waits = engine.channels.iter().filter(|c| !c.sent.is_empty());
            waits.map(|l| engine.neighbours[l.axis][usize::from(l.way.0)]).collect()
        };
        self.shared.until(|engine| Ok(engine.channels.iter().all(|c| c.sent.is_empty())), missing)
    }

    fn place(&self, axis: usize) -> (usize, usize) {
        self.places[axis]
    }

    fn give_up(&self) {
        self.shared.failed.store(true, Ordering::Relaxed);
    }
}
