//! Tokens into the places that routing gave them, back from there, and vectors of experts to their rows.
//!
//! A task is one row of the result. Rows that have no source are zeros: the row that is read in its place
//! is the first one, and what was read is dropped, so nothing outside the operands is touched.

use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};
use neoxc_ir::OpKind;

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let [op] = &b.f.ops[..] else { return Err(b.fail("must be one op")) };
    let op = op.clone();
    let pointers = op.operands.iter().map(|o| b.param(*o).ok_or_else(|| b.fail("lost an operand")));
    let p: Vec<Val> = pointers.collect::<Result<_, _>>()?;
    let sizes =
        |i: usize| -> Vec<usize> { b.f.ty(op.operands[i]).dims.iter().map(|d| d.size).collect() };
    let width = |lead: usize, i: usize| sizes(i).iter().skip(lead).product::<usize>();
    match op.kind {
        OpKind::Dispatch => {
            let (x, source) = (sizes(1), sizes(2));
            let routed = Routed { groups: x[0], tokens: x[1], choices: x[2], slots: source[2] };
            dispatch(b, &routed, source[0], width(2, 0), &p)
        }
        OpKind::Combine => {
            let (x, position) = (sizes(0), sizes(1));
            let [groups, tokens, choices] = [0, 1, 2].map(|i: usize| position[i]);
            let routed = Routed { groups, tokens, choices, slots: x[2] };
            combine(b, &routed, width(3, 0), &p)
        }
        OpKind::RouteDot => {
            let (y, position) = (sizes(1), sizes(2));
            let [groups, tokens, choices] = [0, 1, 2].map(|i: usize| position[i]);
            let routed = Routed { groups, tokens, choices, slots: y[2] };
            dots(b, &routed, width(2, 0), &p)
        }
        OpKind::ExpandRows => {
            let (starts, rows) = (sizes(1), b.f.ty(op.results[0]).dims[2].size);
            expand(b, [starts[0], starts[1], starts[2]], rows, width(2, 0), &p)
        }
        other => Err(b.fail(format!("`{other}` moves no tokens"))),
    }
}

struct Routed {
    groups: usize,
    tokens: usize,
    choices: usize,
    slots: usize,
}

/// A number that is -1 for nothing: whether it is something, and the number, or 0.
fn load_place(k: &mut Emit, base: Val, at: Val) -> (Val, Val) {
    let p = k.element(base, at);
    let i = k.load(Ty::I32, p);
    let i = k.widen(i);
    let zero = k.int(0);
    (k.cmp("sge", i, zero), k.max(i, zero))
}

/// Calls `f(column, mask)` for each vector of a row of `width`.
fn across(
    k: &mut Emit,
    width: usize,
    lanes: usize,
    mut f: impl FnMut(&mut Emit, Val, Option<Val>),
) {
    let (zero, whole) = (k.int(0), k.int((width / lanes * lanes) as i64));
    if width >= lanes {
        k.loop_(zero, whole, lanes, |k, i| f(k, i, None));
    }
    if !width.is_multiple_of(lanes) {
        let mask = k.mask(width % lanes, lanes);
        f(k, whole, Some(mask));
    }
}

fn load(k: &mut Emit, row: Val, i: Val, mask: Option<Val>, lanes: usize) -> Val {
    let p = k.element(row, i);
    match mask {
        None => k.load(Ty::Vec(lanes), p),
        Some(mask) => k.load_masked(p, mask),
    }
}

fn store(k: &mut Emit, v: Val, row: Val, i: Val, mask: Option<Val>) {
    let p = k.element(row, i);
    match mask {
        None => k.store(v, p),
        Some(mask) => k.store_masked(v, p, mask),
    }
}

fn dispatch(
    b: &mut Body<'_>,
    r: &Routed,
    bins: usize,
    width: usize,
    p: &[Val],
) -> Result<Shape, CodegenError> {
    let (x, source, out, lanes) = (p[0], p[2], b.result(0), b.lanes);
    let weights = p.get(3).copied();
    b.tasks(|b, task| {
        let k = &mut b.k;
        let (slots, groups) = (k.int(r.slots as i64), k.int(r.groups as i64));
        let bin = k.div(task, slots);
        let group = k.rem(bin, groups);
        let (used, own) = load_place(k, source, task);
        let choices = k.int(r.choices as i64);
        let token = k.div(own, choices);
        let first = k.scale(group, r.tokens);
        let token = k.add(first, token);
        let weight = weights.map(|w| {
            let at = k.scale(group, r.tokens * r.choices);
            let at = k.add(at, own);
            let p = k.element(w, at);
            let w = k.load(Ty::F32, p);
            k.splat(w, lanes)
        });
        let (from, to) = (k.scale(token, width), k.scale(task, width));
        let (from, to) = (k.element(x, from), k.element(out, to));
        let zero = k.float(0.0, Ty::Vec(lanes));
        across(k, width, lanes, |k, i, mask| {
            let mut v = load(k, from, i, mask, lanes);
            if let Some(w) = weight {
                v = k.mul(v, w);
            }
            let v = k.select(used, v, zero);
            store(k, v, to, i, mask);
        });
        Ok(())
    })?;
    Ok(Shape { tasks: bins * r.groups * r.slots, scratch_floats: 0, tiles: false })
}

/// Whether choice `c` of a token has a place, its number among choices, and its row there.
fn placed(
    k: &mut Emit,
    r: &Routed,
    token: Val,
    c: usize,
    position: Val,
    base: Val,
    width: usize,
) -> (Val, Val, Val) {
    let tokens = k.int(r.tokens as i64);
    let group = k.div(token, tokens);
    let at = k.scale(token, r.choices);
    let c = k.int(c as i64);
    let at = k.add(at, c);
    let (used, place) = load_place(k, position, at);
    let slots = k.int(r.slots as i64);
    let (bin, slot) = (k.div(place, slots), k.rem(place, slots));
    let row = k.scale(bin, r.groups);
    let row = k.add(row, group);
    let row = k.scale(row, r.slots);
    let row = k.add(row, slot);
    let row = k.scale(row, width);
    (used, at, k.element(base, row))
}

fn combine(b: &mut Body<'_>, r: &Routed, width: usize, p: &[Val]) -> Result<Shape, CodegenError> {
    let (x, position, out, lanes) = (p[0], p[1], b.result(0), b.lanes);
    let weights = p.get(3).copied();
    b.tasks(|b, token| {
        let k = &mut b.k;
        let parts: Vec<(Val, Val, Option<Val>)> = (0..r.choices)
            .map(|c| {
                let (used, at, row) = placed(k, r, token, c, position, x, width);
                let weight = weights.map(|w| {
                    let p = k.element(w, at);
                    let w = k.load(Ty::F32, p);
                    k.splat(w, lanes)
                });
                (used, row, weight)
            })
            .collect();
        let to = k.scale(token, width);
        let to = k.element(out, to);
        let zero = k.float(0.0, Ty::Vec(lanes));
        across(k, width, lanes, |k, i, mask| {
            let mut sum = zero;
            for (used, row, weight) in &parts {
                let mut v = load(k, *row, i, mask, lanes);
                if let Some(w) = weight {
                    v = k.mul(v, *w);
                }
                let v = k.select(*used, v, zero);
                sum = k.add(sum, v);
            }
            store(k, sum, to, i, mask);
        });
        Ok(())
    })?;
    Ok(Shape { tasks: r.groups * r.tokens, scratch_floats: 0, tiles: false })
}

fn dots(b: &mut Body<'_>, r: &Routed, width: usize, p: &[Val]) -> Result<Shape, CodegenError> {
    let (x, y, position, out, lanes) = (p[0], p[1], p[2], b.result(0), b.lanes);
    b.tasks(|b, token| {
        let k = &mut b.k;
        let from = k.scale(token, width);
        let from = k.element(x, from);
        let (zero, nothing) = (k.float(0.0, Ty::Vec(lanes)), k.float(0.0, Ty::F32));
        for c in 0..r.choices {
            let (used, at, row) = placed(k, r, token, c, position, y, width);
            let whole = width / lanes * lanes;
            let (lo, hi) = (k.int(0), k.int(whole as i64));
            let step = k.int(lanes as i64);
            let mut sum = k.for_(lo, hi, step, &[zero], |k, i, sum| {
                let (a, b) = (load(k, from, i, None, lanes), load(k, row, i, None, lanes));
                vec![k.fma(a, b, sum[0])]
            })[0];
            if whole < width {
                let mask = k.mask(width - whole, lanes);
                let (a, b) =
                    (load(k, from, hi, Some(mask), lanes), load(k, row, hi, Some(mask), lanes));
                sum = k.fma(a, b, sum);
            }
            let dot = k.reduce_add(sum);
            let dot = k.select(used, dot, nothing);
            let p = k.element(out, at);
            k.store(dot, p);
        }
        Ok(())
    })?;
    Ok(Shape { tasks: r.groups * r.tokens, scratch_floats: 0, tiles: false })
}

fn expand(
    b: &mut Body<'_>,
    [owners, groups, local]: [usize; 3],
    rows: usize,
    width: usize,
    p: &[Val],
) -> Result<Shape, CodegenError> {
    let (v, starts, counts, out, lanes) = (p[0], p[1], p[2], b.result(0), b.lanes);
    b.tasks(|b, task| {
        let k = &mut b.k;
        let all = k.int(rows as i64);
        let (bin, row) = (k.div(task, all), k.rem(task, all));
        let first = k.scale(bin, local);
        let (none, zero, one) = (k.int(-1), k.int(0), k.int(1));
        let all = k.int(local as i64);
        let index = |k: &mut Emit, base: Val, at: Val| {
            let p = k.element(base, at);
            let i = k.load(Ty::I32, p);
            k.widen(i)
        };
        let own = k.for_(zero, all, one, &[none], |k, e, own| {
            let at = k.add(first, e);
            let (start, n) = (index(k, starts, at), index(k, counts, at));
            let end = k.add(start, n);
            let (after, before) = (k.cmp("sge", row, start), k.cmp("slt", row, end));
            let inside = k.arith("andi", after, before);
            vec![k.select(inside, e, own[0])]
        })[0];
        let used = k.cmp("sge", own, zero);
        let own = k.max(own, zero);
        let groups = k.int(groups as i64);
        let owner = k.div(bin, groups);
        let at = k.scale(owner, local);
        let at = k.add(at, own);
        let (from, to) = (k.scale(at, width), k.scale(task, width));
        let (from, to) = (k.element(v, from), k.element(out, to));
        let empty = k.float(0.0, Ty::Vec(lanes));
        across(k, width, lanes, |k, i, mask| {
            let v = load(k, from, i, mask, lanes);
            let v = k.select(used, v, empty);
            store(k, v, to, i, mask);
        });
        Ok(())
    })?;
    Ok(Shape { tasks: owners * groups * rows, scratch_floats: 0, tiles: false })
}
