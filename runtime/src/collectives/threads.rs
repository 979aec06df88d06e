//! The embedded transport: ranks are threads of this process and see each other's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use neoxc_plan::{Collective, ENDS, Plan};

use super::meeting::{Group, Work};
use super::{Collectives, Sizes, Ticket};
use crate::RuntimeError;
use crate::backoff::Backoff;

/// The values that one rank sends to another, in order.
struct Channel {
    sent: AtomicUsize,
    received: AtomicUsize,
    from: Vec<AtomicPtr<f32>>,
}

impl Channel {
    fn new(most: usize) -> Self {
        let from = (0..most).map(|_| AtomicPtr::default()).collect();
        Self { sent: AtomicUsize::new(0), received: AtomicUsize::new(0), from }
    }
}

/// Returns when `ready` says so; an error once any rank has failed.
pub(super) fn wait(failed: &AtomicBool, ready: impl Fn() -> bool) -> Result<(), RuntimeError> {
    let mut backoff = Backoff::new(true);
    while !ready() {
        if failed.load(Ordering::Relaxed) {
            return Err(RuntimeError::Settings("another rank failed".into()));
        }
        backoff.pause();
    }
    Ok(())
}

/// One rank's side of the collectives between threads.
pub struct Threads {
    /// By number of the axis and channel: to the next rank and from it, to the one before and from it.
    neighbours: Vec<Vec<[Arc<Channel>; 4]>>,
    /// By number of the axis: the group, and this rank's place in it.
    groups: Vec<(Arc<Group>, usize)>,
    /// By number of the axis: collectives that this rank has started, and how many of them are finished.
    streams: Vec<[AtomicU64; 2]>,
    failed: Arc<AtomicBool>,
}

/// Connects the ranks of a plan: one side for each.
pub fn connect(plan: &Plan) -> Vec<Threads> {
    let failed = Arc::new(AtomicBool::new(false));
    let mut made: std::collections::HashMap<(usize, u64), Arc<Group>> = Default::default();
    // One more than can be under way, so that a value sent is never overwritten by the next.
    let schedules = plan.tables.schedules.values();
    let most = schedules.clone().flat_map(|s| s.slots.iter().flatten()).max().map_or(1, |n| *n);
    let most = most as usize + 1;
    let channels = schedules.map(|s| s.chunks()).max().unwrap_or(1);
    let mut ways: std::collections::HashMap<(usize, u64, u64, bool, usize), Arc<Channel>> =
        Default::default();
    (0..plan.ranks())
        .map(|rank| {
            // The ends of a pipeline come behind the axes of the mesh.
            let names = plan.tables.mesh.iter().map(|(axis, _)| axis.as_str()).chain([ENDS]);
            let groups = names
                .enumerate()
                .map(|(n, axis)| {
                    let members = plan.group(axis, rank);
                    let place = members.iter().position(|r| *r == rank).unwrap_or(0);
                    let new = || Arc::new(Group::new(members.len(), plan.most_under_way(axis)));
                    (made.entry((n, members[0])).or_insert_with(new).clone(), place)
                })
                .collect();
            let mut way = |axis: usize, from: u64, to: u64, forward: bool, channel: usize| {
                let new = || Arc::new(Channel::new(most));
                ways.entry((axis, from, to, forward, channel)).or_insert_with(new).clone()
            };
            let axes = plan.tables.mesh.iter().enumerate();
            let neighbours = axes
                .map(|(n, (axis, _))| {
                    let members = plan.group(axis, rank);
                    let (size, place) =
                        (members.len(), members.iter().position(|r| *r == rank).unwrap_or(0));
                    let next = members[(place + 1) % size];
                    let before = members[(place + size - 1) % size];
                    let channel = |channel| {
                        [
                            way(n, rank, next, true, channel),
                            way(n, next, rank, false, channel),
                            way(n, rank, before, false, channel),
                            way(n, before, rank, true, channel),
                        ]
                    };
                    (0..channels).map(channel).collect()
                })
                .collect();
            let streams = (0..=plan.tables.mesh.len()).map(|_| Default::default()).collect();
            Threads { neighbours, groups, streams, failed: failed.clone() }
        })
        .collect()
}

fn nobody() -> RuntimeError {
    RuntimeError::Settings("the plan hands a value to a rank that is not there".into())
}

impl Collectives for Threads {
    unsafe fn start(
        &self,
        axis: usize,
        kind: Collective,
        shape: Sizes,
        from: *mut f32,
        to: *mut f32,
    ) -> Result<Ticket, RuntimeError> {
        let (group, place) = &self.groups[axis];
        let [started, _] = &self.streams[axis];
        let ticket = started.load(Ordering::Relaxed);
        group.come(ticket, *place, Work { kind, shape }, [from, to], &self.failed)?;
        started.store(ticket + 1, Ordering::Relaxed);
        Ok(Ticket(ticket))
    }

    unsafe fn wait(&self, axis: usize, ticket: Ticket) -> Result<(), RuntimeError> {
        // A stream has an order: what was started before is finished before.
        let [_, finished] = &self.streams[axis];
        for n in finished.load(Ordering::Relaxed)..=ticket.0 {
            // SAFETY: the caller's word at the start, and that of every rank of the group.
            unsafe { self.groups[axis].0.finish(n, &self.failed)? };
            finished.store(n + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    unsafe fn send(
        &self,
        axis: usize,
        (forward, channel): (bool, usize),
        from: *const f32,
        _elements: usize,
        ahead: usize,
    ) -> Result<(), RuntimeError> {
        let channels = self.neighbours[axis].get(channel).ok_or_else(nobody)?;
        let channel = &channels[if forward { 0 } else { 2 }];
        let n = channel.sent.load(Ordering::Relaxed);
        channel.from[n % channel.from.len()].store(from.cast_mut(), Ordering::Relaxed);
        channel.sent.store(n + 1, Ordering::Release);
        wait(&self.failed, || channel.received.load(Ordering::Acquire) + ahead > n)
    }

    unsafe fn receive(
        &self,
        axis: usize,
        (forward, channel): (bool, usize),
        to: *mut f32,
        elements: usize,
    ) -> Result<(), RuntimeError> {
        let channels = self.neighbours[axis].get(channel).ok_or_else(nobody)?;
        let channel = &channels[if forward { 3 } else { 1 }];
        let n = channel.received.load(Ordering::Relaxed);
        wait(&self.failed, || channel.sent.load(Ordering::Acquire) > n)?;
        let from = channel.from[n % channel.from.len()].load(Ordering::Relaxed);
        // SAFETY: the sender keeps the value until it is received; `to` is this rank's own.
        unsafe { std::ptr::copy_nonoverlapping(from, to, elements) };
        channel.received.store(n + 1, Ordering::Release);
        Ok(())
    }

    fn settle(&self) -> Result<(), RuntimeError> {
        // All ranks end a program together (`Ranks::run`), and then everything is received.
        Ok(())
    }

    fn place(&self, axis: usize) -> (usize, usize) {
        let (group, place) = &self.groups[axis];
        (group.size(), *place)
    }

    fn give_up(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use Collective::{AllGather, AllReduce, AllToAll, AllToAllBack, ReduceScatter};

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
                                let shape = [1, elements, 1, 1, 1];
                                side.collective(1, AllReduce, shape, from, to).unwrap();
                                side.collective(0, AllReduce, shape, from, from).unwrap();
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
        let shape = [5, 6, 77, 1, 1];
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
                        side.collective(1, AllReduce, shape, from, want.as_mut_ptr()).unwrap();
                        side.collective(1, ReduceScatter, shape, from, to).unwrap();
                        take_part(side.place(1), want.as_ptr(), own.as_mut_ptr(), [5, 6, 77]);
                        side.collective(1, AllGather, shape, to, whole.as_mut_ptr()).unwrap();
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
                        side.collective(1, AllToAll, [a, b, c, d, e], from, to).unwrap();
                        side.collective(1, AllToAllBack, [a, b, c, d, e], to, end).unwrap();
                    }
                    assert_eq!(y, want);
                    assert_eq!(z, x);
                });
            }
        });
    }

    /// Collectives of several kinds and sizes, on both axes, each waited for a few collectives later, in
    /// another order on every rank: each gives what the same collective alone gives.
    #[test]
    fn started_collectives_are_the_same_whenever_they_are_waited_for() {
        const AHEAD: usize = 5;
        let mut plan = plan(&[("data", 2), ("tensor", 3)]);
        let at = || neoxc_plan::Address { segment: 0, offset: 0, strides: vec![] };
        let start = |event: usize, axis: &str| neoxc_plan::Instr::Collective {
            kind: AllReduce,
            axis: axis.into(),
            shape: vec![1, 1, 1],
            from: at(),
            to: at(),
            event: Some(event),
            loc: String::new(),
        };
        let body = (0..AHEAD).flat_map(|e| [start(2 * e, "data"), start(2 * e + 1, "tensor")]);
        let program = neoxc_plan::Program { body: body.collect(), ..Default::default() };
        plan.programs.push(program);
        let kinds = [AllReduce, ReduceScatter, AllGather];
        let what = |n: usize| {
            let (axis, kind) = (n % 2, kinds[n / 2 % 3]);
            (axis, kind, [1 + n % 3, 6 * (1 + n % 5), 1 + n * n % 700, 1, 1])
        };
        let run = |ahead: usize| -> Vec<Vec<Vec<f32>>> {
            std::thread::scope(|s| {
                let running: Vec<_> = connect(&plan)
                    .into_iter()
                    .enumerate()
                    .map(|(rank, side)| {
                        s.spawn(move || {
                            let mut values: Vec<[Vec<f32>; 2]> = (0..60)
                                .map(|n| {
                                    let all = what(n).2.iter().product();
                                    let x = |i| ((rank * 7919 + n * 131 + i * 31) % 97) as f32;
                                    let from = (0..all).map(|i| x(i) * 1e-3 + 1e4).collect();
                                    [from, vec![f32::NAN; all]]
                                })
                                .collect();
                            let mut under_way: Vec<(usize, Ticket)> = vec![];
                            let mut random = rank as u32 + 1;
                            for (n, [from, to]) in values.iter_mut().enumerate() {
                                let (axis, kind, shape) = what(n);
                                let (from, to) = (from.as_mut_ptr(), to.as_mut_ptr());
                                // SAFETY: all ranks start these, and wait for each once.
                                unsafe {
                                    let ticket = side.start(axis, kind, shape, from, to).unwrap();
                                    under_way.push((axis, ticket));
                                }
                                while under_way.len() > ahead || n == 59 && !under_way.is_empty() {
                                    random = random.wrapping_mul(1_664_525).wrapping_add(1);
                                    let at = (random >> 8) as usize % under_way.len();
                                    let (axis, ticket) = under_way.remove(at);
                                    // SAFETY: as above.
                                    unsafe { side.wait(axis, ticket).unwrap() };
                                }
                                if n % 7 == rank {
                                    std::thread::sleep(std::time::Duration::from_micros(200));
                                }
                            }
                            values.into_iter().map(|[_, to]| to).collect()
                        })
                    })
                    .collect();
                running.into_iter().map(|r| r.join().unwrap()).collect()
            })
        };
        let bits = |x: &Vec<Vec<Vec<f32>>>| -> Vec<u32> {
            x.iter().flatten().flatten().map(|x| x.to_bits()).collect()
        };
        let alone = run(0);
        assert!(alone[0][0].iter().all(|x| x.is_finite()));
        for _ in 0..5 {
            assert!(bits(&run(AHEAD)) == bits(&alone));
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
            unsafe { first.collective(0, AllReduce, [1; 5], x.as_mut_ptr(), x.as_mut_ptr()) }
        });
        last.give_up();
        assert!(waiting.join().unwrap().is_err());
    }
}
