//! How threads of one process make a collective: whoever waits does what is left of the work.
//!
//! A collective is cut into units that write disjoint bytes. Ranks come (start) without waiting; once all
//! have come, any that waits takes units until none is left, also those of ranks that still compute, and
//! leaves when all are done. So a collective goes on while some ranks compute, no thread is needed for it,
//! and nobody waits for a rank that has started it but has not come to its wait.
//!
//! Invariant: who does a unit changes nothing: each element is the sum in the order of the ranks.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use neoxc_plan::Collective;

use super::Sizes;
use super::threads::wait;
use crate::RuntimeError;

/// Floats of a unit: at least, at most.
const UNIT: (usize, usize) = (1 << 10, 1 << 14);

/// Floats that are summed at a time.
const BLOCK: usize = 256;

/// What a collective does.
#[derive(Clone, Copy)]
pub struct Work {
    pub kind: Collective,
    pub shape: Sizes,
}

/// Units of work: how many, of how many floats at most, and how many of them make a part.
struct Units {
    count: usize,
    floats: usize,
    per_part: usize,
}

impl Work {
    /// Floats of one rank's part of the value; all of it for an all-reduce.
    fn part(self, ranks: usize) -> usize {
        let whole = self.shape.iter().product::<usize>();
        if self.kind == Collective::AllReduce { whole } else { whole / ranks }
    }

    fn units(self, ranks: usize) -> Units {
        let part = self.part(ranks);
        let share = if self.kind == Collective::AllReduce { part.div_ceil(ranks) } else { part };
        let floats = share.clamp(UNIT.0, UNIT.1);
        let per_part = part.div_ceil(floats);
        let parts = if self.kind == Collective::AllReduce { 1 } else { ranks };
        Units { count: per_part * parts, floats, per_part }
    }
}

impl Work {
    /// At float `at` of rank `part`'s part: how many floats lie together from there on in the other
    /// value as well, whose other value that is (of an all-to-all), and where in it.
    fn stretch(self, ranks: usize, part: usize, at: usize) -> (usize, (usize, usize)) {
        let [_, first, between, second, after] = self.shape;
        match self.kind {
            Collective::AllReduce => (usize::MAX, (part, at)),
            Collective::AllToAll => {
                // Here whole along the first dim, there along the second.
                let run = second / ranks * after;
                let (row, off) = (at / run, at % run);
                let (f, rows) = (row / between % first, first / ranks);
                let i = row / (first * between);
                let row = (i * rows + f % rows) * between + row % between;
                (run - off, (f / rows, row * second * after + part * run + off))
            }
            Collective::AllToAllBack => {
                let run = second / ranks * after;
                let (row, column) = (at / (second * after), at % (second * after));
                let (giver, off) = (column / run, column % run);
                let rows = first / ranks;
                let (i, f) = (row / (rows * between), row / between % rows + part * rows);
                let row = (i * first + f) * between + row % between;
                (run - off, (giver, row * run + off))
            }
            Collective::ReduceScatter | Collective::AllGather | Collective::TakePart => {
                // The whole value's sizes are before, dim, after.
                let run = first / ranks * between;
                let (row, off) = (at / run, at % run);
                (run - off, (part, row * first * between + part * run + off))
            }
        }
    }
}

/// One collective of a group; used again for a later one when all have left.
struct Meeting {
    /// The round (upper half), and the next unit that nobody has taken.
    next: AtomicU64,
    /// Ranks that have come, units that are done, ranks that have left.
    come: AtomicUsize,
    done: AtomicUsize,
    left: AtomicUsize,
    kind: AtomicUsize,
    shape: [AtomicUsize; 5],
    from: Vec<AtomicPtr<f32>>,
    to: Vec<AtomicPtr<f32>>,
}

/// Ranks that meet.
pub struct Group {
    ranks: usize,
    meetings: Vec<Meeting>,
}

impl Group {
    /// `under_way` collectives can be started and not waited for at once.
    pub fn new(ranks: usize, under_way: usize) -> Group {
        // Collectives are finished in order. A rank that starts collective n has finished all but the last
        // `under_way`, so all others have started those, and finished all but `under_way` of them:
        // nobody starts into a meeting that another has not left.
        let meetings = 2 * (under_way + 1);
        let empty = || (0..ranks).map(|_| AtomicPtr::default()).collect();
        let new = || Meeting {
            next: AtomicU64::new(0),
            come: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
            kind: AtomicUsize::new(0),
            shape: Default::default(),
            from: empty(),
            to: empty(),
        };
        Group { ranks, meetings: (0..meetings).map(|_| new()).collect() }
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.ranks
    }

    fn meeting(&self, n: u64) -> (&Meeting, u32) {
        let all = self.meetings.len() as u64;
        (&self.meetings[(n % all) as usize], (n / all) as u32)
    }

    /// Starts collective `n` for the rank at `place`.
    pub fn come(
        &self,
        n: u64,
        place: usize,
        work: Work,
        [from, to]: [*mut f32; 2],
        failed: &AtomicBool,
    ) -> Result<(), RuntimeError> {
        let kind = Collective::ALL.iter().position(|k| *k == work.kind).unwrap_or(0);
        let (m, round) = self.meeting(n);
        wait(failed, || (m.next.load(Ordering::Acquire) >> 32) as u32 == round)?;
        m.from[place].store(from, Ordering::Relaxed);
        m.to[place].store(to, Ordering::Relaxed);
        // All write the same.
        m.kind.store(kind, Ordering::Relaxed);
        m.shape.iter().zip(work.shape).for_each(|(a, n)| a.store(n, Ordering::Relaxed));
        m.come.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Waits until collective `n` is complete, working on it meanwhile.
    ///
    /// # Safety
    /// Every rank's ranges must be valid for the collective, and stay so until it is complete.
    pub unsafe fn finish(&self, n: u64, failed: &AtomicBool) -> Result<(), RuntimeError> {
        let (m, _) = self.meeting(n);
        wait(failed, || m.come.load(Ordering::Acquire) == self.ranks)?;
        let kind = Collective::ALL[m.kind.load(Ordering::Relaxed)];
        let shape = [0, 1, 2, 3, 4].map(|i| m.shape[i].load(Ordering::Relaxed));
        let work = Work { kind, shape };
        let units = work.units(self.ranks);
        loop {
            // The round cannot end before this rank has left.
            let unit = (m.next.fetch_add(1, Ordering::AcqRel) & u64::from(u32::MAX)) as usize;
            if unit >= units.count {
                break;
            }
            // SAFETY: the caller's word; nobody else takes this unit.
            unsafe { m.make(work, self.ranks, &units, unit) };
            m.done.fetch_add(1, Ordering::Release);
        }
        wait(failed, || m.done.load(Ordering::Acquire) >= units.count)?;
        if m.left.fetch_add(1, Ordering::AcqRel) + 1 == self.ranks {
            for counter in [&m.come, &m.done, &m.left] {
                counter.store(0, Ordering::Relaxed);
            }
            let round = (m.next.load(Ordering::Relaxed) >> 32) + 1;
            m.next.store(round << 32, Ordering::Release);
        }
        Ok(())
    }
}

impl Meeting {
    /// Does one unit.
    ///
    /// # Safety
    /// All ranks must have come, and nobody else does this unit.
    unsafe fn make(&self, work: Work, ranks: usize, units: &Units, unit: usize) {
        let (part, begin) = (unit / units.per_part, unit % units.per_part * units.floats);
        let end = (begin + units.floats).min(work.part(ranks));
        let mut at = begin;
        while at < end {
            let (n, other) = work.stretch(ranks, part, at);
            let n = n.min(end - at);
            // SAFETY: inside the ranges; units are disjoint. An all-reduce in place writes only what this
            // unit alone reads.
            unsafe {
                match work.kind {
                    Collective::AllReduce => self.sum(at, n, &self.to, at),
                    Collective::ReduceScatter => self.sum(other.1, n, &self.to[part..=part], at),
                    Collective::AllGather => {
                        let from = self.from[part].load(Ordering::Relaxed).add(at);
                        for to in &self.to {
                            let to = to.load(Ordering::Relaxed).add(other.1);
                            std::ptr::copy_nonoverlapping(from, to, n);
                        }
                    }
                    Collective::AllToAll | Collective::AllToAllBack => {
                        let from = self.from[other.0].load(Ordering::Relaxed).add(other.1);
                        let to = self.to[part].load(Ordering::Relaxed).add(at);
                        std::ptr::copy_nonoverlapping(from, to, n);
                    }
                    Collective::TakePart => {}
                }
            }
            at += n;
        }
    }

    /// Sums `n` floats at `at` of every rank's operand and writes them at `to_at` of each of `to`.
    ///
    /// # Safety
    /// As for [`Meeting::make`].
    unsafe fn sum(&self, at: usize, n: usize, to: &[AtomicPtr<f32>], to_at: usize) {
        let mut block = [0f32; BLOCK];
        for first in (0..n).step_by(BLOCK) {
            let sum = &mut block[..BLOCK.min(n - first)];
            sum.fill(0.0);
            for from in &self.from {
                // SAFETY: the caller's word.
                let x = unsafe {
                    let from = from.load(Ordering::Relaxed).add(at + first);
                    std::slice::from_raw_parts(from, sum.len())
                };
                sum.iter_mut().zip(x).for_each(|(s, x)| *s += x);
            }
            for to in to {
                // SAFETY: as above; the sum lies in memory of its own.
                unsafe {
                    let to = to.load(Ordering::Relaxed).add(to_at + first);
                    std::ptr::copy_nonoverlapping(sum.as_ptr(), to, sum.len());
                }
            }
        }
    }
}
