//! What the transports' tests share: the same collectives for each, to compare what they give.

use Collective::{AllGather, AllReduce, AllToAll, AllToAllBack, ReduceScatter};
use neoxc_plan::{Address, Collective, Instr, Plan, Program};

use super::{Collectives, Sizes, Ticket};

const AHEAD: usize = 3;

/// Two data ranks × three along another axis, with room for collectives under way.
pub fn plan(second: &str) -> Plan {
    let mut plan = Plan::default();
    plan.tables.mesh = vec![("data".into(), 2), (second.into(), 3)];
    let at = || Address { segment: 0, offset: 0, strides: vec![] };
    let start = |event: usize, axis: &str| Instr::Collective {
        kind: AllReduce,
        axis: axis.into(),
        shape: vec![1, 1, 1],
        from: at(),
        to: at(),
        event: Some(event),
        loc: String::new(),
    };
    let body = (0..=AHEAD).flat_map(|e| [start(2 * e, "data"), start(2 * e + 1, second)]);
    plan.programs.push(Program { body: body.collect(), ..Default::default() });
    plan
}

/// Runs `program` on every side at once; the results by rank.
pub fn on_all<S: Send, T: Send>(sides: Vec<S>, program: impl Fn(u64, &S) -> T + Sync) -> Vec<T> {
    std::thread::scope(|s| {
        let start = |(side, rank): (S, u64)| {
            let program = &program;
            s.spawn(move || program(rank, &side))
        };
        let running: Vec<_> = sides.into_iter().zip(0..).map(start).collect();
        running.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

/// Collective `n` of the test: axis, kind, sizes, and whether it is in place.
pub fn what(n: usize) -> (usize, Collective, Sizes, bool) {
    let kinds = [AllReduce, ReduceScatter, AllGather, AllToAll, AllReduce, AllToAllBack];
    let kind = kinds[n / 2 % 6];
    let shape = match kind {
        AllToAll | AllToAllBack => [1 + n % 3, 6, 1 + n % 5, 12, 1 + n * n % 90],
        // Several chunks, one that ends early, or whole operands.
        _ => [1 + n % 3, 6 * (1 + n % 4), 1 + n * n * 37 % 9_000, 1, 1],
    };
    (n % 2, kind, shape, kind == AllReduce && n.is_multiple_of(3))
}

/// Starts 36 collectives and waits for each a few later, in an order of the rank's own; all results.
pub fn collectives(rank: u64, side: &dyn Collectives) -> Vec<Vec<u32>> {
    const ALL: usize = 36;
    let mut values: Vec<[Vec<f32>; 2]> = (0..ALL)
        .map(|n| {
            let all: usize = what(n).2.iter().product();
            let x =
                |i: usize| ((rank as usize * 7919 + n * 131 + i * 31) % 97) as f32 * 1e-3 - 0.05;
            [(0..all).map(x).collect(), vec![f32::NAN; all]]
        })
        .collect();
    let mut under_way: Vec<(usize, Ticket)> = vec![];
    let mut random = rank as u32 + 1;
    for (n, [from, to]) in values.iter_mut().enumerate() {
        let (axis, kind, shape, in_place) = what(n);
        let from = from.as_mut_ptr();
        let to = if in_place { from } else { to.as_mut_ptr() };
        // SAFETY: all ranks start these, and wait for each once.
        under_way.push((axis, unsafe { side.start(axis, kind, shape, from, to).unwrap() }));
        while under_way.len() > AHEAD || n == ALL - 1 && !under_way.is_empty() {
            random = random.wrapping_mul(1_664_525).wrapping_add(1);
            let (axis, ticket) = under_way.remove((random >> 8) as usize % under_way.len());
            // SAFETY: as above.
            unsafe { side.wait(axis, ticket).unwrap() };
        }
    }
    let bits = |v: Vec<f32>| v.iter().map(|x| x.to_bits()).collect();
    let result = |(n, [from, to]): (usize, [Vec<f32>; 2])| bits(if what(n).3 { from } else { to });
    values.into_iter().enumerate().map(result).collect()
}

/// Values go around axis 1 both ways on two channels, a few ahead; a slot changes once it need not stay.
pub fn sends(rank: u64, side: &dyn Collectives) {
    let (row, place) = (rank / 3 * 3, rank % 3);
    let (before, next) = (row + (place + 2) % 3, row + (place + 1) % 3);
    let value = |rank: u64, n: u64, channel: usize| (rank * 1000 + n * 10) as f32 + channel as f32;
    for n in 0..20 {
        for (way, sender) in [((true, 0), before), ((false, 0), next), ((true, 1), before)] {
            let slot = [value(rank, n, way.1); 5];
            let mut to = [0f32; 5];
            // SAFETY: the slot lives until nothing of it is left.
            unsafe {
                side.send(1, way, slot.as_ptr(), 5, 2).unwrap();
                side.receive(1, way, to.as_mut_ptr(), 5).unwrap();
            }
            side.settle().unwrap();
            assert_eq!(to, [value(sender, n, way.1); 5]);
        }
    }
}
