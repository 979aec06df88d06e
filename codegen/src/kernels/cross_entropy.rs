//! Cross-entropy of rows of logits, with the gradient of the logits where the body asks for it.
//! A task is a row; it is read twice (maximum; exponentials) and scaled once.

use std::f64::consts::LOG2_E;

use neoxc_ir::{Op, ValueId};

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
pub(super) fn largest(k: &mut Emit, x: Val, classes: usize, lanes: usize) -> Val {
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

/// The sum of `exp(x - max)` of a row, whose terms are kept at `keep`, which may be `x`.
pub(super) fn sum_of_exps(
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
    // Terms below 2⁻¹²⁶ are none: what a weight makes of them would be denormal, and slow.
    let (log2e, low) = (k.float(LOG2_E, vec), k.float(-126.0, vec));
    let exps = |k: &mut Emit, v: Val| {
        let c = k.sub(v, maxes);
        let c = k.mul(c, log2e);
        let e = math::exp2_negative(k, c);
        let gone = k.cmp("olt", c, low);
        k.select(gone, none, e)
    };
    let sum = k.for_(zero, whole, step, &[none], |k, i, acc| {
        let p = k.element(x, i);
        let v = k.load(vec, p);
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
        b.f.ops.iter().any(|op| op.kind.is("cast") && op.results[0] == *r && op.operands[0] == v)
    };
    let at = b.f.results.iter().position(|r| *r == v || rounded(r));
    at.map(|i| b.result(i)).ok_or_else(|| b.fail("does not return the gradient"))
}

/// Emits the kernel: of whole rows, or of what ranks do with their parts of them.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let find = |name: &str| b.f.ops.iter().find(|op| op.kind.is(name)).cloned();
    let grad = find("cross_entropy_grad");
    if let Some(op) = find("cross_entropy_part") {
        return cross_entropy_parts::part(b, &op);
    }
    if let Some(op) = find("cross_entropy_join") {
        return cross_entropy_parts::join(b, &op);
    }
    let loss = match (find("cross_entropy"), &grad) {
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
    let apart = out_grad.is_some_and(|(p, _)| p.ty == Ty::PtrBf16);
    let scratch = b.scratch;
    let lanes = b.lanes;
    b.tasks(|b, row| {
        let k = &mut b.k;
        let at = k.scale(row, classes);
        let x = k.element(logits, at);
        let max = largest(k, x, classes, lanes);
        // The exponentials are kept where the gradient will be; without one they are only summed.
        let d = out_grad.map(|(p, _)| k.element(p, at));
        let label = k.element(labels, row);
        let label = k.load(Ty::I32, label);
        let label = k.widen(label);
        let p = k.element(x, label);
        // Read before the exponentials may overwrite it.
        let chosen = k.load(Ty::F32, p);
        let kept = if apart { Some(scratch) } else { d };
        let sum = sum_of_exps(k, x, max, classes, lanes, kept);
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
            let factor = k.div(weight, sum);
            let factors = k.splat(factor, lanes);
            change(k, kept, d, classes, lanes, |k, v| k.mul(v, factors));
            let (from, to) = (k.element(kept, label), k.element(d, label));
            let mut v = k.load(Ty::F32, from);
            if apart {
                v = k.mul(v, factor);
            }
            let v = k.sub(v, weight);
            k.store(v, to);
        }
        Ok(())
    })?;
    let scratch_floats = if apart { classes } else { 0 };
    Ok(Shape { tasks: rows, scratch_floats, tiles: false })
}
