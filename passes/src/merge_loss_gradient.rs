//! `merge-loss-gradient`: the loss and its gradient in one pass over the vocabulary.
//!
//! ```text
//! %l:2 = linear_cross_entropy(%x, %w, %y)
//! …                                             ⇒  %l:4 = linear_cross_entropy_train(%x, %w, %y, %dl)
//! %d:2 = linear_cross_entropy_grad(%x, %w, %y, %l#1, %dl)
//! ```
//! Possible because the weight of each token in the loss, `%dl`, depends on the mask alone; it saves
//! one of four matmuls with the head, and the logits of a chunk are made once.

use neoxc_ir::{Attrs, Builder, Function, Module, OpKind, ValueId};

use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "merge-loss-gradient",
    doc: "compute a loss together with its gradient where the seed is known",
    requires: &[],
    ensures: &[],
    run,
};

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let mut report = PassReport::default();
    let functions = std::mem::take(&mut m.functions);
    for f in &functions {
        if let Some(merged) = merge(f)? {
            report.notes.push(format!("@{}: loss and gradient in one", f.name));
            m.functions.push(merged);
        } else {
            m.functions.push(f.clone());
        }
    }
    Ok(report)
}

/// Indices of the ops that `v` depends on, in order.
fn needs(f: &Function, v: ValueId) -> Vec<usize> {
    let defs = f.definitions();
    let mut found = vec![];
    let mut todo = vec![v];
    while let Some(v) = todo.pop() {
        if let Some(i) = defs[v.index()]
            && !found.contains(&i)
        {
            found.push(i);
            todo.extend(&f.ops[i].operands);
        }
    }
    found.sort_unstable();
    found
}

fn merge(f: &Function) -> Result<Option<Function>, PassError> {
    let at = |kind| f.ops.iter().position(|op| op.kind == kind);
    let (Some(i), Some(j)) = (at(OpKind::LinearCrossEntropy), at(OpKind::LinearCrossEntropyGrad))
    else {
        return Ok(None);
    };
    let (loss, grad) = (&f.ops[i], &f.ops[j]);
    let seed = grad.operands[4];
    let before = needs(f, seed);
    if grad.operands[..3] != loss.operands[..] || before.contains(&i) {
        return Ok(None);
    }
    let mut out = f.clone();
    // Move what the seed needs in front of the loss.
    let mut order: Vec<usize> = (0..i).collect();
    order.extend(before.iter().filter(|n| **n > i));
    let mut ops: Vec<_> = order.iter().map(|n| f.ops[*n].clone()).collect();
    let operands = [&loss.operands[..], &[seed]].concat();
    out.ops.clear();
    let mut b = Builder::new(&mut out);
    b.at(&loss.loc);
    let new = b.op(OpKind::LinearCrossEntropyTrain, &operands, Attrs::new())?;
    ops.append(&mut out.ops);
    ops.extend(
        (i + 1..f.ops.len()).filter(|n| *n != j && !order.contains(n)).map(|n| f.ops[n].clone()),
    );
    let old = [loss.results[0], loss.results[1], grad.results[0], grad.results[1]];
    let replace = |v: &mut ValueId| {
        if let Some(p) = old.iter().position(|o| o == v) {
            *v = new[p];
        }
    };
    ops.iter_mut().flat_map(|op| &mut op.operands).for_each(replace);
    out.results.iter_mut().for_each(replace);
    out.ops = ops;
    out.renumber();
    Ok(Some(out))
}
