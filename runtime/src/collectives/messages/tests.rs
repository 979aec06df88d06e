//! Messages against threads: the same exchanges, over a wire that delivers late and in any order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use Exchange::{AllGather, AllReduce, AllToAll, AllToAllBack, ReduceScatter};
use neoxc_plan::{Address, Exchange, Instr, Plan, Program};

use super::super::connect;
use super::*;
use crate::health::{How, Loss};

/// By (from, to, tag, number): what was sent.
type Mail = Arc<Mutex<HashMap<(u64, u64, u32, u64), Vec<u8>>>>;

/// A wire in which everything is done some time after it was asked for.
struct Slow {
    me: u64,
    mail: Mail,
    /// Messages of each (other, tag): sent, received.
    sent: HashMap<(u64, u32), u64>,
    received: HashMap<(u64, u32), u64>,
    /// Sends that have not left.
    leaving: Vec<Pending>,
    random: u32,
}

#[derive(Clone)]
struct Pending {
    key: (u64, u64, u32, u64),
    bytes: *mut u8,
    len: usize,
    sends: bool,
    done: bool,
}

// SAFETY: the pointers are used under the engine's lock only.
unsafe impl Send for Pending {}

impl Slow {
    fn all(ranks: u64) -> Vec<Slow> {
        let mail = Mail::default();
        let new = |me| Slow {
            me,
            mail: mail.clone(),
            sent: HashMap::new(),
            received: HashMap::new(),
            leaving: vec![],
            random: me as u32 + 1,
        };
        (0..ranks).map(new).collect()
    }
}

impl Wire for Slow {
    type Request = Pending;

    unsafe fn send(
        &mut self,
        rank: u64,
        tag: u32,
        from: *const u8,
        len: usize,
    ) -> Result<Pending, RuntimeError> {
        let n = self.sent.entry((rank, tag)).or_default();
        let key = (self.me, rank, tag, *n);
        *n += 1;
        let sent = Pending { key, bytes: from.cast_mut(), len, sends: true, done: false };
        self.leaving.push(sent.clone());
        Ok(sent)
    }

    unsafe fn receive(
        &mut self,
        rank: u64,
        tag: u32,
        to: *mut u8,
        len: usize,
    ) -> Result<Pending, RuntimeError> {
        let n = self.received.entry((rank, tag)).or_default();
        let key = (rank, self.me, tag, *n);
        *n += 1;
        Ok(Pending { key, bytes: to, len, sends: false, done: false })
    }

    fn done(&mut self, r: &mut Pending) -> Result<bool, RuntimeError> {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut mail = self.mail.lock().unwrap();
        // As MPI does, a call moves on whatever is under way: what is sent is read as late as may be.
        if self.random >> 30 == 0 && !self.leaving.is_empty() {
            let at = (self.random >> 8) as usize % self.leaving.len();
            let sent = self.leaving.remove(at);
            // SAFETY: the bytes stay until the request is done.
            let bytes = unsafe { std::slice::from_raw_parts(sent.bytes, sent.len) };
            mail.insert(sent.key, bytes.to_vec());
        }
        if r.sends {
            r.done = self.leaving.iter().all(|l| l.key != r.key);
        } else if self.random >> 29 == 1
            && let Some(bytes) = mail.remove(&r.key)
        {
            assert_eq!(bytes.len(), r.len, "both sides mean the same message");
            // SAFETY: nobody else uses them until the request is done.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), r.bytes, r.len) };
            r.done = true;
        }
        Ok(r.done)
    }
}

const AHEAD: usize = 3;

/// Two data × three tensor ranks, with room for exchanges under way.
fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.tables.mesh = vec![("data".into(), 2), ("tensor".into(), 3)];
    let at = || Address { segment: 0, offset: 0, strides: vec![] };
    let start = |event: usize, axis: &str| Instr::Exchange {
        kind: AllReduce,
        axis: axis.into(),
        shape: vec![1, 1, 1],
        from: at(),
        to: at(),
        event: Some(event),
        loc: String::new(),
    };
    let body = (0..=AHEAD).flat_map(|e| [start(2 * e, "data"), start(2 * e + 1, "tensor")]);
    plan.programs.push(Program { body: body.collect(), ..Default::default() });
    plan
}

fn sides(plan: &Plan, health: &Arc<Health>) -> Vec<Messages<Slow>> {
    let wires = Slow::all(plan.ranks()).into_iter().zip(0..);
    wires.map(|(wire, rank)| Messages::new(plan, rank, wire, health.clone()).unwrap()).collect()
}

/// Runs `program` on every side at once; the results by rank.
fn on_all<S: Send, T: Send>(sides: Vec<S>, program: impl Fn(u64, &S) -> T + Sync) -> Vec<T> {
    std::thread::scope(|s| {
        let start = |(side, rank): (S, u64)| {
            let program = &program;
            s.spawn(move || program(rank, &side))
        };
        let running: Vec<_> = sides.into_iter().zip(0..).map(start).collect();
        running.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

/// Exchange `n` of the test: axis, kind, sizes, and whether it is in place.
fn what(n: usize) -> (usize, Exchange, Sizes, bool) {
    let kinds = [AllReduce, ReduceScatter, AllGather, AllToAll, AllReduce, AllToAllBack];
    let kind = kinds[n / 2 % 6];
    let shape = match kind {
        AllToAll | AllToAllBack => [1 + n % 3, 6, 1 + n % 5, 12, 1 + n * n % 90],
        // Several chunks, one that ends early, or whole operands.
        _ => [1 + n % 3, 6 * (1 + n % 4), 1 + n * n * 37 % 9_000, 1, 1],
    };
    (n % 2, kind, shape, kind == AllReduce && n.is_multiple_of(3))
}

/// Starts 36 exchanges and waits for each a few later, in an order of the rank's own; all results.
fn exchanges(rank: u64, side: &dyn Collectives) -> Vec<Vec<u32>> {
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

#[test]
fn messages_give_the_same_bits_as_threads() {
    let plan = plan();
    let threads = on_all(connect(&plan), |rank, side| exchanges(rank, side));
    let messages = on_all(sides(&plan, &Arc::default()), |rank, side| exchanges(rank, side));
    assert!(threads[0][1].iter().any(|x| f32::from_bits(*x).is_finite()));
    for (rank, (a, b)) in threads.iter().zip(&messages).enumerate() {
        for n in 0..a.len() {
            assert!(a[n] == b[n], "rank {rank}: {:?}", what(n));
        }
    }
}

/// Values go around both ways on two lanes, a few ahead; a value changes once it need not stay.
#[test]
fn gifts_come_in_order_and_words_reach_all() {
    let got = on_all(sides(&plan(), &Arc::default()), |rank, side| {
        let mut sum = vec![];
        let mut slots = [[0f32; 5]; 3];
        for n in 0..20usize {
            for way in [(true, 0), (false, 0), (true, 1)] {
                let slot = &mut slots[n % 3];
                slot.fill((rank * 1000 + n as u64 * 10) as f32 + way.1 as f32);
                let mut to = [0f32; 5];
                // SAFETY: the slot is filled again only when nothing of it is left.
                unsafe {
                    side.send(1, way, slot.as_ptr(), 5, 2).unwrap();
                    side.receive(1, way, to.as_mut_ptr(), 5).unwrap();
                }
                side.settle().unwrap();
                sum.push(to[4]);
            }
        }
        let words = side.all_gather(&vec![rank as u8; rank as usize * 3]).unwrap();
        (sum, words)
    });
    for (rank, (sum, words)) in got.iter().enumerate() {
        let (row, place) = (rank / 3 * 3, rank % 3);
        let (before, next) = (row + (place + 2) % 3, row + (place + 1) % 3);
        for n in 0..20 {
            let want = [(before, 0), (next, 0), (before, 1)].map(|(r, l)| r * 1000 + n * 10 + l);
            assert_eq!(sum[3 * n..3 * n + 3], want.map(|w| w as f32));
        }
        for (r, w) in words.iter().enumerate() {
            assert_eq!(*w, vec![r as u8; r * 3]);
        }
    }
}

/// Rank 1 never comes: rank 0 learns that it is lost and says for whom it waited.
#[test]
fn a_lost_rank_ends_every_wait_and_those_waited_for_are_named() {
    let health = Arc::new(Health::default());
    let mut sides = sides(&plan(), &health);
    let side = sides.remove(0);
    let waiting = std::thread::spawn(move || {
        let mut x = [1f32; 6];
        // SAFETY: the value is this thread's.
        unsafe { side.exchange(1, AllReduce, [1, 6, 1, 1, 1], x.as_mut_ptr(), x.as_mut_ptr()) }
    });
    std::thread::sleep(Duration::from_millis(50));
    health.lose(Loss { rank: 5, how: How::Silent(3) });
    let e = waiting.join().unwrap().unwrap_err().at("`all_reduce tensor` (here)").to_string();
    let want = "rank 5 was silent for 3 s: it is stopped, or the link to it is cut; rank 0 waited for ranks \
                1, 2 in `all_reduce tensor` (here)";
    assert_eq!(e, want);
}
