//! Cross-entropy of rows of logits, with the gradient of the logits where the body asks for it.
//! A task is a few rows; a row is read twice (maximum; exponentials) and scaled once.

use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Ty, Val, math};

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let find = |name: &str| b.f.ops.iter().find(|op| op.kind.is(name)).cloned();
    let loss = find("cross_entropy").ok_or_else(|| b.fail("has no cross_entropy"))?;
    let grad = find("cross_entropy_grad");
    let ty = b.f.ty(loss.operands[0]);
    let classes = match ty.dims.last() {
        Some(d) if Some(&*d.name) == loss.attrs.str("dim") => d.size,
        _ => return Err(b.fail("needs the classes as the innermost dim")),
    };
    let rows = ty.elements() / classes;
    let pointer = |v| b.param(v).ok_or_else(|| b.fail("lost an operand"));
    let (logits, labels) = (pointer(loss.operands[0])?, pointer(loss.operands[1])?);
    let result = |v| b.f.results.iter().position(|r| *r == v).map(|i| b.result(i));
    let (out_loss, out_lse) = (result(loss.results[0]), result(loss.results[1]));
    let out_grad = match &grad {
        Some(g) => Some((
            result(g.results[0]).ok_or_else(|| b.fail("does not return the gradient"))?,
            pointer(g.operands[3])?,
        )),
        None => None,
    };
    let lanes = b.lanes;
    let vec = Ty::Vec(lanes);
    b.tasks(|b, row| {
        let k = &mut b.k;
        let at = k.scale(row, classes);
        let x = k.element(logits, at);
        let (zero, step) = (k.int(0), k.int(lanes as i64));
        let whole = k.int((classes / lanes * lanes) as i64);
        let tail = (!classes.is_multiple_of(lanes)).then(|| k.mask(classes % lanes, lanes));
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
        let max = k.reduce_max(max);
        let maxes = k.splat(max, lanes);
        let none = k.float(0.0, vec);
        let exps = |k: &mut crate::emit::Emit, v: Val| {
            let c = k.sub(v, maxes);
            math::exp(k, c)
        };
        // The exponentials are kept where the gradient will be; without one they are only summed.
        let d = out_grad.map(|(p, _)| k.element(p, at));
        let label = k.element(labels, row);
        let label = k.load(Ty::I32, label);
        let label = k.widen(label);
        let p = k.element(x, label);
        // Read before the exponentials may overwrite it.
        let chosen = k.load(Ty::F32, p);
        let sum = k.for_(zero, whole, step, &[none], |k, i, acc| {
            let p = k.element(x, i);
            let v = k.load(vec, p);
            let e = exps(k, v);
            if let Some(d) = d {
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
            if let Some(d) = d {
                let p = k.element(d, whole);
                k.store_masked(e, p, mask);
            }
            sum = k.add(sum, e);
        }
        let sum = k.reduce_add(sum);
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
        if let (Some(d), Some((_, weight))) = (d, out_grad) {
            let p = k.element(weight, row);
            let weight = k.load(Ty::F32, p);
            let factor = k.div(weight, sum);
            let factors = k.splat(factor, lanes);
            k.loop_(zero, whole, lanes, |k, i| {
                let p = k.element(d, i);
                let v = k.load(vec, p);
                let v = k.mul(v, factors);
                k.store(v, p);
            });
            if let Some(mask) = tail {
                let p = k.element(d, whole);
                let v = k.load_masked(p, mask);
                let v = k.mul(v, factors);
                k.store_masked(v, p, mask);
            }
            let p = k.element(d, label);
            let v = k.load(Ty::F32, p);
            let v = k.sub(v, weight);
            k.store(v, p);
        }
        Ok(())
    })?;
    Ok(Shape { tasks: rows, scratch_floats: 0 })
}
