//! Cross-entropy of rows of which each rank has a part: what a part says of its row, what the parts of
//! all ranks say together, and a part's gradient. A task is a row.

use neoxc_ir::Op;

use super::cross_entropy::{change, rows, stored, sum_of_exps};
use super::rows::own_row;
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val, math};

/// Numbers that a part says of a row: maximum, sum of exponentials, the label's logit.
const NUMBERS: usize = 3;

/// The pointer of an operand.
fn pointer(b: &Body<'_>, op: &Op, i: usize) -> Result<Val, CodegenError> {
    let p = op.operands.get(i).and_then(|v| b.param(*v));
    p.ok_or_else(|| b.fail("lost an operand"))
}

/// Loads element `i` of f32 at `p`.
fn load(k: &mut Emit, p: Val, i: Val) -> Val {
    let p = k.element(p, i);
    k.load(Ty::F32, p)
}

/// The label of a row within the part, and whether it is in it.
fn label(k: &mut Emit, labels: Val, part: Option<Val>, row: Val, classes: usize) -> (Val, Val) {
    let p = k.element(labels, row);
    let label = k.load(Ty::I32, p);
    own_row(k, label, part, classes)
}

/// `cross_entropy_part`.
pub(super) fn part(b: &mut Body<'_>, op: &Op) -> Result<Shape, CodegenError> {
    let (rows, classes) = rows(b, op)?;
    let (logits, labels, part) = (pointer(b, op, 0)?, pointer(b, op, 1)?, pointer(b, op, 2)?);
    let (out, lanes) = (b.result(0), b.lanes);
    b.tasks(|b, row| {
        let k = &mut b.k;
        let at = k.scale(row, classes);
        let x = k.element(logits, at);
        let [max, sum] = sum_of_exps(k, x, classes, lanes, None);
        let (label, ours) = label(k, labels, Some(part), row, classes);
        // Any element stands for a label that is not here.
        let zero = k.int(0);
        let place = k.select(ours, label, zero);
        let (chosen, none) = (load(k, x, place), k.float(0.0, Ty::F32));
        let chosen = k.select(ours, chosen, none);
        let at = k.scale(row, NUMBERS);
        let out = k.element(out, at);
        for (i, v) in [max, sum, chosen].into_iter().enumerate() {
            let p = k.element_at(out, i);
            k.store(v, p);
        }
        Ok(())
    })?;
    Ok(Shape { tasks: rows, scratch_floats: 0, tiles: false })
}

/// `cross_entropy_join`: the parts in the order of the ranks.
pub(super) fn join(b: &mut Body<'_>, op: &Op) -> Result<Shape, CodegenError> {
    let ranks = b.f.ty(op.operands[0]).dims[0].size;
    let rows = b.f.ty(op.results[0]).elements();
    let stats = pointer(b, op, 0)?;
    let result = |v| b.f.results.iter().position(|r| *r == v).map(|i| b.result(i));
    let (out_loss, out_lse) = (result(op.results[0]), result(op.results[1]));
    b.tasks(|b, row| {
        let k = &mut b.k;
        let number = |k: &mut Emit, rank: Val, i: usize| {
            let first = k.scale(rank, rows);
            let at = k.add(first, row);
            let at = k.scale(at, NUMBERS);
            let p = k.element(stats, at);
            let p = k.element_at(p, i);
            k.load(Ty::F32, p)
        };
        let (zero, one, all) = (k.int(0), k.int(1), k.int(ranks as i64));
        let low = k.float(f64::NEG_INFINITY, Ty::F32);
        let max = k.for_(zero, all, one, &[low], |k, rank, acc| {
            let m = number(k, rank, 0);
            vec![k.max(acc[0], m)]
        })[0];
        let none = k.float(0.0, Ty::F32);
        let sums = k.for_(zero, all, one, &[none, none], |k, rank, acc| {
            let m = number(k, rank, 0);
            let m = k.sub(m, max);
            let scale = math::exp(k, m);
            let s = number(k, rank, 1);
            let s = k.mul(s, scale);
            let x = number(k, rank, 2);
            vec![k.add(acc[0], s), k.add(acc[1], x)]
        });
        let log = math::log(k, sums[0]);
        let lse = k.add(max, log);
        let loss = k.sub(lse, sums[1]);
        for (p, v) in [(out_loss, loss), (out_lse, lse)] {
            if let Some(p) = p {
                let p = k.element(p, row);
                k.store(v, p);
            }
        }
        Ok(())
    })?;
    Ok(Shape { tasks: rows, scratch_floats: 0, tiles: false })
}

/// `cross_entropy_grad` of a part, with the log-sum-exp of the whole row.
pub(super) fn gradient(b: &mut Body<'_>, op: &Op) -> Result<Shape, CodegenError> {
    let (rows, classes) = rows(b, op)?;
    let (logits, labels) = (pointer(b, op, 0)?, pointer(b, op, 1)?);
    let (lse, weights) = (pointer(b, op, 2)?, pointer(b, op, 3)?);
    let part = (op.operands.len() > 4).then(|| pointer(b, op, 4)).transpose()?;
    let (out, lanes) = (stored(b, op.results[0])?, b.lanes);
    b.tasks(|b, row| {
        let k = &mut b.k;
        let at = k.scale(row, classes);
        let (x, d) = (k.element(logits, at), k.element(out, at));
        let (lse, weight) = (load(k, lse, row), load(k, weights, row));
        let probability = |k: &mut Emit, v: Val| {
            let (lses, factors) = (k.splat(lse, v.ty.lanes()), k.splat(weight, v.ty.lanes()));
            let c = k.sub(v, lses);
            let p = math::exp(k, c);
            k.mul(p, factors)
        };
        let (label, ours) = label(k, labels, part, row, classes);
        // Read before the gradient may overwrite it. Other ranks' labels have no logit here.
        let zero = k.int(0);
        let safe = k.select(ours, label, zero);
        let p = k.element(x, safe);
        let chosen = k.load(Ty::F32, p);
        change(k, x, d, classes, lanes, probability);
        k.if_(ours, |k| {
            let v = probability(k, chosen);
            let v = k.sub(v, weight);
            let p = k.element(d, label);
            k.store(v, p);
        });
        Ok(())
    })?;
    Ok(Shape { tasks: rows, scratch_floats: 0, tiles: false })
}
