//! One axis: its collectives, one after the other, each in chunks of which a few are under way at once.

use std::collections::VecDeque;

use neoxc_plan::Collective;

use super::super::Sizes;
use super::super::moves::{Moves, Receives, Sends, View};
use super::Wire;
use crate::RuntimeError;

/// Chunks of a collective that are under way at once: one is sent while another is summed.
pub const WINDOW: usize = 2;

/// Floats of a chunk: of all ranks' parts together, and at least and at most of one.
const CHUNK: (usize, usize, usize) = (1 << 18, 1 << 10, 1 << 16);

/// Floats that are summed at a time.
const BLOCK: usize = 256;

/// A collective that has been started.
pub struct Flight {
    moves: Moves,
    from: *mut f32,
    to: *mut f32,
    /// Chunks posted, and chunks over.
    posted: usize,
    over: usize,
}

// SAFETY: the pointers are used only between `Collectives::start` and the end of the wait, while the caller
// keeps them valid for whichever thread looks.
unsafe impl Send for Flight {}

impl Flight {
    /// A collective between `ranks` ranks.
    pub fn new(kind: Collective, shape: Sizes, ranks: usize, from: *mut f32, to: *mut f32) -> Self {
        Self { moves: Moves::of(kind, shape, ranks), from, to, posted: 0, over: 0 }
    }
}

/// A chunk under way.
struct Slot<R> {
    /// Which chunk, if any.
    chunk: Option<usize>,
    /// Whether it is in the second round.
    second: bool,
    /// By the other rank.
    requests: Vec<(u64, R)>,
    /// A chunk for each rank, and from each.
    out: Vec<f32>,
    into: Vec<f32>,
}

/// The collectives of an axis.
pub struct Stream<R> {
    members: Vec<u64>,
    place: usize,
    tag: u32,
    /// Floats of a chunk.
    chunk: usize,
    started: u64,
    finished: u64,
    /// Rounds of chunks that are over.
    rounds: u64,
    queue: VecDeque<Flight>,
    slots: [Slot<R>; WINDOW],
}

/// The ranks of those requests that are not done, each once.
pub fn undone<W: Wire>(wire: &mut W, requests: &mut [(u64, W::Request)]) -> Vec<u64> {
    let open =
        |(rank, r): &mut (u64, W::Request)| (!wire.done(r).unwrap_or(false)).then_some(*rank);
    let mut ranks: Vec<u64> = requests.iter_mut().filter_map(open).collect();
    ranks.sort_unstable();
    ranks.dedup();
    ranks
}

/// Copies floats `at` of `rank`'s part of the view at `from` to `to`.
///
/// # Safety
/// Both must hold them, apart from each other.
unsafe fn pack(view: View, rank: usize, at: (usize, usize), from: *const f32, to: *mut f32) {
    let mut next = at.0;
    while next < at.1 {
        let (place, n) = view.stretch(rank, next);
        let n = n.min(at.1 - next);
        // SAFETY: the caller's word.
        unsafe { std::ptr::copy_nonoverlapping(from.add(place), to.add(next - at.0), n) };
        next += n;
    }
}

/// The reverse of [`pack`].
///
/// # Safety
/// As for [`pack`].
unsafe fn unpack(view: View, rank: usize, at: (usize, usize), from: *const f32, to: *mut f32) {
    let mut next = at.0;
    while next < at.1 {
        let (place, n) = view.stretch(rank, next);
        let n = n.min(at.1 - next);
        // SAFETY: the caller's word.
        unsafe { std::ptr::copy_nonoverlapping(from.add(next - at.0), to.add(place), n) };
        next += n;
    }
}

impl<R: Send> Stream<R> {
    /// The stream of a group in which this rank is at `place`; `most` collectives are under way at most.
    pub fn new(members: Vec<u64>, place: usize, tag: u32, most: usize) -> Self {
        let ranks = members.len();
        let chunk = (CHUNK.0 / ranks).clamp(CHUNK.1, CHUNK.2);
        // Pages that no collective needs are never touched.
        let room = || vec![0.0; if ranks > 1 { chunk * ranks } else { chunk }];
        let slot = || Slot {
            chunk: None,
            second: false,
            requests: Vec::with_capacity(2 * ranks),
            out: room(),
            into: room(),
        };
        let slots = std::array::from_fn(|_| slot());
        let queue = VecDeque::with_capacity(most);
        Self { members, place, tag, chunk, started: 0, finished: 0, rounds: 0, queue, slots }
    }

    /// Queues a collective; gives its number.
    pub fn start(&mut self, flight: Flight) -> u64 {
        self.queue.push_back(flight);
        self.started += 1;
        self.started - 1
    }

    /// A number that grows whenever a round of a chunk is over.
    pub fn progress(&self) -> u64 {
        self.rounds
    }

    /// Collectives that are complete.
    pub fn finished(&self) -> u64 {
        self.finished
    }

    /// The ranks that the first collective under way waits for.
    pub fn missing<W: Wire<Request = R>>(&mut self, wire: &mut W) -> Vec<u64> {
        let mut ranks: Vec<u64> =
            self.slots.iter_mut().flat_map(|s| undone(wire, &mut s.requests)).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// Moves the collectives on as far as they go now.
    pub fn look<W: Wire<Request = R>>(&mut self, wire: &mut W) -> Result<(), RuntimeError> {
        while let Some(flight) = self.queue.front_mut() {
            let chunks = flight.moves.longest.div_ceil(self.chunk);
            let side = Side { members: &self.members, place: self.place, chunk: self.chunk };
            let mut moved = false;
            for (n, slot) in self.slots.iter_mut().enumerate() {
                let tag = self.tag + 2 * n as u32;
                if slot.chunk.is_none() && flight.posted < chunks && flight.posted % WINDOW == n {
                    // SAFETY: whoever started the collective keeps both values.
                    unsafe { side.post(wire, flight, slot, tag)? };
                    moved = true;
                }
                if slot.chunk.is_none() {
                    continue;
                }
                let open = slot
                    .requests
                    .iter_mut()
                    .map(|(_, r)| wire.done(r))
                    .find(|d| !matches!(d, Ok(true)));
                if let Some(open) = open {
                    open?;
                    continue;
                }
                slot.requests.clear();
                moved = true;
                self.rounds += 1;
                // SAFETY: as above; all that was sent has left.
                unsafe {
                    if slot.second {
                        slot.chunk = None;
                    } else {
                        side.first_is_over(flight, slot);
                        match flight.moves.then {
                            Some(view) => side.tell(wire, flight, slot, view, tag + 1)?,
                            None => slot.chunk = None,
                        }
                    }
                }
                flight.over += usize::from(slot.chunk.is_none());
            }
            if flight.over == chunks {
                self.queue.pop_front();
                self.finished += 1;
            } else if !moved {
                break;
            }
        }
        Ok(())
    }
}

/// This rank's place in the group.
struct Side<'a> {
    members: &'a [u64],
    place: usize,
    chunk: usize,
}

impl Side<'_> {
    /// The part of a chunk that a walk of `len` floats has.
    fn range(&self, chunk: usize, len: usize) -> (usize, usize) {
        ((chunk * self.chunk).min(len), ((chunk + 1) * self.chunk).min(len))
    }

    fn others(&self) -> impl Iterator<Item = (usize, u64)> {
        let place = self.place;
        self.members.iter().copied().enumerate().filter(move |(r, _)| *r != place)
    }

    /// Posts the first round of the flight's next chunk.
    ///
    /// # Safety
    /// The flight's values must be valid until it is over.
    unsafe fn post<W: Wire>(
        &self,
        wire: &mut W,
        flight: &mut Flight,
        slot: &mut Slot<W::Request>,
        tag: u32,
    ) -> Result<(), RuntimeError> {
        let (n, moves) = (flight.posted, flight.moves);
        (slot.chunk, slot.second) = (Some(n), false);
        flight.posted += 1;
        for (r, rank) in self.others() {
            let into = match moves.receives {
                Receives::Sum => self.range(n, moves.sent_to(self.place)),
                Receives::Parts(view) => self.range(n, view.len(r)),
            };
            let out = self.range(n, moves.sent_to(r));
            // SAFETY: inside the values and the slot's room; nobody else uses them until it is over.
            unsafe {
                if into.0 < into.1 {
                    let to = match moves.receives {
                        Receives::Parts(view) if view.is_plain() => {
                            flight.to.add(view.stretch(r, into.0).0)
                        }
                        _ => slot.into.as_mut_ptr().add(r * self.chunk),
                    };
                    let len = (into.1 - into.0) * 4;
                    slot.requests.push((rank, wire.receive(rank, tag, to.cast(), len)?));
                }
                if out.0 < out.1 {
                    let from: *const f32 = match moves.sends {
                        Sends::Whole => flight.from.add(out.0),
                        Sends::Parts(view) if view.is_plain() => {
                            flight.from.add(view.stretch(r, out.0).0)
                        }
                        Sends::Parts(view) => {
                            let packed = slot.out.as_mut_ptr().add(r * self.chunk);
                            pack(view, r, out, flight.from, packed);
                            packed
                        }
                    };
                    let len = (out.1 - out.0) * 4;
                    slot.requests.push((rank, wire.send(rank, tag, from.cast(), len)?));
                }
            }
        }
        Ok(())
    }

    /// Puts what has come where it belongs.
    ///
    /// # Safety
    /// As for [`Side::post`], and every request must be done.
    unsafe fn first_is_over<R>(&self, flight: &Flight, slot: &mut Slot<R>) {
        let (n, moves) = (slot.chunk.unwrap_or(0), flight.moves);
        let own = self.range(n, moves.sent_to(self.place));
        let room = |r: usize| r * self.chunk;
        // SAFETY: inside the values and the slot's room.
        unsafe {
            let mine = slot.into.as_mut_ptr().add(room(self.place));
            match moves.sends {
                Sends::Whole => {
                    std::ptr::copy_nonoverlapping(flight.from.add(own.0), mine, own.1 - own.0);
                }
                Sends::Parts(view) => pack(view, self.place, own, flight.from, mine),
            }
            match moves.receives {
                Receives::Sum => {
                    let at = moves.then.map_or(own.0, |view| view.stretch(self.place, own.0).0);
                    self.sum(&slot.into, own.1 - own.0, flight.to.wrapping_add(at));
                }
                Receives::Parts(view) => {
                    for r in 0..self.members.len() {
                        if r == self.place || !view.is_plain() {
                            let at = self.range(n, view.len(r));
                            unpack(view, r, at, slot.into.as_ptr().add(room(r)), flight.to);
                        }
                    }
                }
            }
        }
    }

    /// Writes the sum of `n` floats of every rank, from the first to the last.
    ///
    /// # Safety
    /// `to` must be this rank's to write.
    unsafe fn sum(&self, from: &[f32], n: usize, to: *mut f32) {
        let mut block = [0f32; BLOCK];
        for first in (0..n).step_by(BLOCK) {
            let sum = &mut block[..BLOCK.min(n - first)];
            sum.fill(0.0);
            for r in 0..self.members.len() {
                let x = &from[r * self.chunk + first..][..sum.len()];
                sum.iter_mut().zip(x).for_each(|(s, x)| *s += x);
            }
            // SAFETY: the caller's word.
            unsafe { std::ptr::copy_nonoverlapping(sum.as_ptr(), to.add(first), sum.len()) };
        }
    }

    /// Posts the second round: own sums to all, theirs into the result.
    ///
    /// # Safety
    /// As for [`Side::post`]; what the first round sent must have left, as the result may lie there.
    unsafe fn tell<W: Wire>(
        &self,
        wire: &mut W,
        flight: &Flight,
        slot: &mut Slot<W::Request>,
        view: View,
        tag: u32,
    ) -> Result<(), RuntimeError> {
        slot.second = true;
        let n = slot.chunk.unwrap_or(0);
        let own = self.range(n, view.len(self.place));
        for (r, rank) in self.others() {
            let theirs = self.range(n, view.len(r));
            // SAFETY: inside the result; each rank's part of it is written once.
            unsafe {
                if theirs.0 < theirs.1 {
                    let to = flight.to.add(view.stretch(r, theirs.0).0);
                    let len = (theirs.1 - theirs.0) * 4;
                    slot.requests.push((rank, wire.receive(rank, tag, to.cast(), len)?));
                }
                if own.0 < own.1 {
                    let from = flight.to.add(view.stretch(self.place, own.0).0);
                    let len = (own.1 - own.0) * 4;
                    slot.requests.push((rank, wire.send(rank, tag, from.cast(), len)?));
                }
            }
        }
        Ok(())
    }
}
