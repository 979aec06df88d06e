//! `prefetch-gathers`: the weights that a layer needs first are gathered beside the layer before it.
//!
//! ```text
//! @f(%x, %w)   %0 = all_gather(%w)   %1 = call @matmul(%x, %0)   return %1
//! %a = repeat(%x, %w) {callee = @f, carried = 1}
//!   ⇒
//! @f(%x, %g, %w)   %1 = call @matmul(%x, %g)   %2 = all_gather(%w)   return %1, %2
//! %f = repeat(%w) {callee = @f.first, count = 1}      the first layer's
//! %a:2 = repeat(%x, %f, %w) {callee = @f, carried = 2, next = [2]}
//! ```
//! Of the weights an iteration sees the slice of the next one (`next`), gathers it and hands it on. Which gathers
//! these are follows from the machine's rates: those that could not arrive before their first use even if the link
//! did nothing else from the start of the iteration. What the last iteration gathers is that of the first, and used by
//! nobody: a gather is only moved where the other iterations gain more than that.
//!
//! Invariant: every op gets the values that it got before.

use neoxc_ir::op::Class;
use neoxc_ir::{Attr, Attrs, Builder, Function, Module, Op, OpKind, ValueId};

use crate::facts::Fact;
use crate::overlap_collectives::{Times, budget, without_waits};
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "prefetch-gathers",
    doc: "gather the first weights of a layer beside the layer before it",
    requires: &[Fact::OneCallSite, Fact::InKernels],
    ensures: &[Fact::OneCallSite, Fact::InKernels],
    run,
};

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    if cx.zero_stage < 3 || cx.degrees.data == 1 || !cx.overlap {
        return Ok(PassReport::default());
    }
    m.functions.iter_mut().for_each(without_waits);
    let (times, most) = (Times::new(cx), budget(m)?);
    let mut moved = 0;
    let callers: Vec<String> = m.functions.iter().map(|f| f.name.clone()).collect();
    for caller in callers {
        // A loop that was changed has others in front of it: from the last to the first.
        let ops = m.function(&caller).map_or(0, |f| f.ops.len());
        for at in (0..ops).rev() {
            moved += prefetch(m, &caller, at, &times, most)?;
        }
    }
    Ok(PassReport { notes: vec![format!("{moved} gathers are made beside the layer before")] })
}

/// A gather of a slice, in the body of a loop.
struct Gather {
    /// The op.
    at: usize,
    /// Number of the body's parameter that it takes.
    slice: usize,
    /// When its first user has its turn if compute never waits, seconds.
    needed: f64,
    /// Seconds on the link.
    seconds: f64,
}

/// Changes the loop at `at` of `caller`, if it is one; gives how many gathers have moved.
fn prefetch(
    m: &mut Module,
    caller: &str,
    at: usize,
    times: &Times,
    most: u64,
) -> Result<usize, PassError> {
    let lost = || PassError::internal("a loop has no body".into());
    let f = m.function(caller).ok_or_else(lost)?;
    let op = &f.ops[at];
    let int = |name: &str| op.attrs.int(name).unwrap_or(0) as usize;
    let (count, carried, first_slice) = (int("count"), int("carried"), int("first"));
    let done = op.attrs.get("next").is_some();
    if op.kind != OpKind::Repeat || count < 2 || done {
        return Ok(0);
    }
    let slices = carried..carried + int("sliced");
    let mut body = op.attrs.symbol("callee").and_then(|g| m.function(g)).ok_or_else(lost)?.clone();
    let chosen = choose(m, &body, slices, count, times, most);
    if chosen.is_empty() {
        return Ok(0);
    }
    let mut f = f.clone();
    let mut first = Function::new(&m.fresh_name(&format!("{}.first", body.name)));
    let mut gathers = vec![];
    for g in &chosen {
        let gather = body.ops[g.at].clone();
        let (given, made) = (body.params[g.slice], gather.results[0]);
        let slice = first.add_param(&format!("w{}", g.slice), body.ty(given).clone(), Attrs::new());
        let all = first.add_value(body.ty(made).clone());
        first.ops.push(Op { operands: vec![slice], results: vec![all], ..gather.clone() });
        first.results.push(all);
        let next = body.add_value(body.ty(made).clone());
        gathers.push(Op { results: vec![next], ..gather });
    }
    // What was gathered is given, and what is gathered is handed on.
    for (n, (g, gather)) in chosen.iter().zip(gathers).enumerate() {
        let given = body.ops[g.at].results[0];
        body.params.insert(carried + n, given);
        body.param_attrs.insert(carried + n, Attrs::new());
        body.results.insert(carried + n, gather.results[0]);
        body.ops.push(gather);
    }
    let mut i = 0;
    body.ops.retain(|_| {
        i += 1;
        !chosen.iter().any(|g| g.at == i - 1)
    });
    body.renumber();
    let (name, whole) = (first.name.clone(), first.ops.clone());
    let types: Vec<_> = whole.iter().map(|g| first.ty(g.results[0]).clone()).collect();
    m.insert(body);
    m.insert(first);

    let mut op = f.ops.remove(at);
    let dim = op.attrs.str("dim").unwrap_or_default();
    let start = first_slice + if op.attrs.flag("reverse") { count - 1 } else { 0 };
    let attrs = Attrs::new()
        .with("callee", Attr::Symbol(name))
        .with("count", Attr::Int(1))
        .with("carried", Attr::Int(0))
        .with("sliced", Attr::Int(chosen.len() as i64))
        .with("dim", Attr::Str(dim.into()))
        .with("first", Attr::Int(start as i64));
    let operands: Vec<ValueId> = chosen.iter().map(|g| op.operands[g.slice]).collect();
    let seconds = chosen.iter().map(|g| g.seconds).sum();
    let early = before(m, &f, at, &operands, times, seconds);
    let behind = f.ops.split_off(at);
    let beside = f.ops.split_off(early);
    let mut b = Builder::with_module(&mut f, m);
    b.at(&op.loc);
    let made = b.op(OpKind::Repeat, &operands, attrs)?;
    f.ops.extend(beside);
    for (n, (v, ty)) in made.iter().zip(types).enumerate() {
        let given = Builder::new(&mut f).at(&op.loc).reshape(*v, &ty.dims)?;
        op.operands.insert(carried + n, given);
        op.results.insert(carried + n, f.add_value(ty));
    }
    let moved = chosen.len();
    let next: Vec<i64> = chosen.iter().map(|g| (g.slice + moved) as i64).collect();
    op.attrs.set("carried", Attr::Int((carried + moved) as i64));
    op.attrs.set("next", Attr::ints(&next));
    f.ops.push(op);
    f.ops.extend(behind);
    f.renumber();
    m.insert(f);
    Ok(moved)
}

/// The gathers of a loop's body that compute would wait for, in the order in which they are needed.
fn choose(
    m: &Module,
    body: &Function,
    slices: std::ops::Range<usize>,
    count: usize,
    times: &Times,
    most: u64,
) -> Vec<Gather> {
    let seconds: Vec<f64> = body.ops.iter().map(|op| times.op(m, body, op)).collect();
    let uses = body.use_counts();
    let mut gathers = vec![];
    for (at, op) in body.ops.iter().enumerate().filter(|(_, op)| op.kind == OpKind::AllGather) {
        let of_slice = |k: &usize| body.params[*k] == op.operands[0];
        let Some(slice) = slices.clone().find(of_slice) else { continue };
        let handed_on = body.results.contains(&op.results[0]);
        if uses[op.operands[0].index()] == 1 && !handed_on {
            let until = first_use(body, op.results[0]).unwrap_or(body.ops.len());
            let computes = |(op, s): (&Op, &f64)| if Times::is_collective(op) { 0.0 } else { *s };
            let needed = body.ops[..until].iter().zip(&seconds).map(computes).sum();
            gathers.push(Gather { at, slice, needed, seconds: seconds[at] });
        }
    }
    gathers.sort_by(|a, b| a.needed.total_cmp(&b.needed));
    let (mut link, mut bytes, mut chosen) = (0.0, 0, vec![]);
    for g in gathers {
        let size = body.ty(body.ops[g.at].results[0]).bytes() as u64;
        let waits = (link + g.seconds - g.needed).clamp(0.0, g.seconds);
        let gains = (count - 1) as f64 * waits >= g.seconds;
        if waits > 0.0 && gains && bytes + size <= most {
            bytes += size;
            chosen.push(g);
        } else {
            link += g.seconds;
        }
    }
    chosen
}

/// The first op that computes or sends with `v`.
fn first_use(f: &Function, v: ValueId) -> Option<usize> {
    let at = f.ops.iter().position(|op| op.operands.contains(&v))?;
    match f.ops[at].kind.def().class() {
        Class::View => first_use(f, f.ops[at].results[0]),
        _ => Some(at),
    }
}

/// Where in front of op `at` there is about `seconds` of compute to go, and `operands` are there.
fn before(
    m: &Module,
    f: &Function,
    at: usize,
    operands: &[ValueId],
    times: &Times,
    seconds: f64,
) -> usize {
    let (mut early, mut beside) = (at, 0.0);
    while early > 0 && beside < seconds {
        let op = &f.ops[early - 1];
        if op.results.iter().any(|r| operands.contains(r)) {
            break;
        }
        beside += times.op(m, f, op);
        early -= 1;
    }
    early
}
