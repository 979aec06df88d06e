//! What a loop body keeps for its backward twin, and what the twin makes again.

use std::collections::{HashMap, HashSet};

use neoxc_ir::op::{Class, Decomposition};
use neoxc_ir::{Builder, Function, OpKind, ValueId};

use crate::pass::PassError;

/// What of the forward ops backward needs.
pub(super) struct Kept {
    /// Values that are kept, in order.
    pub saved: Vec<ValueId>,
    /// Forward ops, by number and in order, that run again.
    pub recomputed: Vec<usize>,
}

impl Kept {
    /// Keeps op `i`'s results no longer.
    fn drop_results(&mut self, f: &Function, i: usize) {
        self.saved.retain(|v| !f.ops[i].results.contains(v));
    }

    /// Leaves of `f` the backward ops, which stand after `forward` others, and those forward ops that run again; the kept
    /// values have names.
    pub fn leave_backward(&self, f: &mut Function, forward: usize) {
        let backward = f.ops.split_off(forward);
        let again = self.recomputed.iter().map(|i| f.ops[*i].clone());
        f.ops = again.chain(backward).collect();
        for v in &self.saved {
            let name = &mut f.values[v.index()].name;
            if name.is_none() {
                *name = Some(format!("saved{}", v.0).into());
            }
        }
    }
}

/// What the ops of `f` behind the first `forward` read of those, and `out` has of them: as few kept values as can be,
/// and in `f` what makes norms again. Backward is handed what is `carried` only if it is kept, and what is `given` always.
pub(super) fn what_backward_needs(
    f: &mut Function,
    forward: usize,
    carried: &[ValueId],
    given: &[ValueId],
    out: &[ValueId],
) -> Result<Kept, PassError> {
    let defs = f.definitions();
    let mut kept = Kept { saved: vec![], recomputed: vec![] };
    let reads = f.ops[forward..].iter().flat_map(|o| &o.operands);
    let mut todo: Vec<ValueId> = reads.chain(out).copied().collect();
    let mut seen = HashSet::new();
    while let Some(v) = todo.pop() {
        if !seen.insert(v) {
            continue;
        }
        match defs[v.index()].filter(|i| *i < forward) {
            Some(i)
                if f.ops[i].kind.def().class() == Class::View || f.ops[i].kind == OpKind::Fill =>
            {
                kept.recomputed.push(i);
                todo.extend(&f.ops[i].operands);
            }
            Some(_) => kept.saved.push(v),
            None if carried.contains(&v) => kept.saved.push(v),
            None => {}
        }
    }
    // What is pointwise in values that are there anyway is made again too: the kernel that reads them makes it.
    for (i, op) in f.ops[..forward].iter().enumerate() {
        let again = |d: usize| kept.recomputed.contains(&d);
        let there = |v: &ValueId| {
            kept.saved.contains(v) || given.contains(v) || defs[v.index()].is_some_and(again)
        };
        if op.kind.def().class() == Class::Pointwise
            && op.results.iter().any(|r| kept.saved.contains(r))
            && op.operands.iter().all(there)
        {
            kept.drop_results(f, i);
            kept.recomputed.push(i);
        }
    }
    for i in 0..forward {
        let [y, rest @ ..] = &f.ops[i].results[..] else { continue };
        // An op that runs again may read it before backward does.
        let read = kept.recomputed.iter().any(|r| f.ops[*r].operands.contains(y));
        let there = |v: &ValueId| kept.saved.contains(v) || given.contains(v);
        if kept.saved.contains(y)
            && !read
            && f.ops[i].operands.iter().chain(rest).all(there)
            && let Some(with) = made_again(f, i, forward)?
        {
            let y = *y;
            *f = with;
            kept.saved.retain(|v| *v != y);
        }
    }
    kept.saved.sort();
    kept.recomputed.sort_unstable();
    kept.recomputed.dedup();
    Ok(kept)
}

/// `f` with the first result of op `i` made again where the ops from `backward` on first read it, of its operands and its
/// other results; if by the op's decomposition it is pointwise in these, as norms are.
fn made_again(f: &Function, i: usize, backward: usize) -> Result<Option<Function>, PassError> {
    let op = &f.ops[i];
    let (old, end) = (op.results[0], f.ops.len());
    let Some(at) = (backward..end).find(|j| f.ops[*j].operands.contains(&old)) else {
        return Ok(None);
    };
    let mut whole = f.clone();
    let mut b = Builder::new(&mut whole);
    b.at(&op.loc);
    let simpler = op.kind.def().decompose(&mut b, &op.operands, &op.attrs)?;
    let Decomposition::Values(values) = simpler else { return Ok(None) };
    let others = values.iter().copied().zip(op.results.iter().copied()).skip(1);
    let others: HashMap<ValueId, ValueId> = others.collect();
    let mut needed = HashSet::from([values[0]]);
    let mut made = vec![];
    for mut o in whole.ops.split_off(end).into_iter().rev() {
        if !o.results.iter().any(|r| needed.contains(r)) {
            continue;
        }
        if o.kind.def().class() != Class::Pointwise {
            return Ok(None);
        }
        for v in &mut o.operands {
            *v = others.get(v).copied().unwrap_or(*v);
        }
        needed.extend(&o.operands);
        made.push(o);
    }
    for v in whole.ops[backward..].iter_mut().flat_map(|o| &mut o.operands) {
        if *v == old {
            *v = values[0];
        }
    }
    whole.ops.splice(at..at, made.into_iter().rev());
    Ok(Some(whole))
}
