//! Attention of one token to those before it: a task is one head of queries. Scores live in scratch; keys and values are
//! read once by each of the heads that share them, which are neighbours.

use neoxc_ir::ops::attention::Form;

use super::attention::block::{Sizes, load_wide, store_wide};
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val, math};

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let op = b.f.ops.first().ok_or_else(|| b.fail("is empty"))?;
    let s = Sizes::of(b.f, op, b.lanes)?;
    let form = Form::of(&op.attrs).map_err(|e| b.fail(e.0))?;
    let past = b.f.ty(op.operands[3]).size("past").ok_or_else(|| b.fail("no `past`"))?;
    let pointer = |i: usize| b.param(op.operands[i]).ok_or_else(|| b.fail("lost an operand"));
    let (q, key, value) = (pointer(0)?, pointer(1)?, pointer(2)?);
    let (keys, values, count) = (pointer(3)?, pointer(4)?, pointer(5)?);
    let (out, scratch) = (b.result(0), b.scratch);
    let vectors = s.width.div_ceil(s.lanes);
    b.tasks(|b, head| {
        let k = &mut b.k;
        let shared = s.shared(k, head);
        let at = k.scale(head, s.width);
        let [q, out] = [q, out].map(|p| k.element(p, at));
        let at = k.scale(shared, s.width);
        let [key, value] = [key, value].map(|p| k.element(p, at));
        let at = k.scale(shared, past * s.width);
        let (keys, values) = (k.element(keys, at), k.element(values, at));
        let count = k.load(Ty::I32, count);
        let count = k.widen(count);
        let (zero, one) = (k.int(0), k.int(1));
        let from = match form.window {
            None => zero,
            Some(window) => {
                let window = k.int(window.min(past) as i64);
                let from = k.sub(count, window);
                k.max(from, zero)
            }
        };
        let query: Vec<Val> = (0..vectors).map(|j| load_wide(k, s, q, j)).collect();

        // Scores of all that is kept and seen, then of the token itself, and their maximum.
        let low = k.float(f64::NEG_INFINITY, Ty::F32);
        let max = k.for_(from, count, one, &[low], |k, j, max| {
            let at = k.scale(j, s.width);
            let row = k.element(keys, at);
            let x = score(k, s, &query, row);
            let to = k.element(scratch, j);
            k.store(x, to);
            vec![k.max(max[0], x)]
        });
        let own = score(k, s, &query, key);
        let max = k.max(max[0], own);

        let first: Vec<Val> = (0..vectors).map(|_| k.float(0.0, Ty::Vec(s.lanes))).collect();
        let none = k.float(0.0, Ty::F32);
        let start = [&first[..], &[none]].concat();
        let mut sums = k.for_(from, count, one, &start, |k, j, acc| {
            let at = k.element(scratch, j);
            let x = k.load(Ty::F32, at);
            let at = k.scale(j, s.width);
            let row = k.element(values, at);
            weigh(k, s, x, max, row, acc)
        });
        sums = weigh(k, s, own, max, value, &sums);
        let unit = k.float(1.0, Ty::F32);
        let inverse = k.div(unit, sums[vectors]);
        let inverse = k.splat(inverse, s.lanes);
        for (j, sum) in sums[..vectors].iter().enumerate() {
            let x = k.mul(*sum, inverse);
            store_wide(k, s, x, out, j);
        }
        Ok(())
    })?;
    Ok(Shape { tasks: s.batch * s.heads, scratch_floats: past + s.lanes, tiles: false })
}

/// `scale · q · row`.
fn score(k: &mut Emit, s: Sizes, query: &[Val], row: Val) -> Val {
    let mut sum = k.float(0.0, Ty::Vec(s.lanes));
    for (j, q) in query.iter().enumerate() {
        let x = load_wide(k, s, row, j);
        sum = k.fma(*q, x, sum);
    }
    let sum = k.reduce_add(sum);
    let scale = k.float(s.scale, Ty::F32);
    k.mul(sum, scale)
}

/// Adds `exp(x - max)` times a row of values, and the weight itself behind it.
fn weigh(k: &mut Emit, s: Sizes, x: Val, max: Val, row: Val, sums: &[Val]) -> Vec<Val> {
    let x = k.sub(x, max);
    let weight = math::exp(k, x);
    let each = k.splat(weight, s.lanes);
    let vectors = sums.len() - 1;
    let mut out: Vec<Val> = (0..vectors)
        .map(|j| {
            let v = load_wide(k, s, row, j);
            k.fma(each, v, sums[j])
        })
        .collect();
    out.push(k.add(sums[vectors], weight));
    out
}
