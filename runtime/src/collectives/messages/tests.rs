//! Messages against threads: the same collectives, over a wire that delivers late and in any order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use neoxc_plan::{Collective::AllReduce, Plan};

use super::super::connect;
use super::super::testing::{collectives, on_all, plan, sends, what};
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

fn sides(plan: &Plan, health: &Arc<Health>) -> Vec<Messages<Slow>> {
    let wires = Slow::all(plan.ranks()).into_iter().zip(0..);
    wires.map(|(wire, rank)| Messages::new(plan, rank, wire, health.clone()).unwrap()).collect()
}

#[test]
fn messages_give_the_same_bits_as_threads() {
    let plan = plan("tensor");
    let threads = on_all(connect(&plan), |rank, side| collectives(rank, side));
    let messages = on_all(sides(&plan, &Arc::default()), |rank, side| collectives(rank, side));
    assert!(threads[0][1].iter().any(|x| f32::from_bits(*x).is_finite()));
    for (rank, (a, b)) in threads.iter().zip(&messages).enumerate() {
        for n in 0..a.len() {
            assert!(a[n] == b[n], "rank {rank}: {:?}", what(n));
        }
    }
}

#[test]
fn sends_come_in_order_and_words_reach_all() {
    let words = on_all(sides(&plan("tensor"), &Arc::default()), |rank, side| {
        sends(rank, side);
        side.all_gather(&vec![rank as u8; rank as usize * 3]).unwrap()
    });
    for words in words {
        for (r, w) in words.iter().enumerate() {
            assert_eq!(*w, vec![r as u8; r * 3]);
        }
    }
}

/// Rank 1 never comes: rank 0 learns that it is lost and says for whom it waited.
#[test]
fn a_lost_rank_ends_every_wait_and_those_waited_for_are_named() {
    let health = Arc::new(Health::default());
    let mut sides = sides(&plan("tensor"), &health);
    let side = sides.remove(0);
    let waiting = std::thread::spawn(move || {
        let mut x = [1f32; 6];
        // SAFETY: the value is this thread's.
        unsafe { side.collective(1, AllReduce, [1, 6, 1, 1, 1], x.as_mut_ptr(), x.as_mut_ptr()) }
    });
    std::thread::sleep(Duration::from_millis(50));
    health.lose(Loss { rank: 5, how: How::Silent(3) });
    let e = waiting.join().unwrap().unwrap_err().at("`all_reduce tensor` (here)").to_string();
    let want = "rank 5 was silent for 3 s: it is stopped, or the link to it is cut; rank 0 waited for ranks \
                1, 2 in `all_reduce tensor` (here)";
    assert_eq!(e, want);
}
