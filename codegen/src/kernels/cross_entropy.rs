//! Cross-entropy of rows of logits, with the gradient of the logits where the body asks for it.
//! A task is a row; it is read once from memory, in blocks that stay in the first-level cache, and scaled once.

use neoxc_ir::{Op, OpKind, ValueId};

use super::{Body, Shape, cross_entropy_parts};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val, math};

/// Number of rows and of classes.
pub(super) fn rows(b: &Body<'_>, op: &Op) -> Result<(usize, usize), CodegenError> {
    let ty = b.f.ty(op.operands[0]);
    match ty.dims.last() {
        Some(d) if Some(&*d.name) == op.attrs.str("dim") => Ok((ty.elements() / d.size, d.size)),
        _ => Err(b.fail("needs the classes as the innermost dim")),
    }
}

/// Bounds of the vectors of a row: begin, end of the whole ones, a mask for the rest.
fn vectors(k: &mut Emit, classes: usize, lanes: usize) -> (Val, Val, Option<Val>) {
    let (zero, whole) = (k.int(0), k.int((classes / lanes * lanes) as i64));
    let tail = (!classes.is_multiple_of(lanes)).then(|| k.mask(classes % lanes, lanes));
    (zero, whole, tail)
}

/// The largest of a row at `x`.
fn largest(k: &mut Emit, x: Val, classes: usize, lanes: usize) -> Val {
    let (zero, whole, tail) = vectors(k, classes, lanes);
    let (vec, step) = (Ty::Vec(lanes), k.int(lanes as i64));
    let low = k.float(f64::NEG_INFINITY, vec);
    let max = k.for_(zero, whole, step, &[low], |k, i, acc| {
        let p = k.element(x, i);
        let v = k.load(vec, p);
        vec![k.max(acc[0], v)]
    });
    let mut max = max[0];
    if let Some(mask) = tail {
        let p = k.element(x, whole);
        let v = k.load_masked(p, mask);
        let v = k.select(mask, v, low);
        max = k.max(max, v);
    }
    k.reduce_max(max)
}

/// Elements of a row at a time: 4 KB, found again in the first-level cache for their exponentials, while the next are on
/// their way.
const BLOCK: usize = 1024;

/// Where exponentials are kept: of each element, and the number that each block's are relative to.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    terms: Val,
    bases: Val,
}

/// Blocks of a row.
fn blocks(classes: usize) -> usize {
    classes.div_ceil(BLOCK)
}

/// Does `f` with each whole block's number and the one behind them, in order, handing on what `f` returns.
fn each_block(
    k: &mut Emit,
    classes: usize,
    init: &[Val],
    f: impl Fn(&mut Emit, Val, usize, &[Val]) -> Vec<Val>,
) -> Vec<Val> {
    let (zero, one) = (k.int(0), k.int(1));
    let whole = k.int((classes / BLOCK) as i64);
    let mut values = init.to_vec();
    if classes >= BLOCK {
        values = k.for_(zero, whole, one, &values, |k, block, acc| f(k, block, BLOCK, acc));
    }
    match classes % BLOCK {
        0 => values,
        rest => f(k, whole, rest, &values),
    }
}

/// The largest of a row at `x`, and the sum of `exp(x - largest)`. The terms are kept if asked for, in the place of the
/// row or elsewhere, each block's relative to the largest up to its end.
pub(super) fn sum_of_exps(
    k: &mut Emit,
    x: Val,
    classes: usize,
    lanes: usize,
    keep: Option<Kept>,
) -> [Val; 2] {
    // A finite beginning: elements that are all -inf up to here have no part in the sum.
    let (low, none) = (k.float(f64::from(f32::MIN), Ty::F32), k.float(0.0, Ty::F32));
    let out = each_block(k, classes, &[low, none], |k, block, size, acc| {
        let at = k.scale(block, BLOCK);
        let x = k.element(x, at);
        let own = largest(k, x, size, lanes);
        let max = k.max(acc[0], own);
        if let Some(kept) = keep {
            let p = k.element(kept.bases, block);
            k.store(max, p);
        }
        let terms = keep.map(|kept| k.element(kept.terms, at));
        let sum = block_sum(k, x, max, size, lanes, terms);
        let lower = k.sub(acc[0], max);
        let scale = math::exp_negative(k, lower);
        vec![max, k.fma(acc[1], scale, sum)]
    });
    [out[0], out[1]]
}

/// The sum of `exp(x - max)` of a block, whose terms are kept at `keep`, which may be `x`.
fn block_sum(
    k: &mut Emit,
    x: Val,
    max: Val,
    classes: usize,
    lanes: usize,
    keep: Option<Val>,
) -> Val {
    let (zero, whole, tail) = vectors(k, classes, lanes);
    let (vec, step) = (Ty::Vec(lanes), k.int(lanes as i64));
    let (maxes, none) = (k.splat(max, lanes), k.float(0.0, vec));
    let exps = |k: &mut Emit, v: Val| {
        let c = k.sub(v, maxes);
        math::exp_negative(k, c)
    };
    let sum = k.for_(zero, whole, step, &[none], |k, i, acc| {
        let p = k.element(x, i);
        let v = k.load(vec, p);
        let ahead = k.element_at(p, BLOCK);
        k.prefetch(ahead, false);
        let e = exps(k, v);
        if let Some(d) = keep {
            let p = k.element(d, i);
            k.store(e, p);
        }
        vec![k.add(acc[0], e)]
    });
    let mut sum = sum[0];
    if let Some(mask) = tail {
        let p = k.element(x, whole);
        let v = k.load_masked(p, mask);
        let e = exps(k, v);
        let e = k.select(mask, e, none);
        if let Some(d) = keep {
            let p = k.element(d, whole);
            k.store_masked(e, p, mask);
        }
        sum = k.add(sum, e);
    }
    k.reduce_add(sum)
}

/// Writes `f` of every element of a row at `from` to `to`, which may be the same.
pub(super) fn change(
    k: &mut Emit,
    from: Val,
    to: Val,
    classes: usize,
    lanes: usize,
    f: impl Fn(&mut Emit, Val) -> Val,
) {
    let (zero, whole, tail) = vectors(k, classes, lanes);
    k.loop_(zero, whole, lanes, |k, i| {
        let p = k.element(from, i);
        let v = k.load(Ty::Vec(lanes), p);
        let v = f(k, v);
        let p = k.element(to, i);
        k.store(v, p);
    });
    if let Some(mask) = tail {
        let p = k.element(from, whole);
        let v = k.load_masked(p, mask);
        let v = f(k, v);
        let p = k.element(to, whole);
        k.store_masked(v, p, mask);
    }
}

/// Pointer of the result that is `v`, as it is or rounded.
pub(super) fn stored(b: &Body<'_>, v: ValueId) -> Result<Val, CodegenError> {
    let rounded = |r: &ValueId| {
        b.f.ops
            .iter()
            .any(|op| op.kind == OpKind::Cast && op.results[0] == *r && op.operands[0] == v)
    };
    let at = b.f.results.iter().position(|r| *r == v || rounded(r));
    at.map(|i| b.result(i)).ok_or_else(|| b.fail("does not return the gradient"))
}

/// Emits the kernel: of whole rows, or of what ranks do with their parts of them.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let find = |kind| b.f.ops.iter().find(|op| op.kind == kind).cloned();
    let grad = find(OpKind::CrossEntropyGrad);
    if let Some(op) = find(OpKind::CrossEntropyPart) {
        return cross_entropy_parts::part(b, &op);
    }
    if let Some(op) = find(OpKind::CrossEntropyJoin) {
        return cross_entropy_parts::join(b, &op);
    }
    let loss = match (find(OpKind::CrossEntropy), &grad) {
        (Some(op), _) => op,
        (None, Some(op)) => return cross_entropy_parts::gradient(b, op),
        (None, None) => return Err(b.fail("has no cross_entropy")),
    };
    let (rows, classes) = rows(b, &loss)?;
    let pointer = |v| b.param(v).ok_or_else(|| b.fail("lost an operand"));
    let (logits, labels) = (pointer(loss.operands[0])?, pointer(loss.operands[1])?);
    let result = |v| b.f.results.iter().position(|r| *r == v).map(|i| b.result(i));
    let grad_result = match &grad {
        Some(g) => Some(stored(b, g.results[0])?),
        None => None,
    };
    let (out_loss, out_lse) = (result(loss.results[0]), result(loss.results[1]));
    let out_grad = match &grad {
        Some(g) => grad_result.map(|p| pointer(g.operands[3]).map(|w| (p, w))).transpose()?,
        None => None,
    };
    // Where the gradient is rounded, a row of exponentials waits in scratch.
    let apart = out_grad.is_some_and(|(p, _)| matches!(p.ty, Ty::Ptr16(_)));
    let scratch = b.scratch;
    let lanes = b.lanes;
    b.tasks(|b, row| {
        let k = &mut b.k;
        let at = k.scale(row, classes);
        let x = k.element(logits, at);
        // The exponentials are kept where the gradient will be; without one they are only summed.
        let d = out_grad.map(|(p, _)| k.element(p, at));
        let label = k.element(labels, row);
        let label = k.load(Ty::I32, label);
        let label = k.widen(label);
        let p = k.element(x, label);
        // Read before the exponentials may overwrite it.
        let chosen = k.load(Ty::F32, p);
        let bases = k.element_at(scratch, if apart { classes } else { 0 });
        let kept = d.map(|d| Kept { terms: if apart { scratch } else { d }, bases });
        let [max, sum] = sum_of_exps(k, x, classes, lanes, kept);
        let log = math::log(k, sum);
        let lse = k.add(max, log);
        if let Some(p) = out_loss {
            let value = k.sub(lse, chosen);
            let p = k.element(p, row);
            k.store(value, p);
        }
        if let Some(p) = out_lse {
            let p = k.element(p, row);
            k.store(lse, p);
        }
        if let (Some(d), Some(kept), Some((_, weight))) = (d, kept, out_grad) {
            let p = k.element(weight, row);
            let weight = k.load(Ty::F32, p);
            let share = k.div(weight, sum);
            let factor = |k: &mut Emit, block: Val| {
                let p = k.element(kept.bases, block);
                let base = k.load(Ty::F32, p);
                let lower = k.sub(base, max);
                let scale = math::exp_negative(k, lower);
                k.mul(scale, share)
            };
            each_block(k, classes, &[], |k, block, size, _| {
                let factor = factor(k, block);
                let factors = k.splat(factor, lanes);
                let at = k.scale(block, BLOCK);
                let (from, to) = (k.element(kept.terms, at), k.element(d, at));
                change(k, from, to, size, lanes, |k, v| k.mul(v, factors));
                vec![]
            });
            let (from, to) = (k.element(kept.terms, label), k.element(d, label));
            let mut v = k.load(Ty::F32, from);
            if apart {
                let size = k.int(BLOCK as i64);
                let block = k.div(label, size);
                let factor = factor(k, block);
                v = k.mul(v, factor);
            }
            let v = k.sub(v, weight);
            k.store(v, to);
        }
        Ok(())
    })?;
    let bases = if out_grad.is_some() { blocks(classes) } else { 0 };
    let scratch_floats = if apart { classes } else { 0 } + bases;
    Ok(Shape { tasks: rows, scratch_floats, tiles: false })
}
