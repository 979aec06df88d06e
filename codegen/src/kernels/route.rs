//! Routing: which experts tokens go to, and where they stand there.
//!
//! Scalar loops; a task is a row of scores, or a whole group where places depend on all tokens before, so
//! results do not depend on how tasks are divided.

use neoxc_ir::ops::sinkhorn::{EPS, ITERATIONS, ROUNDS, TOLERANCE};
use neoxc_ir::{Op, OpKind};

use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val, math};

/// The op, and pointers of its operands.
fn only(b: &Body<'_>) -> Result<(Op, Vec<Val>), CodegenError> {
    let [op] = &b.f.ops[..] else { return Err(b.fail("must be one op")) };
    let pointers = op.operands.iter().map(|o| b.param(*o).ok_or_else(|| b.fail("lost an operand")));
    Ok((op.clone(), pointers.collect::<Result<_, _>>()?))
}

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let (op, pointers) = only(b)?;
    match op.kind {
        OpKind::TopK => top_k(b, &op, &pointers),
        OpKind::TakeChoices | OpKind::PutChoices => choices(b, &op, &pointers),
        OpKind::Sinkhorn => sinkhorn(b, &op, &pointers),
        OpKind::ExpertLoad => load(b, &op, &pointers),
        OpKind::ExpertSlots => slots(b, &op, &pointers),
        OpKind::ExpertRows => rows(b, &op, &pointers),
        other => Err(b.fail(format!("`{other}` does not route"))),
    }
}

/// Size of dim number `i`.
fn size(b: &Body<'_>, v: neoxc_ir::ValueId, i: usize) -> usize {
    b.f.ty(v).dims.get(i).map_or(1, |d| d.size)
}

fn last(b: &Body<'_>, v: neoxc_ir::ValueId) -> usize {
    b.f.ty(v).dims.last().map_or(1, |d| d.size)
}

fn attr(b: &Body<'_>, op: &Op, name: &str) -> Result<usize, CodegenError> {
    let n = op.attrs.int(name).and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    n.ok_or_else(|| b.fail(format!("needs `{name}`")))
}

fn load_index(k: &mut Emit, base: Val, at: Val) -> Val {
    let p = k.element(base, at);
    let i = k.load(Ty::I32, p);
    k.widen(i)
}

fn store_index(k: &mut Emit, v: Val, base: Val, at: Val) {
    let v = k.narrow(v);
    let p = k.element(base, at);
    k.store(v, p);
}

fn load_float(k: &mut Emit, base: Val, at: Val) -> Val {
    let p = k.element(base, at);
    k.load(Ty::F32, p)
}

/// `for i in 0..n` with values handed on.
fn count(
    k: &mut Emit,
    n: Val,
    init: &[Val],
    body: impl FnOnce(&mut Emit, Val, &[Val]) -> Vec<Val>,
) -> Vec<Val> {
    let (zero, one) = (k.int(0), k.int(1));
    k.for_(zero, n, one, init, body)
}

/// Each choice is the first of the largest elements that come after the choice before it, in the order of
/// falling values and rising indices.
fn top_k(b: &mut Body<'_>, op: &Op, p: &[Val]) -> Result<Shape, CodegenError> {
    let (width, choices) = (last(b, op.operands[0]), last(b, op.results[0]));
    let tasks = b.f.ty(op.results[0]).elements() / choices;
    let (x, out) = (p[0], b.result(0));
    b.tasks(|b, row| {
        let k = &mut b.k;
        let base = k.scale(row, width);
        let to = k.scale(row, choices);
        let none = k.int(-1);
        let infinity = k.float(f64::INFINITY, Ty::F32);
        let lowest = k.float(f64::NEG_INFINITY, Ty::F32);
        let (choices, width) = (k.int(choices as i64), k.int(width as i64));
        count(k, choices, &[infinity, none], |k, c, before| {
            let best = count(k, width, &[lowest, none], |k, e, best| {
                let at = k.add(base, e);
                let v = load_float(k, x, at);
                let lower = k.cmp("olt", v, before[0]);
                let equal = k.cmp("oeq", v, before[0]);
                let later = k.cmp("sgt", e, before[1]);
                let tie = k.arith("andi", equal, later);
                let left = k.arith("ori", lower, tie);
                let unset = k.cmp("eq", best[1], none);
                let better = k.cmp("ogt", v, best[0]);
                let better = k.arith("ori", unset, better);
                let take = k.arith("andi", left, better);
                vec![k.select(take, v, best[0]), k.select(take, e, best[1])]
            });
            // Rows that are not numbers choose the first expert rather than none.
            let zero = k.int(0);
            let index = k.max(best[1], zero);
            let at = k.add(to, c);
            store_index(k, index, out, at);
            best
        });
        Ok(())
    })?;
    Ok(Shape { tasks, scratch_floats: 0, tiles: false })
}

fn choices(b: &mut Body<'_>, op: &Op, p: &[Val]) -> Result<Shape, CodegenError> {
    let take = op.kind == OpKind::TakeChoices;
    let wide = if take { op.operands[0] } else { op.results[0] };
    let (width, choices) = (last(b, wide), last(b, op.operands[1]));
    let tasks = b.f.ty(op.operands[1]).elements() / choices;
    let (values, indices, out) = (p[0], p[1], b.result(0));
    b.tasks(|b, row| {
        let k = &mut b.k;
        let (base, first) = (k.scale(row, width), k.scale(row, choices));
        if !take {
            let zero = k.float(0.0, Ty::F32);
            k.count(width, |k, e| {
                let at = k.add(base, e);
                let p = k.element(out, at);
                k.store(zero, p);
            });
        }
        k.count(choices, |k, c| {
            let at = k.add(first, c);
            let index = load_index(k, indices, at);
            let inside = k.add(base, index);
            let v = load_float(k, values, if take { inside } else { at });
            let p = k.element(out, if take { at } else { inside });
            let v = if take {
                v
            } else {
                let old = k.load(Ty::F32, p);
                k.add(old, v)
            };
            k.store(v, p);
        });
        Ok(())
    })?;
    Ok(Shape { tasks, scratch_floats: 0, tiles: false })
}

/// One over `experts` times the sum of column `e` of the exponentials at `c`.
fn column_share(k: &mut Emit, c: Val, e: Val, tokens: usize, experts: usize) -> Val {
    let (zero, one) = (k.float(0.0, Ty::F32), k.float(1.0, Ty::F32));
    let all = k.int(tokens as i64);
    let sum = count(k, all, &[zero], |k, t, sum| {
        let row = k.scale(t, experts);
        let at = k.add(row, e);
        let v = load_float(k, c, at);
        vec![k.add(sum[0], v)]
    });
    let n = k.float(experts as f64, Ty::F32);
    let sum = k.mul(n, sum[0]);
    k.div(one, sum)
}

/// The exponentials wait in the result; scratch has the factors of tokens, then of experts.
fn sinkhorn(b: &mut Body<'_>, op: &Op, p: &[Val]) -> Result<Shape, CodegenError> {
    let x = op.operands[0];
    let [groups, tokens, experts] = [0, 1, 2].map(|i| size(b, x, i));
    let (x, out, token_factors) = (p[0], b.result(0), b.scratch);
    let rounds = op.attrs.int(ROUNDS.name);
    b.tasks(|b, group| {
        let k = &mut b.k;
        let expert_factors = k.element_at(token_factors, tokens);
        let base = k.scale(group, tokens * experts);
        let (from, c) = (k.element(x, base), k.element(out, base));
        k.count(tokens * experts, |k, i| {
            let v = load_float(k, from, i);
            let v = math::exp(k, v);
            let p = k.element(c, i);
            k.store(v, p);
        });
        let one = k.float(1.0, Ty::F32);
        k.count(experts, |k, e| {
            let first = if rounds.is_some() { column_share(k, c, e, tokens, experts) } else { one };
            let p = k.element(expert_factors, e);
            k.store(first, p);
        });
        let (eps, tolerance) = (k.float(EPS, Ty::F32), k.float(TOLERANCE, Ty::F32));
        let (zero, nothing) = (k.float(0.0, Ty::F32), k.int(0));
        let (all_tokens, all_experts) = (k.int(tokens as i64), k.int(experts as i64));
        // One over so many times the sum.
        let share = |k: &mut Emit, n: usize, sum: Val| {
            let n = k.float(n as f64, Ty::F32);
            let sum = k.add(sum, eps);
            let sum = k.mul(n, sum);
            k.div(one, sum)
        };
        // With `rounds` it goes on as long as nothing moves, as GPT-NeoX's does.
        let (start, goes_on) = if rounds.is_some() { (0.0, "ole") } else { (1e9, "ogt") };
        let start = k.float(start, Ty::F32);
        let most = k.int(rounds.unwrap_or(ITERATIONS as i64));
        count(k, most, &[start], |k, _, error| {
            // Once the factors have settled, nothing more is done.
            let going = k.cmp(goes_on, error[0], tolerance);
            let (t, e) =
                (k.select(going, all_tokens, nothing), k.select(going, all_experts, nothing));
            count(k, t, &[], |k, t, _| {
                let row = k.scale(t, experts);
                let sum = count(k, all_experts, &[zero], |k, e, sum| {
                    let at = k.add(row, e);
                    let (c, f) = (load_float(k, c, at), load_float(k, expert_factors, e));
                    let product = k.mul(c, f);
                    vec![k.add(sum[0], product)]
                });
                let new = share(k, tokens, sum[0]);
                let p = k.element(token_factors, t);
                k.store(new, p);
                vec![]
            });
            let moved = count(k, e, &[zero], |k, e, moved| {
                let sum = count(k, all_tokens, &[zero], |k, t, sum| {
                    let row = k.scale(t, experts);
                    let at = k.add(row, e);
                    let (c, f) = (load_float(k, c, at), load_float(k, token_factors, t));
                    let product = k.mul(c, f);
                    vec![k.add(sum[0], product)]
                });
                let new = share(k, experts, sum[0]);
                let p = k.element(expert_factors, e);
                let old = k.load(Ty::F32, p);
                k.store(new, p);
                let difference = k.sub(new, old);
                let difference = k.abs(difference);
                vec![k.add(moved[0], difference)]
            });
            let n = k.float(experts as f64, Ty::F32);
            let mean = k.div(moved[0], n);
            vec![k.select(going, mean, error[0])]
        });
        k.count(tokens, |k, t| {
            let row = k.scale(t, experts);
            let f = load_float(k, token_factors, t);
            k.count(experts, |k, e| {
                let at = k.add(row, e);
                let p = k.element(c, at);
                let v = k.load(Ty::F32, p);
                let own = load_float(k, expert_factors, e);
                let v = k.mul(v, own);
                let v = k.mul(v, f);
                k.store(v, p);
            });
        });
        Ok(())
    })?;
    Ok(Shape { tasks: groups, scratch_floats: tokens + experts, tiles: false })
}

/// A task is one expert of a group, and counts its choices.
fn load(b: &mut Body<'_>, op: &Op, p: &[Val]) -> Result<Shape, CodegenError> {
    let experts = attr(b, op, "experts")?;
    let groups = size(b, op.operands[0], 0);
    let choices = b.f.ty(op.operands[0]).elements() / groups;
    let (indices, out) = (p[0], b.result(0));
    b.tasks(|b, task| {
        let k = &mut b.k;
        let n = k.int(experts as i64);
        let (group, expert) = (k.div(task, n), k.rem(task, n));
        let first = k.scale(group, choices);
        let (zero, one) = (k.int32(0, Ty::I32), k.int32(1, Ty::I32));
        let all = k.int(choices as i64);
        let found = count(k, all, &[zero], |k, i, found| {
            let at = k.add(first, i);
            let index = load_index(k, indices, at);
            let same = k.cmp("eq", index, expert);
            let more = k.add(found[0], one);
            vec![k.select(same, more, found[0])]
        });
        let found = k.to_float(found[0]);
        let all = k.float(choices as f64, Ty::F32);
        let share = k.div(found, all);
        let p = k.element(out, task);
        k.store(share, p);
        Ok(())
    })?;
    Ok(Shape { tasks: groups * experts, scratch_floats: 0, tiles: false })
}

/// Fills `n` elements from `first` on with a whole number.
fn fill(k: &mut Emit, base: Val, first: Val, n: usize, value: i32) {
    let v = k.int32(value, Ty::I32);
    k.count(n, |k, i| {
        let at = k.add(first, i);
        let p = k.element(base, at);
        k.store(v, p);
    });
}

/// Scratch has the number of slots taken of each expert.
fn slots(b: &mut Body<'_>, op: &Op, p: &[Val]) -> Result<Shape, CodegenError> {
    let (experts, capacity) = (attr(b, op, "experts")?, attr(b, op, "capacity")?);
    let [groups, tokens, choices] = [0, 1, 2].map(|i| size(b, op.operands[0], i));
    let (indices, position, source, taken) = (p[0], b.result(0), b.result(1), b.scratch);
    b.tasks(|b, group| {
        let k = &mut b.k;
        let (zero, one, none) = (k.int(0), k.int(1), k.int(-1));
        fill(k, taken, zero, experts, 0);
        // The first slot of an expert in this group.
        let bin = |k: &mut Emit, expert: Val| {
            let at = k.scale(expert, groups);
            let at = k.add(at, group);
            k.scale(at, capacity)
        };
        k.count(experts, |k, e| {
            let first = bin(k, e);
            fill(k, source, first, capacity, -1);
        });
        k.count(choices, |k, c| {
            k.count(tokens, |k, t| {
                let token = k.scale(group, tokens);
                let token = k.add(token, t);
                let at = k.scale(token, choices);
                let at = k.add(at, c);
                let expert = load_index(k, indices, at);
                let slot = load_index(k, taken, expert);
                let limit = k.int(capacity as i64);
                let fits = k.cmp("slt", slot, limit);
                let place = k.scale(expert, capacity);
                let place = k.add(place, slot);
                let place = k.select(fits, place, none);
                store_index(k, place, position, at);
                k.if_(fits, |k| {
                    let first = bin(k, expert);
                    let to = k.add(first, slot);
                    let own = k.scale(t, choices);
                    let own = k.add(own, c);
                    store_index(k, own, source, to);
                    let next = k.add(slot, one);
                    store_index(k, next, taken, expert);
                });
            });
        });
        Ok(())
    })?;
    Ok(Shape { tasks: groups, scratch_floats: experts, tiles: false })
}

/// Scratch has the next row of each expert.
fn rows(b: &mut Body<'_>, op: &Op, p: &[Val]) -> Result<Shape, CodegenError> {
    let (experts, owners) = (attr(b, op, "experts")?, attr(b, op, "owners")?);
    let local = experts / owners;
    let groups = size(b, op.operands[0], 0);
    let rows = b.f.ty(op.operands[0]).elements() / groups;
    let (indices, position, source) = (p[0], b.result(0), b.result(1));
    let (starts, counts, next) = (b.result(2), b.result(3), b.scratch);
    b.tasks(|b, group| {
        let k = &mut b.k;
        let (zero, one) = (k.int(0), k.int(1));
        fill(k, next, zero, experts, 0);
        let first = k.scale(group, rows);
        let expert_of = |k: &mut Emit, n: Val| {
            let at = k.add(first, n);
            load_index(k, indices, at)
        };
        let advance = |k: &mut Emit, expert: Val| {
            let row = load_index(k, next, expert);
            let after = k.add(row, one);
            store_index(k, after, next, expert);
            row
        };
        k.count(rows, |k, n| {
            let expert = expert_of(k, n);
            advance(k, expert);
        });
        k.count(owners, |k, owner| {
            let at = k.scale(owner, groups);
            let bin = k.add(at, group);
            let to = k.scale(bin, rows);
            fill(k, source, to, rows, -1);
            let all = k.int(local as i64);
            count(k, all, &[zero], |k, e, start| {
                let at = k.scale(bin, local);
                let at = k.add(at, e);
                let expert = k.scale(owner, local);
                let expert = k.add(expert, e);
                let n = load_index(k, next, expert);
                store_index(k, start[0], starts, at);
                store_index(k, n, counts, at);
                store_index(k, start[0], next, expert);
                vec![k.add(start[0], n)]
            });
        });
        k.count(rows, |k, n| {
            let expert = expert_of(k, n);
            let row = advance(k, expert);
            let all = k.int(local as i64);
            let owner = k.div(expert, all);
            let place = k.scale(owner, rows);
            let place = k.add(place, row);
            let at = k.add(first, n);
            store_index(k, place, position, at);
            let at = k.scale(owner, groups);
            let at = k.add(at, group);
            let at = k.scale(at, rows);
            let at = k.add(at, row);
            store_index(k, n, source, at);
        });
        Ok(())
    })?;
    Ok(Shape { tasks: groups, scratch_floats: experts, tiles: false })
}
