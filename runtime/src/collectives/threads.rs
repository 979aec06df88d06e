//! The embedded transport: ranks are threads of this process and see each other's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use neoxc_plan::Plan;

use super::Collectives;
use crate::RuntimeError;

/// Ranks that meet in one group.
struct Group {
    arrived: AtomicUsize,
    round: AtomicUsize,
    from: Vec<AtomicPtr<f32>>,
    to: Vec<AtomicPtr<f32>>,
}

/// What one rank gives another, in order.
struct Channel {
    sent: AtomicUsize,
    taken: AtomicUsize,
    from: Vec<AtomicPtr<f32>>,
}

impl Channel {
    fn new(most: usize) -> Self {
        let from = (0..most).map(|_| AtomicPtr::default()).collect();
        Self { sent: AtomicUsize::new(0), taken: AtomicUsize::new(0), from }
    }
}

/// Returns when `ready` says so; an error once any rank has failed.
fn wait(failed: &AtomicBool, ready: impl Fn() -> bool) -> Result<(), RuntimeError> {
    let mut spins = 0;
    while !ready() {
        if failed.load(Ordering::Relaxed) {
            return Err(RuntimeError::Settings("another rank failed".into()));
        }
        spins += 1;
        if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
    Ok(())
}

/// One rank's side of the exchanges between threads.
pub struct Threads {
    /// By number of the axis: to the next rank and from it, to the one before and from it.
    neighbours: Vec<[Option<Arc<Channel>>; 4]>,
    /// By number of the axis: the group, and this rank's place in it.
    groups: Vec<(Arc<Group>, usize)>,
    failed: Arc<AtomicBool>,
}

/// Looks at the others before the thread gives its core away.
const SPINS: u32 = 2_000;

/// Floats that are summed at a time.
const BLOCK: usize = 256;

/// Connects the ranks of a plan: one side for each.
pub fn connect(plan: &Plan) -> Vec<Threads> {
    let failed = Arc::new(AtomicBool::new(false));
    let mut made: std::collections::HashMap<(usize, u64), Arc<Group>> = Default::default();
    // One more than can be under way, so that a value given is never written over by the next.
    let most =
        plan.tables.schedules.values().flat_map(|s| &s.slots).max().map_or(1, |n| *n) as usize + 1;
    let mut ways: std::collections::HashMap<(usize, u64, u64), Arc<Channel>> = Default::default();
    (0..plan.ranks())
        .map(|rank| {
            let groups = plan
                .tables
                .mesh
                .iter()
                .enumerate()
                .map(|(n, (axis, _))| {
                    let members = plan.group(axis, rank);
                    let place = members.iter().position(|r| *r == rank).unwrap_or(0);
                    let new = || Arc::new(Group::new(members.len()));
                    (made.entry((n, members[0])).or_insert_with(new).clone(), place)
                })
                .collect();
            let mut way = |axis: usize, from: Option<u64>, to: Option<u64>| {
                let new = || Arc::new(Channel::new(most));
                Some(ways.entry((axis, from?, to?)).or_insert_with(new).clone())
            };
            let axes = plan.tables.mesh.iter().enumerate();
            let neighbours = axes
                .map(|(n, (axis, _))| {
                    let members = plan.group(axis, rank);
                    let place = members.iter().position(|r| *r == rank).unwrap_or(0);
                    let me = Some(rank);
                    let next = members.get(place + 1).copied();
                    let before = place.checked_sub(1).map(|p| members[p]);
                    [way(n, me, next), way(n, next, me), way(n, me, before), way(n, before, me)]
                })
                .collect();
            Threads { neighbours, groups, failed: failed.clone() }
        })
        .collect()
}

impl Group {
    fn new(size: usize) -> Self {
        let empty = || (0..size).map(|_| AtomicPtr::default()).collect();
        Self {
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            from: empty(),
            to: empty(),
        }
    }

    /// Returns when all have come here; an error once any rank has failed.
    fn meet(&self, failed: &AtomicBool) -> Result<(), RuntimeError> {
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.from.len() {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::Release);
            return Ok(());
        }
        wait(failed, || self.round.load(Ordering::Acquire) != round)
    }
}

impl Threads {
    /// Shows the others of the group this rank's ranges and waits for theirs.
    fn show(&self, axis: usize, from: *mut f32, to: *mut f32) -> Result<&Group, RuntimeError> {
        let (group, place) = &self.groups[axis];
        group.from[*place].store(from, Ordering::Relaxed);
        group.to[*place].store(to, Ordering::Relaxed);
        group.meet(&self.failed)?;
        Ok(group)
    }
}

impl Group {
    /// The sum over the ranks of `n` ≤ [`BLOCK`] floats that begin at `at` in each rank's `from`.
    ///
    /// # Safety
    /// All ranks must be inside the exchange, and nobody may write there meanwhile.
    unsafe fn sum(&self, at: usize, sum: &mut [f32]) {
        sum.fill(0.0);
        for other in &self.from {
            let x = other.load(Ordering::Relaxed);
            // SAFETY: the caller's word.
            let x = unsafe { std::slice::from_raw_parts(x.add(at), sum.len()) };
            sum.iter_mut().zip(x).for_each(|(s, x)| *s += x);
        }
    }
}

fn nobody() -> RuntimeError {
    RuntimeError::Settings("the plan hands a value to a rank that is not there".into())
}

impl Collectives for Threads {
    unsafe fn all_reduce(
        &self,
        axis: usize,
        from: *mut f32,
        to: *mut f32,
        elements: usize,
    ) -> Result<(), RuntimeError> {
        let group = self.show(axis, from, to)?;
        let (size, place) = self.place(axis);
        // Each rank sums its own stretch for all. Stretches are disjoint, so that a rank may write
        // where another one's operand was: nobody else reads that stretch of it.
        let share = elements.div_ceil(size);
        let (begin, end) = ((place * share).min(elements), ((place + 1) * share).min(elements));
        let mut block = [0f32; BLOCK];
        for at in (begin..end).step_by(BLOCK) {
            let sum = &mut block[..BLOCK.min(end - at)];
            // SAFETY: only this rank touches the stretch [begin, end) of any of the ranges.
            unsafe { group.sum(at, sum) };
            for other in &group.to {
                // SAFETY: as above; the sum lies in memory of its own.
                unsafe {
                    let to = other.load(Ordering::Relaxed).add(at);
                    std::ptr::copy_nonoverlapping(sum.as_ptr(), to, sum.len());
                }
            }
        }
        group.meet(&self.failed)
    }

    unsafe fn reduce_scatter(
        &self,
        axis: usize,
        from: *mut f32,
        to: *mut f32,
        [before, dim, after]: [usize; 3],
    ) -> Result<(), RuntimeError> {
        let group = self.show(axis, from, to)?;
        let (size, place) = self.place(axis);
        let run = dim / size * after;
        let mut block = [0f32; BLOCK];
        for i in 0..before {
            let first = i * dim * after + place * run;
            for at in (0..run).step_by(BLOCK) {
                let sum = &mut block[..BLOCK.min(run - at)];
                // SAFETY: nobody writes to an operand; `to` is this rank's own.
                unsafe {
                    group.sum(first + at, sum);
                    std::ptr::copy_nonoverlapping(sum.as_ptr(), to.add(i * run + at), sum.len());
                }
            }
        }
        group.meet(&self.failed)
    }

    unsafe fn all_gather(
        &self,
        axis: usize,
        from: *mut f32,
        to: *mut f32,
        [before, dim, after]: [usize; 3],
    ) -> Result<(), RuntimeError> {
        let group = self.show(axis, from, to)?;
        let run = dim / self.place(axis).0 * after;
        for (n, other) in group.from.iter().enumerate() {
            let part = other.load(Ordering::Relaxed);
            for i in 0..before {
                // SAFETY: nobody writes to an operand; `to` is this rank's own.
                unsafe {
                    let to = to.add(i * dim * after + n * run);
                    std::ptr::copy_nonoverlapping(part.add(i * run), to, run);
                }
            }
        }
        group.meet(&self.failed)
    }

    unsafe fn all_to_all(
        &self,
        axis: usize,
        back: bool,
        from: *mut f32,
        to: *mut f32,
        [before, first, between, second, after]: [usize; 5],
    ) -> Result<(), RuntimeError> {
        let group = self.show(axis, from, to)?;
        let (size, place) = self.place(axis);
        for (n, other) in group.from.iter().enumerate() {
            let part = other.load(Ordering::Relaxed);
            for i in 0..before {
                // Along the first dim: where the rows begin that the other has, or gives; how many.
                let (rows, get, give) = match back {
                    false => (first / size, i * first + n * (first / size), i * (first / size)),
                    true => (first / size, i * (first / size), i * first + place * (first / size)),
                };
                for row in 0..rows {
                    for j in 0..between {
                        let run = second / size * after;
                        let (to_row, from_row) =
                            ((get + row) * between + j, (give + row) * between + j);
                        let (at, begin) = match back {
                            false => (to_row * run, from_row * second * after + place * run),
                            true => (to_row * second * after + n * run, from_row * run),
                        };
                        // SAFETY: nobody writes to an operand; `to` is this rank's own.
                        unsafe { std::ptr::copy_nonoverlapping(part.add(begin), to.add(at), run) };
                    }
                }
            }
        }
        group.meet(&self.failed)
    }

    unsafe fn send(
        &self,
        axis: usize,
        forward: bool,
        from: *const f32,
        ahead: usize,
    ) -> Result<(), RuntimeError> {
        let channel = &self.neighbours[axis][if forward { 0 } else { 2 }];
        let channel = channel.as_ref().ok_or_else(nobody)?;
        let n = channel.sent.load(Ordering::Relaxed);
        channel.from[n % channel.from.len()].store(from.cast_mut(), Ordering::Relaxed);
        channel.sent.store(n + 1, Ordering::Release);
        wait(&self.failed, || channel.taken.load(Ordering::Acquire) + ahead > n)
    }

    unsafe fn receive(
        &self,
        axis: usize,
        forward: bool,
        to: *mut f32,
        elements: usize,
    ) -> Result<(), RuntimeError> {
        let channel = &self.neighbours[axis][if forward { 3 } else { 1 }];
        let channel = channel.as_ref().ok_or_else(nobody)?;
        let n = channel.taken.load(Ordering::Relaxed);
        wait(&self.failed, || channel.sent.load(Ordering::Acquire) > n)?;
        let from = channel.from[n % channel.from.len()].load(Ordering::Relaxed);
        // SAFETY: the sender keeps the value until it is taken; `to` is this rank's own.
        unsafe { std::ptr::copy_nonoverlapping(from, to, elements) };
        channel.taken.store(n + 1, Ordering::Release);
        Ok(())
    }

    fn place(&self, axis: usize) -> (usize, usize) {
        let (group, place) = &self.groups[axis];
        (group.from.len(), *place)
    }

    fn give_up(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::take_part;
    use super::*;

    fn plan(mesh: &[(&str, u64)]) -> Plan {
        let mut plan = Plan::default();
        plan.tables.mesh = mesh.iter().map(|(n, s)| (n.to_string(), *s)).collect();
        plan
    }

    #[test]
    fn sums_are_over_the_axis_and_in_order() {
        let plan = plan(&[("data", 2), ("tensor", 3)]);
        let value = |rank: usize, i: usize| ((rank * 7919 + i * 31) % 97) as f32 * 1e-3 + 1e4;
        for elements in [1, 2, 5, 777] {
            let results: Vec<(Vec<f32>, Vec<f32>)> = std::thread::scope(|s| {
                let running: Vec<_> = connect(&plan)
                    .into_iter()
                    .enumerate()
                    .map(|(rank, side)| {
                        s.spawn(move || {
                            let mut x: Vec<f32> = (0..elements).map(|i| value(rank, i)).collect();
                            let mut y = vec![f32::NAN; elements];
                            let (from, to) = (x.as_mut_ptr(), y.as_mut_ptr());
                            // SAFETY: both are this thread's, and all ranks make these calls.
                            unsafe {
                                side.all_reduce(1, from, to, elements).unwrap();
                                side.all_reduce(0, from, from, elements).unwrap();
                            }
                            (x, y)
                        })
                    })
                    .collect();
                running.into_iter().map(|r| r.join().unwrap()).collect()
            });
            for (rank, (x, y)) in results.iter().enumerate() {
                for i in 0..elements {
                    let sum = |ranks: &[usize]| ranks.iter().fold(0f32, |s, r| s + value(*r, i));
                    let row = rank / 3 * 3;
                    assert_eq!(y[i].to_bits(), sum(&[row, row + 1, row + 2]).to_bits());
                    assert_eq!(x[i].to_bits(), sum(&[rank % 3, rank % 3 + 3]).to_bits());
                }
            }
        }
    }

    #[test]
    fn parts_are_scattered_and_gathered() {
        let plan = plan(&[("data", 2), ("tensor", 3)]);
        let shape = [5, 6, 77];
        let all: usize = shape.iter().product();
        let value = |rank: usize, i: usize| ((rank * 7919 + i * 31) % 97) as f32 * 1e-3 + 1e4;
        std::thread::scope(|s| {
            for (rank, side) in connect(&plan).into_iter().enumerate() {
                s.spawn(move || {
                    let mut x: Vec<f32> = (0..all).map(|i| value(rank, i)).collect();
                    let mut want = vec![f32::NAN; all];
                    let mut part = vec![f32::NAN; all / 3];
                    let mut own = vec![f32::NAN; all / 3];
                    let mut whole = vec![f32::NAN; all];
                    let (from, to) = (x.as_mut_ptr(), part.as_mut_ptr());
                    // SAFETY: all are this thread's, and all ranks make these calls.
                    unsafe {
                        side.all_reduce(1, from, want.as_mut_ptr(), all).unwrap();
                        side.reduce_scatter(1, from, to, shape).unwrap();
                        take_part(side.place(1), want.as_ptr(), own.as_mut_ptr(), shape);
                        side.all_gather(1, to, whole.as_mut_ptr(), shape).unwrap();
                    }
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&part), bits(&own));
                    assert_eq!(bits(&whole), bits(&want));
                    let first = (0..3).fold(0f32, |s, r| s + value(rank / 3 * 3 + r, 0));
                    assert_eq!(whole[0].to_bits(), first.to_bits());
                });
            }
        });
    }

    /// Element (i, f, j, s, l) of the whole value is its number.
    #[test]
    fn parts_along_one_dim_become_parts_along_another() {
        let plan = plan(&[("data", 2), ("tensor", 3)]);
        let (a, b, c, d, e) = (2usize, 6usize, 3usize, 9usize, 2usize);
        let number =
            |i: [usize; 5]| ((((i[0] * b + i[1]) * c + i[2]) * d + i[3]) * e + i[4]) as f32;
        // The part of rank `n` of three along dim `at`.
        let part = |at: usize, n: usize| {
            let mut out = vec![];
            let sizes = [a, b, c, d, e];
            for k in 0..sizes.iter().product() {
                let (mut left, mut i) = (k, [0; 5]);
                for x in (0..5).rev() {
                    i[x] = left % sizes[x];
                    left /= sizes[x];
                }
                if i[at] / (sizes[at] / 3) == n {
                    out.push(number(i));
                }
            }
            out
        };
        std::thread::scope(|s| {
            for (rank, side) in connect(&plan).into_iter().enumerate() {
                s.spawn(move || {
                    let (mut x, want) = (part(1, rank % 3), part(3, rank % 3));
                    let mut y = vec![f32::NAN; x.len()];
                    let mut z = vec![f32::NAN; x.len()];
                    let (from, to, end) = (x.as_mut_ptr(), y.as_mut_ptr(), z.as_mut_ptr());
                    // SAFETY: all are this thread's, and all ranks make these calls.
                    unsafe {
                        side.all_to_all(1, false, from, to, [a, b, c, d, e]).unwrap();
                        side.all_to_all(1, true, to, end, [a, b, c, d, e]).unwrap();
                    }
                    assert_eq!(y, want);
                    assert_eq!(z, x);
                });
            }
        });
    }

    #[test]
    fn nobody_waits_for_a_rank_that_failed() {
        let plan = plan(&[("tensor", 2)]);
        let mut sides = connect(&plan);
        let (last, first) = (sides.pop().unwrap(), sides.pop().unwrap());
        let waiting = std::thread::spawn(move || {
            let mut x = [1f32];
            // SAFETY: the value is this thread's.
            unsafe { first.all_reduce(0, x.as_mut_ptr(), x.as_mut_ptr(), 1) }
        });
        last.give_up();
        assert!(waiting.join().unwrap().is_err());
    }
}
