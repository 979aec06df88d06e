//! `overlap-collectives`: collectives go on beside what does not need them.
//!
//! ```text
//! %1 = all_reduce(%0)          %1 = all_reduce(%0)     what follows runs beside it
//! %2 = call @norm(%1)     ⇒    %3 = call @matmul(…)
//! %3 = call @matmul(…)         %4 = wait(%1)
//!                              %2 = call @norm(%4)
//! ```
//! Every function is put in the order in which a rank with one compute stream and one stream per mesh axis
//! would get through it soonest, by the machine's rates: collectives start when their operand is there (a
//! gather of weights: when it is time), ops that need one that is not done let later ones go first, and
//! waits stand before first uses. Nothing is on its way when a program ends, or when the next iteration of a loop
//! would need it or its bytes. What an iteration only leaves behind, one result of many, may be on its way longer:
//! it is waited for behind the loop (and, in a plan, before the next iteration starts its like).
//!
//! What is on its way, or made earlier than it was, takes memory. The pass places the program both ways and
//! takes less of it until the arena has grown by no more than an eighth of what activations take.
//!
//! Invariant: ops and their operands stay what they were; only their order changes, and waits are added. All
//! ranks run the same program, so all start the collectives of an axis in the same order.

mod order;
mod times;

use neoxc_ir::{Function, Module, OpKind, ValueId, keys};

use self::order::Order;
pub use self::times::Times;
use crate::entries::entries;
use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};
use crate::place_memory;

/// The pass.
pub const PASS: Pass = Pass {
    name: "overlap-collectives",
    doc: "start collectives early and wait for them late",
    requires: &[Fact::OneCallSite, Fact::InKernels],
    ensures: &[Fact::WaitedFor],
    run,
};

/// The arena may grow by this part of what activations take without: the arena, and slots.
const GROWTH: u64 = 8;

/// Bytes that may always be taken.
const LEAST: u64 = 1 << 20;

/// Bytes of the arena as it is, and by how many it may grow.
fn room(m: &Module) -> Result<(u64, u64), PassError> {
    let (arena, slots) = place_memory::arena(m)?;
    Ok((arena, ((arena + slots) / GROWTH).max(LEAST)))
}

/// Bytes that collectives may take to go on beside compute.
pub fn budget(m: &Module) -> Result<u64, PassError> {
    Ok(room(m)?.1)
}

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    if cx.degrees.ranks() == 1 || !cx.overlap {
        return Ok(PassReport::default());
    }
    m.functions.iter_mut().for_each(without_waits);
    let (before, most) = room(m)?;
    // What a function may have ahead of its time; less, if the whole grows by more than that.
    for ahead in [most, most / 2, most / 4, most / 16] {
        let mut new = m.clone();
        let mut times = Times::new(cx);
        let (mut blocking, mut overlapped) = (0.0, 0.0);
        for entry in &entries(m) {
            blocking += times.blocking(m, entry);
            let Some(f) = new.function(entry).cloned() else { continue };
            overlapped += reorder(&mut new, &f, None, ahead, &mut times)?;
        }
        let (after, _) = place_memory::arena(&new)?;
        if after > before + most {
            continue;
        }
        let waits =
            new.functions.iter().flat_map(|f| &f.ops).filter(|o| o.kind == OpKind::Wait).count();
        if waits == 0 {
            break;
        }
        let note = format!(
            "{waits} collectives overlapped: {:.2} ms shorter by the machine's rates ({:.2} → {:.2}), \
             {} bytes of memory more",
            1e3 * (blocking - overlapped),
            1e3 * blocking,
            1e3 * overlapped,
            after.saturating_sub(before)
        );
        *m = new;
        return Ok(PassReport { notes: vec![note] });
    }
    Ok(PassReport { notes: vec!["no collective is worth the memory it takes on its way".into()] })
}

/// Takes the waits of an earlier run away.
pub fn without_waits(f: &mut Function) {
    let waits: Vec<(ValueId, ValueId)> = f
        .ops
        .iter()
        .filter(|op| op.kind == OpKind::Wait)
        .map(|op| (op.results[0], op.operands[0]))
        .collect();
    f.ops.retain(|op| op.kind != OpKind::Wait);
    for (waited, made) in waits {
        let uses = f.ops.iter_mut().flat_map(|op| &mut op.operands).chain(&mut f.results);
        uses.filter(|v| **v == waited).for_each(|v| *v = made);
    }
    f.renumber();
}

/// Reorders a function, its callees first; gives its seconds. `carried`: it is the body of a loop that hands on
/// so many values.
fn reorder(
    m: &mut Module,
    f: &Function,
    carried: Option<usize>,
    ahead: u64,
    times: &mut Times,
) -> Result<f64, PassError> {
    for op in f.ops.iter().filter(|op| op.kind == OpKind::Repeat || op.kind == OpKind::Call) {
        let callee = op.attrs.symbol("callee").and_then(|c| m.function(c)).cloned();
        let Some(g) = callee.filter(|g| g.attrs.get(keys::KERNEL).is_none()) else { continue };
        let carried = op.attrs.int("carried").filter(|_| op.kind == OpKind::Repeat);
        let seconds = reorder(m, &g, carried.map(|n| n as usize), ahead, times)?;
        times.learn(&g.name, seconds);
    }
    let late = carried.map_or(vec![], |n| late(f, n));
    let order = || Order::new(m, f, &late, ahead, times).reuse(carried.unwrap_or(0));
    let (mut new, mut seconds) = order().run()?;
    let (other, sooner) = order().longest_first().run()?;
    // What is made ahead of its turn takes memory.
    if sooner < 0.99 * seconds {
        (new, seconds) = (other, sooner);
    }
    times.learn_late(&new, &late);
    m.insert(new);
    Ok(seconds)
}

/// Results of a loop's body that may be on their way when it ends: collectives of what the body leaves as well or is
/// given, or that are made where the sum was, so that no later iteration touches either.
fn late(f: &Function, carried: usize) -> Vec<usize> {
    let maker = |v: ValueId| f.ops.iter().find(|op| op.results.contains(&v));
    let left = |v: ValueId| f.results[carried..].contains(&v);
    let uses = f.use_counts();
    let may = |n: &usize| {
        let v = f.results[*n];
        let Some(op) = maker(v).filter(|op| Times::is_collective(op) && uses[v.index()] == 1)
        else {
            return false;
        };
        let x = op.operands[0];
        let given = f.params.contains(&x);
        given
            || left(x)
            || op.kind == OpKind::AllReduce && uses[x.index()] == 1 && maker(x).is_some()
    };
    (carried..f.results.len()).filter(may).collect()
}
