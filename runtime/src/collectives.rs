//! Exchanges between ranks.
//!
//! [`Collectives`] is what the executor needs of a transport; [`Threads`] is the embedded one: ranks are
//! threads of this process and see each other's memory. Sums are made in the order of the ranks,
//! whoever makes them, so that results repeat to the bit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use neoxc_plan::Plan;

use crate::RuntimeError;

/// What one rank asks of the others.
pub trait Collectives: Send {
    /// Sums `elements` floats at `from` over the ranks that differ along `axis` (its number in the
    /// plan's mesh) and leaves the sum at `to` on each of them. `from` and `to` may be the same.
    ///
    /// # Safety
    /// Both ranges must be this rank's to use until the call returns, and every rank of the group
    /// must make the same calls in the same order.
    unsafe fn all_reduce(
        &self,
        axis: usize,
        from: *mut f32,
        to: *mut f32,
        elements: usize,
    ) -> Result<(), RuntimeError>;
    /// Tells the others not to wait for this rank any more.
    fn give_up(&self);
}

/// Ranks that meet in one group.
struct Group {
    arrived: AtomicUsize,
    round: AtomicUsize,
    from: Vec<AtomicPtr<f32>>,
    to: Vec<AtomicPtr<f32>>,
}

/// One rank's side of the exchanges between threads.
pub struct Threads {
    /// By number of the axis: the group, and this rank's place in it.
    groups: Vec<(Arc<Group>, usize)>,
    failed: Arc<AtomicBool>,
}

/// Looks at the others before the thread gives its core away.
const SPINS: u32 = 2_000;

/// Connects the ranks of a plan: one side for each.
pub fn connect(plan: &Plan) -> Vec<Threads> {
    let failed = Arc::new(AtomicBool::new(false));
    let mut made: std::collections::HashMap<(usize, u64), Arc<Group>> = Default::default();
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
            Threads { groups, failed: failed.clone() }
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
        let mut spins = 0;
        while self.round.load(Ordering::Acquire) == round {
            if failed.load(Ordering::Relaxed) {
                return Err(RuntimeError::Settings("another rank failed".into()));
            }
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        Ok(())
    }
}

impl Collectives for Threads {
    unsafe fn all_reduce(
        &self,
        axis: usize,
        from: *mut f32,
        to: *mut f32,
        elements: usize,
    ) -> Result<(), RuntimeError> {
        let (group, place) = &self.groups[axis];
        let size = group.from.len();
        group.from[*place].store(from, Ordering::Relaxed);
        group.to[*place].store(to, Ordering::Relaxed);
        group.meet(&self.failed)?;
        // Each rank sums its own stretch for all. Stretches are disjoint, so that a rank may write
        // where another one's operand was: nobody else reads that stretch of it.
        let share = elements.div_ceil(size);
        let (begin, end) = ((place * share).min(elements), ((place + 1) * share).min(elements));
        const BLOCK: usize = 256;
        let mut sum = [0f32; BLOCK];
        for at in (begin..end).step_by(BLOCK) {
            let n = BLOCK.min(end - at);
            sum[..n].fill(0.0);
            for other in &group.from {
                // SAFETY: all ranks are inside this call, so their ranges stay valid, and only this
                // rank touches the stretch [begin, end) of any of them.
                let x =
                    unsafe { std::slice::from_raw_parts(other.load(Ordering::Relaxed).add(at), n) };
                sum[..n].iter_mut().zip(x).for_each(|(s, x)| *s += x);
            }
            for other in &group.to {
                // SAFETY: as above; the sum lies in memory of its own.
                unsafe {
                    let to = other.load(Ordering::Relaxed).add(at);
                    std::ptr::copy_nonoverlapping(sum.as_ptr(), to, n);
                }
            }
        }
        group.meet(&self.failed)
    }

    fn give_up(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
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
