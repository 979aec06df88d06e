//! Collectives and sends by NCCL and RCCL, whose libraries are opened when they are needed.
//!
//! Every axis has a communicator and a stream. A collective on it begins when the compute stream has come
//! to the point of its start, and an event says when it is over. Every channel to a neighbouring stage has a communicator
//! and a stream of its own, for two ranks, so that a send which is not received yet holds up nothing else. Sums have the
//! library's order.
//!
//! A value whose divided dim is not the outermost one is sent row by row, in one group of calls.

mod library;
#[cfg(test)]
mod tests;

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use library::{Api, Handle, UniqueId, Vendor};
use neoxc_plan::{Collective, ENDS, Plan};

use super::{Collectives, Sizes, Ticket};
use crate::RuntimeError;
use crate::backoff::Backoff;
use crate::health::Health;
use library::NOT_READY;

// As in the library's header.
const FLOAT: c_int = 7;
const SUM: c_int = 0;
/// A stream that does not wait for the default one; an event that takes no time.
const NON_BLOCKING: u32 = 1;
const NO_TIMING: u32 = 2;

/// A communicator with a stream, and events for what is under way on it.
struct Line {
    ranks: Vec<u64>,
    place: usize,
    comm: Handle,
    stream: Handle,
    /// By number modulo their count.
    begin: Vec<Handle>,
    over: Vec<Handle>,
    started: AtomicU64,
    finished: AtomicU64,
}

// SAFETY: handles may be used from any thread, one call at a time; a rank's calls come from its own thread.
unsafe impl Send for Line {}
// SAFETY: as above.
unsafe impl Sync for Line {}

/// What a line is for; in this order all ranks make theirs, so that none waits for another in a circle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Collectives along an axis, by its number.
    Axis(usize),
    /// The sends from one rank to another, forward or not, on a channel.
    Channel { axis: usize, from: u64, to: u64, forward: bool, channel: usize },
}

/// One rank's side.
pub struct Nccl {
    api: Api,
    me: u64,
    /// The stream that kernels run on.
    compute: Handle,
    lines: Vec<(Role, Line)>,
    /// By number of the axis: number of ranks, and which of them this is.
    places: Vec<(usize, usize)>,
    /// By number of the axis: the rank before and the next one, in a ring.
    around: Vec<[u64; 2]>,
    health: Arc<Health>,
    failed: AtomicBool,
}

// SAFETY: as for `Line`.
unsafe impl Send for Nccl {}
// SAFETY: as for `Line`.
unsafe impl Sync for Nccl {}

/// Shares a few bytes with all ranks: gives what every rank said.
pub type Share<'a> = &'a dyn Fn(&[u8]) -> Result<Vec<Vec<u8>>, RuntimeError>;

/// The lines of a rank, with the ranks of each.
fn roles(plan: &Plan, rank: u64) -> Vec<(Role, Vec<u64>)> {
    let channels = plan.tables.schedules.values().map(|s| s.chunks()).max().unwrap_or(0);
    let mut roles = vec![];
    let names = plan.tables.mesh.iter().map(|(axis, _)| axis.as_str()).chain([ENDS]);
    for (axis, name) in names.enumerate() {
        let group = plan.group(name, rank);
        let n = group.len();
        if n < 2 {
            continue;
        }
        let place = group.iter().position(|r| *r == rank).unwrap_or(0);
        let (before, next) = (group[(place + n - 1) % n], group[(place + 1) % n]);
        for channel in 0..if name == "pipe" { channels } else { 0 } {
            let ways = [
                (rank, next, true),
                (before, rank, true),
                (rank, before, false),
                (next, rank, false),
            ];
            for (from, to, forward) in ways {
                let role = Role::Channel { axis, from, to, forward, channel };
                roles.push((role, vec![from, to]));
            }
        }
        roles.push((Role::Axis(axis), group));
    }
    roles.sort();
    roles
}

impl Nccl {
    /// Joins the communicators of `rank`; `compute` is the stream that its kernels run on. All ranks must
    /// call it.
    pub fn new(
        api: Api,
        plan: &Plan,
        rank: u64,
        compute: Handle,
        health: Arc<Health>,
        share: Share<'_>,
    ) -> Result<Nccl, RuntimeError> {
        let roles = roles(plan, rank);
        // The first rank of each line names it: as many ids as it has lines to name, in their order.
        let mut ids = vec![];
        for _ in roles.iter().filter(|(_, ranks)| ranks[0] == rank) {
            let mut id = UniqueId([0; 128]);
            // SAFETY: the library writes an id.
            api.check("ncclGetUniqueId", unsafe { (api.get_unique_id)(&mut id) })?;
            ids.extend(id.0);
        }
        let said = share(&ids)?;
        let names = plan.tables.mesh.iter().map(|(axis, _)| axis.as_str()).chain([ENDS]);
        let (mut places, mut around, mut most) = (vec![], vec![], vec![]);
        for axis in names {
            let group = plan.group(axis, rank);
            let (n, place) = (group.len(), group.iter().position(|r| *r == rank).unwrap_or(0));
            places.push((n, place));
            around.push([group[(place + n - 1) % n], group[(place + 1) % n]]);
            most.push(plan.most_under_way(axis) + 1);
        }
        let failed = AtomicBool::new(false);
        let mut nccl =
            Nccl { api, me: rank, compute, lines: vec![], places, around, health, failed };
        for (role, ranks) in roles {
            let theirs = self::roles(plan, ranks[0]);
            let number = theirs
                .iter()
                .filter(|(_, r)| r[0] == ranks[0])
                .position(|(r, _)| *r == role)
                .unwrap_or(0);
            let bytes = said.get(ranks[0] as usize).and_then(|b| b.chunks_exact(128).nth(number));
            let bytes = bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| {
                RuntimeError::Link(format!("rank {} names too few communicators", ranks[0]))
            })?;
            let most = match &role {
                Role::Axis(axis) => most[*axis],
                Role::Channel { .. } => {
                    let slots =
                        plan.tables.schedules.values().flat_map(|s| s.slots.iter().flatten());
                    slots.max().map_or(1, |n| *n as usize) + 1
                }
            };
            let line = nccl.line(ranks, UniqueId(bytes), most)?;
            nccl.lines.push((role, line));
        }
        Ok(nccl)
    }

    /// Makes a line on which `most` collectives are under way at most.
    fn line(&self, ranks: Vec<u64>, id: UniqueId, most: usize) -> Result<Line, RuntimeError> {
        let api = &self.api;
        let place = ranks.iter().position(|r| *r == self.me).unwrap_or(0);
        let (mut comm, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
        let event = || {
            let mut event = std::ptr::null_mut();
            // SAFETY: the driver writes a handle.
            let done = unsafe { (api.event_create)(&mut event, NO_TIMING) };
            api.drive("make an event", done).map(|()| event)
        };
        // SAFETY: the libraries write handles.
        unsafe {
            let (n, place) = (ranks.len() as c_int, place as c_int);
            api.check("ncclCommInitRank", (api.comm_init_rank)(&mut comm, n, id, place))?;
            api.drive("make a stream", (api.stream_create)(&mut stream, NON_BLOCKING))?;
        }
        Ok(Line {
            begin: (0..most).map(|_| event()).collect::<Result<_, _>>()?,
            over: (0..most).map(|_| event()).collect::<Result<_, _>>()?,
            ranks,
            place,
            comm,
            stream,
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
        })
    }

    fn find(&self, role: &Role) -> Result<&Line, RuntimeError> {
        let found = self.lines.iter().find(|(r, _)| r == role).map(|(_, line)| line);
        found.ok_or_else(|| {
            RuntimeError::Settings("the plan has collectives with ranks that are not there".into())
        })
    }

    /// Puts `calls` on a line, behind what the compute stream has now; gives their number.
    fn put(
        &self,
        line: &Line,
        calls: impl FnOnce(&Api) -> Result<(), RuntimeError>,
    ) -> Result<u64, RuntimeError> {
        let api = &self.api;
        let number = line.started.load(Ordering::Relaxed);
        let at = number as usize % line.begin.len();
        // SAFETY: the handles live as long as the line.
        unsafe {
            api.drive("record an event", (api.event_record)(line.begin[at], self.compute))?;
            let waits = (api.stream_wait_event)(line.stream, line.begin[at], 0);
            api.drive("wait for an event", waits)?;
            api.check("ncclGroupStart", (api.group_start)())?;
            let called = calls(api);
            let ended = api.check("ncclGroupEnd", (api.group_end)());
            called.and(ended)?;
            api.drive("record an event", (api.event_record)(line.over[at], line.stream))?;
        }
        line.started.store(number + 1, Ordering::Relaxed);
        Ok(number)
    }

    /// Waits until at most `left` of what was put on a line are not over.
    fn until(&self, line: &Line, left: u64) -> Result<(), RuntimeError> {
        let started = line.started.load(Ordering::Relaxed);
        let mut backoff = Backoff::asking();
        let mut finished = line.finished.load(Ordering::Relaxed);
        while finished + left < started {
            // SAFETY: the event was recorded when this was started.
            match unsafe { (self.api.event_query)(line.over[finished as usize % line.over.len()]) }
            {
                NOT_READY => {}
                code => {
                    self.api.drive("ask for an event", code)?;
                    finished += 1;
                    line.finished.store(finished, Ordering::Relaxed);
                    continue;
                }
            }
            if let Some(loss) = self.health.loss() {
                let others = line.ranks.iter().copied().filter(|r| *r != self.me);
                let error = loss.error(self.me, others.collect());
                self.give_up();
                return Err(error);
            }
            backoff.pause();
        }
        Ok(())
    }

    fn channel(
        &self,
        axis: usize,
        from: u64,
        to: u64,
        way: (bool, usize),
    ) -> Result<&Line, RuntimeError> {
        let (forward, channel) = way;
        self.find(&Role::Channel { axis, from, to, forward, channel })
    }
}

/// Calls for one collective of the value at `from` into `to`.
///
/// # Safety
/// Both must be valid until the stream has come past the calls.
unsafe fn calls(
    api: &Api,
    line: &Line,
    kind: Collective,
    shape: Sizes,
    from: *const f32,
    to: *mut f32,
) -> Result<(), RuntimeError> {
    let (ranks, comm, stream) = (line.ranks.len(), line.comm, line.stream);
    let elements = shape.iter().product::<usize>();
    let [before, first, between, second, after] = shape;
    // SAFETY: inside the two values, by the caller's word.
    unsafe {
        match kind {
            Collective::AllReduce => {
                let done =
                    (api.all_reduce)(from.cast(), to.cast(), elements, FLOAT, SUM, comm, stream);
                api.check("ncclAllReduce", done)
            }
            Collective::ReduceScatter => {
                let part = first / ranks * between;
                (0..before).try_for_each(|i| {
                    let (from, to) = (from.add(i * part * ranks), to.add(i * part));
                    let done = (api.reduce_scatter)(
                        from.cast(),
                        to.cast(),
                        part,
                        FLOAT,
                        SUM,
                        comm,
                        stream,
                    );
                    api.check("ncclReduceScatter", done)
                })
            }
            Collective::AllGather => {
                let part = first / ranks * between;
                (0..before).try_for_each(|i| {
                    let (from, to) = (from.add(i * part), to.add(i * part * ranks));
                    let done = (api.all_gather)(from.cast(), to.cast(), part, FLOAT, comm, stream);
                    api.check("ncclAllGather", done)
                })
            }
            Collective::AllToAll | Collective::AllToAllBack => {
                // Rows of the smaller side's length: [before, ranks, rows, run] on one, and
                // [before, rows, ranks, run] on the other.
                let (run, rows) = (second / ranks * after, first / ranks * between);
                let outer = |i: usize, r: usize, row: usize| ((i * ranks + r) * rows + row) * run;
                let inner = |i: usize, r: usize, row: usize| ((i * rows + row) * ranks + r) * run;
                let there = kind == Collective::AllToAll;
                for peer in 0..ranks {
                    for (i, row) in (0..before).flat_map(|i| (0..rows).map(move |row| (i, row))) {
                        let (o, n) = (outer(i, peer, row), inner(i, peer, row));
                        let (give, take) = if there { (n, o) } else { (o, n) };
                        let (who, from, to) = (peer as c_int, from.add(give), to.add(take));
                        let sent = (api.send)(from.cast(), run, FLOAT, who, comm, stream);
                        api.check("ncclSend", sent)?;
                        let taken = (api.recv)(to.cast(), run, FLOAT, who, comm, stream);
                        api.check("ncclRecv", taken)?;
                    }
                }
                Ok(())
            }
            Collective::TakePart => Ok(()),
        }
    }
}

impl Collectives for Nccl {
    unsafe fn start(
        &self,
        axis: usize,
        kind: Collective,
        shape: Sizes,
        from: *mut f32,
        to: *mut f32,
    ) -> Result<Ticket, RuntimeError> {
        let line = self.find(&Role::Axis(axis))?;
        // SAFETY: the caller keeps both until the collective is waited for.
        self.put(line, |api| unsafe { calls(api, line, kind, shape, from, to) }).map(Ticket)
    }

    unsafe fn wait(&self, axis: usize, ticket: Ticket) -> Result<(), RuntimeError> {
        let line = self.find(&Role::Axis(axis))?;
        let started = line.started.load(Ordering::Relaxed);
        self.until(line, started.saturating_sub(ticket.0 + 1))
    }

    unsafe fn send(
        &self,
        axis: usize,
        way: (bool, usize),
        from: *const f32,
        elements: usize,
        ahead: usize,
    ) -> Result<(), RuntimeError> {
        let to = self.around[axis][usize::from(way.0)];
        let line = self.channel(axis, self.me, to, way)?;
        let peer = 1 - line.place as c_int;
        self.put(line, |api| {
            // SAFETY: the caller keeps the value until it is received.
            let done =
                unsafe { (api.send)(from.cast(), elements, FLOAT, peer, line.comm, line.stream) };
            api.check("ncclSend", done)
        })?;
        self.until(line, ahead as u64)
    }

    unsafe fn receive(
        &self,
        axis: usize,
        way: (bool, usize),
        to: *mut f32,
        elements: usize,
    ) -> Result<(), RuntimeError> {
        let from = self.around[axis][usize::from(!way.0)];
        let line = self.channel(axis, from, self.me, way)?;
        let peer = 1 - line.place as c_int;
        self.put(line, |api| {
            // SAFETY: the caller leaves `to` alone until this returns.
            let done =
                unsafe { (api.recv)(to.cast(), elements, FLOAT, peer, line.comm, line.stream) };
            api.check("ncclRecv", done)
        })?;
        self.until(line, 0)
    }

    fn settle(&self) -> Result<(), RuntimeError> {
        self.lines.iter().try_for_each(|(_, line)| self.until(line, 0))
    }

    fn place(&self, axis: usize) -> (usize, usize) {
        self.places[axis]
    }

    /// Ends what is under way, here and for those that wait for it.
    fn give_up(&self) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            for (_, line) in &self.lines {
                // SAFETY: the communicator is not used any more; `drop` leaves it alone.
                unsafe { (self.api.comm_abort)(line.comm) };
            }
        }
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        for (_, line) in &self.lines {
            // SAFETY: the handles were made by these libraries and are used by nobody else.
            unsafe {
                (self.api.stream_synchronize)(line.stream);
                for event in line.begin.iter().chain(&line.over) {
                    (self.api.event_destroy)(*event);
                }
                if !self.failed.load(Ordering::Relaxed) {
                    (self.api.comm_destroy)(line.comm);
                }
                (self.api.stream_destroy)(line.stream);
            }
        }
    }
}
