//! `peel-last-step`: gradients are summed over ranks while the last micro-batch's backward goes on.
//!
//! ```text
//! %g = repeat(@micro_step) 8        %0 = repeat(@micro_step) 7
//! %s = reduce_scatter(%g)      ⇒    %g, %s = repeat(@micro_step.last) 1, from slice 7
//! ```
//! In `@micro_step.last` the loop over layers has a body of its own, in which each layer's gradients are summed
//! over the ranks as soon as they are complete, beside the backward of the layers below. A pipeline's stage runs
//! `@train_backward_last` for the last micro-batch of a chunk in the same way. Sums that are only complete behind
//! the loop stay where they were: there is nothing left to go on beside them.
//!
//! A bucket is a parameter's gradients of all layers: one whose slices take the link less time than its latency
//! is not summed layer by layer, but with one collective for all of them, behind the loop.
//!
//! Invariant: the same ranks add the same values in the same order; only when they do changes.

use std::collections::{HashMap, HashSet};

use neoxc_ir::op::{RuleCx, ShardEffect};
use neoxc_ir::role::name_of as parameter_of;
use neoxc_ir::{
    Attr, Attrs, Builder, Function, Module, Op, OpKind, Output, Role, TensorType, ValueId,
};

use crate::entries::{TRAIN_STEP, class_of, entries, name_of};
use crate::facts::Fact;
use crate::links::Links;
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "peel-last-step",
    doc: "sum gradients over ranks during the last backward",
    requires: &[Fact::OneRank],
    ensures: &[],
    run,
};

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    if cx.degrees.ranks() == 1 {
        return Ok(PassReport::default());
    }
    let mut notes = vec![];
    let mut p = Peel { links: Links::new(cx), own: HashSet::new(), m };
    for entry in entries(p.m) {
        let moved = match class_of(&entry) {
            (TRAIN_STEP, _) => p.step()?,
            ("train_finish", class) => p.stage(class)?,
            _ => continue,
        };
        notes.push(format!("@{entry}: {moved} sums are made during the last backward"));
    }
    Ok(PassReport { notes })
}

fn unsupported(what: &str) -> PassError {
    PassError::internal(what.to_string())
}

/// What a sum became where it is made.
enum Summed {
    /// It has the ranks' sum in its place.
    Same,
    /// The ranks' sum, of which each rank has a part, is a value of its own.
    New(ValueId),
}

struct Peel<'m> {
    m: &'m mut Module,
    links: Links,
    /// Functions that only the last micro-batch calls.
    own: HashSet<String>,
}

/// The ops that sum `v` over ranks, one after the other, up to where something else takes it.
fn chain(f: &Function, v: ValueId) -> Vec<usize> {
    let (mut out, mut now) = (vec![], v);
    loop {
        let mut users = (0..f.ops.len()).filter(|i| f.ops[*i].operands.contains(&now));
        let (first, second) = (users.next(), users.next());
        let Some(at) = first.filter(|_| second.is_none() && !f.results.contains(&now)) else {
            return out;
        };
        let op = &f.ops[at];
        let sums = op.kind == OpKind::AllReduce || op.kind == OpKind::ReduceScatter;
        if !sums || matches!(op.attrs.str("axis"), Some("pipe" | "ends")) {
            return out;
        }
        out.push(at);
        now = op.results[0];
    }
}

/// The type of `ty` after the ops of a chain.
fn parts(ty: &TensorType, chain: &[Op]) -> Option<TensorType> {
    let mut ty = ty.clone();
    for (dim, ranks) in chain.iter().filter_map(scattered) {
        let at = ty.position(dim)?;
        if !ty.dims[at].size.is_multiple_of(ranks) {
            return None;
        }
        ty.dims[at].size /= ranks;
    }
    Some(ty)
}

/// The dim that an op of a chain divides, and over how many ranks.
fn scattered(op: &Op) -> Option<(&str, usize)> {
    op.attrs.str("dim").map(|dim| (dim, op.attrs.int("ranks").unwrap_or(1).max(1) as usize))
}

impl Peel<'_> {
    /// A function that may be changed: a copy of `name`, unless it is one already.
    fn copy(&mut self, name: &str) -> Result<Function, PassError> {
        let f = self.m.function(name).ok_or_else(|| unsupported("a loop has no body"))?;
        let mut f = f.clone();
        if !self.own.contains(name) {
            f.name = self.m.fresh_name(&format!("{name}.last"));
        }
        Ok(f)
    }

    /// Sums `v` over ranks in `f`, inside the loop that makes it if there is one; nothing if that has to wait
    /// until the loops of `f` are done. `in_loop`: `f` is the body of one.
    fn sum(
        &mut self,
        f: &mut Function,
        v: ValueId,
        chain: &[Op],
        in_loop: bool,
    ) -> Result<Option<Summed>, PassError> {
        let Some(at) = f.ops.iter().position(|op| op.results.contains(&v)) else { return Ok(None) };
        let op = f.ops[at].clone();
        let Some(ty) = parts(f.ty(v), chain).filter(|_| f.use_counts()[v.index()] == 1) else {
            return Ok(None);
        };
        if op.kind == OpKind::Reshape {
            let Some(inner) = through(f, &op, chain) else { return Ok(None) };
            let done = self.sum(f, op.operands[0], &inner, in_loop)?;
            let Some(Summed::New(part)) = done else { return Ok(done) };
            let mut b = Builder::new(f);
            return Ok(Some(Summed::New(b.at(&op.loc).reshape(part, &ty.dims)?)));
        }
        let n = op.results.iter().position(|r| *r == v).unwrap_or(0);
        let stacked = n >= op.attrs.int("carried").unwrap_or(0) as usize;
        if op.kind == OpKind::Repeat && stacked {
            let dim = op.attrs.str("dim").unwrap_or_default();
            if chain.iter().filter_map(scattered).any(|(d, _)| d == dim) {
                return Ok(None);
            }
            let mut body = self.copy(op.attrs.symbol("callee").unwrap_or_default())?;
            let inner = body.results[n];
            let Some(done) = self.sum(&mut body, inner, chain, true)? else { return Ok(None) };
            let name = body.name.clone();
            let new = match done {
                Summed::Same => Summed::Same,
                Summed::New(part) => {
                    body.results.push(part);
                    let part = f.add_value(ty);
                    f.ops[at].results.push(part);
                    Summed::New(part)
                }
            };
            body.renumber();
            self.m.insert(body);
            f.ops[at].attrs.set("callee", Attr::Symbol(name.clone()));
            self.own.insert(name);
            return Ok(Some(new));
        }
        let loops = f.ops.iter().rposition(|op| op.kind == OpKind::Repeat);
        let now = if in_loop { !self.is_small(f, v, chain) } else { Some(at) < loops };
        if !now {
            return Ok(None);
        }
        let mut sum = v;
        for op in chain {
            let mut b = Builder::new(f);
            sum = b.at(&op.loc).one(op.kind, &[sum], op.attrs.clone())?;
        }
        // Views may follow that take the sum.
        f.ops[at + 1..].rotate_right(chain.len());
        if chain.iter().any(|op| scattered(op).is_some()) {
            return Ok(Some(Summed::New(sum)));
        }
        // Whoever takes it takes the sum.
        let behind = f.ops[at + 1 + chain.len()..].iter_mut();
        let uses = behind.flat_map(|op| &mut op.operands).chain(&mut f.results);
        uses.filter(|o| **o == v).for_each(|o| *o = sum);
        Ok(Some(Summed::Same))
    }

    /// Whether a value takes the link of its first collective less time than that takes to begin.
    fn is_small(&self, f: &Function, v: ValueId, chain: &[Op]) -> bool {
        let (kind, axis) = (chain[0].kind, chain[0].attrs.str("axis").unwrap_or_default());
        let seconds = |bytes| self.links.seconds(kind, axis, bytes);
        seconds(f.ty(v).bytes()) < 2.0 * seconds(0)
    }

    /// The step of a whole model; gives how many sums have moved.
    fn step(&mut self) -> Result<usize, PassError> {
        let lost = || unsupported("there is no loop over micro-batches");
        let mut f = self.m.function(TRAIN_STEP).cloned().ok_or_else(lost)?;
        let micro = |op: &Op| op.attrs.str("dim") == Some("micro");
        let at = f.ops.iter().position(micro).ok_or_else(lost)?;
        let op = f.ops[at].clone();
        let (carried, count) = (op.attrs.int("carried").unwrap_or(0), op.attrs.int("count"));
        let (carried, count) = (carried as usize, count.unwrap_or(1));
        let mut last = self.copy(op.attrs.symbol("callee").unwrap_or_default())?;
        // Ops that are no longer needed; the value each made last, and which result stands for it.
        let (mut gone, mut ends): (Vec<usize>, Vec<(ValueId, usize)>) = (vec![], vec![]);
        for n in 0..carried {
            let chain = chain(&f, op.results[n]);
            let ops: Vec<Op> = chain.iter().map(|i| f.ops[*i].clone()).collect();
            let Some(end) = ops.last().map(|op| op.results[0]) else { continue };
            let v = last.results[n];
            match self.sum(&mut last, v, &ops, false)? {
                None => continue,
                Some(Summed::Same) => ends.push((end, n)),
                Some(Summed::New(part)) => {
                    ends.push((end, last.results.len()));
                    last.results.push(part);
                }
            }
            gone.extend(chain);
        }
        if ends.is_empty() {
            return Ok(0);
        }
        let name = last.name.clone();
        last.renumber();
        self.m.insert(last);

        let tail = f.ops.split_off(at);
        let ends_ty: Vec<TensorType> = ends.iter().map(|(v, _)| f.ty(*v).clone()).collect();
        let mut b = Builder::with_module(&mut f, self.m);
        b.at(&op.loc);
        let mut operands = op.operands.clone();
        let attrs = |count: i64, first: i64| {
            op.attrs.clone().with("count", Attr::Int(count)).with("first", Attr::Int(first))
        };
        let mut before = vec![];
        if count > 1 {
            before = b.op(OpKind::Repeat, &operands, attrs(count - 1, 0))?;
            operands[..carried].copy_from_slice(&before[..carried]);
        }
        let attrs = attrs(1, count - 1).with("callee", Attr::Symbol(name));
        let made = b.op(OpKind::Repeat, &operands, attrs)?;
        let all = op.results;
        let mut new: HashMap<ValueId, ValueId> =
            all.iter().copied().zip(made.iter().copied()).collect();
        for ((end, n), ty) in ends.iter().zip(&ends_ty) {
            // A result that the step does not hand on is one of one micro-batch.
            let v = if *n < carried { made[*n] } else { b.reshape(made[*n], &ty.dims)? };
            new.insert(*end, v);
        }
        for (i, mut op) in (at..).zip(tail).skip(1) {
            if gone.contains(&i) {
                continue;
            }
            // What each micro-batch leaves is there in two parts.
            let left = op.operands.iter().find_map(|o| all.iter().position(|r| r == o));
            let split = left.filter(|n| *n >= carried && count > 1).map(|n| before[n]);
            op.operands.iter_mut().for_each(|o| *o = new.get(o).copied().unwrap_or(*o));
            let Some(earlier) = split else {
                f.ops.push(op);
                continue;
            };
            if op.kind != OpKind::ReduceSum {
                return Err(unsupported("what micro-batches leave is more than a sum"));
            }
            let mut b = Builder::new(&mut f);
            b.at(&op.loc);
            let first = b.one(OpKind::ReduceSum, &[earlier], op.attrs.clone())?;
            let rest = b.one(OpKind::ReduceSum, &op.operands, op.attrs.clone())?;
            let sum = b.add(first, rest)?;
            new.insert(op.results[0], sum);
        }
        f.results.iter_mut().for_each(|r| *r = new.get(r).copied().unwrap_or(*r));
        f.renumber();
        self.m.insert(f);
        Ok(ends.len())
    }

    /// The programs of one class of a pipeline's stages.
    fn stage(&mut self, class: usize) -> Result<usize, PassError> {
        let finish = name_of("train_finish", class);
        let lost = || unsupported("a stage has no update");
        let mut f = self.m.function(&finish).cloned().ok_or_else(lost)?;
        let mut moved = 0;
        for base in ["train_backward", "train_weights"] {
            let Some(mut last) = self.m.function(&name_of(base, class)).cloned() else { continue };
            last.name = name_of(&format!("{base}_last"), class);
            let mut results = Output::all(&last).unwrap_or_default();
            let before = moved;
            for n in 0..results.len() {
                let Output::Gradient(name) = results[n].clone() else { continue };
                let is = |a: &Attrs| Role::Gradient.is(a) && parameter_of(a) == name;
                let k = f.param_attrs.iter().position(is).ok_or_else(lost)?;
                let given = f.params[k];
                let ops: Vec<Op> = chain(&f, given).iter().map(|i| f.ops[*i].clone()).collect();
                let Some(end) = ops.last().map(|op| op.results[0]) else { continue };
                let v = last.results[n];
                let now = match self.sum(&mut last, v, &ops, false)? {
                    None => continue,
                    Some(Summed::Same) => given,
                    Some(Summed::New(part)) => {
                        last.results.push(part);
                        results.push(Output::Sum(name.clone()));
                        let ty = f.ty(end).clone();
                        f.add_param(&format!("sum{k}"), ty, Role::Sum.attrs(&name))
                    }
                };
                let gone: Vec<ValueId> = ops.iter().map(|op| op.results[0]).collect();
                f.ops.retain(|op| !op.results.iter().any(|r| gone.contains(r)));
                let uses = f.ops.iter_mut().flat_map(|op| &mut op.operands).chain(&mut f.results);
                uses.filter(|o| **o == end).for_each(|o| *o = now);
                moved += 1;
            }
            if moved > before {
                Output::set(&mut last, &results);
                last.renumber();
                self.m.insert(last);
            }
        }
        f.renumber();
        self.m.insert(f);
        Ok(moved)
    }
}

/// The ops of a chain as they are for the operand of a reshape; nothing if that cannot be divided alike.
fn through(f: &Function, op: &Op, chain: &[Op]) -> Option<Vec<Op>> {
    let (operands, results) = ([f.ty(op.operands[0]).clone()], [f.ty(op.results[0]).clone()]);
    let cx = RuleCx { operands: &operands, results: &results, attrs: &op.attrs, module: None };
    let rule = op.kind.def().sharding(&cx);
    let renamed = |op: &Op| {
        let mut op = op.clone();
        if let Some((dim, _)) = scattered(&op) {
            let mut dims = operands[0].dims.iter();
            let fits = |name: &str| {
                rule.target(name) == dim && rule.effect(name) == Some(ShardEffect::Parallel)
            };
            let from = dims.find(|d| fits(&d.name))?.name.to_string();
            op.attrs.set("dim", Attr::Str(from));
        }
        Some(op)
    };
    let inner: Vec<Op> = chain.iter().map(renamed).collect::<Option<_>>()?;
    parts(&operands[0], &inner).map(|_| inner)
}
