//! Fused projections to queries, keys and values with rotary embedding, and back.
//!
//! A task is one token; the rotation works on the two halves of the rotary dims as vectors. Projections of more than one
//! token are split by the matmul that makes them.

use neoxc_ir::ops::qkv_split::sharing;
use neoxc_ir::{OpKind, ValueId};

use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};

/// Sizes of a fused projection.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub seq: usize,
    /// Heads of keys and values.
    pub heads: usize,
    /// Heads of queries that share one.
    pub sharing: usize,
    pub width: usize,
    pub tokens: usize,
}

/// What happens to one of the three parts.
#[derive(Clone, Copy)]
pub(super) struct Rotation {
    cos: Val,
    sin: Val,
    pub half: usize,
    /// Backward: the rotation is by the negative angle.
    back: bool,
}

fn vector(n: usize) -> Ty {
    if n == 1 { Ty::F32 } else { Ty::Vec(n) }
}

/// Copies `width` elements, rotating the first `2·half`; moves at most `lanes` at a time. `to` may be `from`.
pub(super) fn part(
    k: &mut Emit,
    from: Val,
    to: Val,
    width: usize,
    position: Val,
    r: Option<Rotation>,
    lanes: usize,
) {
    let chunks = |n: usize| (0..n).step_by(lanes).map(move |i| (i, lanes.min(n - i)));
    let mut done = 0;
    if let Some(r) = r {
        let at = k.scale(position, r.half);
        let (cos, sin) = (k.element(r.cos, at), k.element(r.sin, at));
        for (i, n) in chunks(r.half) {
            let ty = vector(n);
            let load = |k: &mut Emit, base, at| {
                let p = k.element_at(base, at);
                k.load(ty, p)
            };
            let (x1, x2) = (load(k, from, i), load(k, from, r.half + i));
            let (c, s) = (load(k, cos, i), load(k, sin, i));
            let s = if r.back { k.neg(s) } else { s };
            let (a, b) = (k.mul(x1, c), k.mul(x2, s));
            let y1 = k.sub(a, b);
            let (a, b) = (k.mul(x2, c), k.mul(x1, s));
            let y2 = k.add(a, b);
            let p = k.element_at(to, i);
            k.store(y1, p);
            let p = k.element_at(to, r.half + i);
            k.store(y2, p);
        }
        done = 2 * r.half;
    }
    for (i, n) in chunks(width - done) {
        let p = k.element_at(from, done + i);
        let v = k.load(vector(n), p);
        let p = k.element_at(to, done + i);
        k.store(v, p);
    }
}

impl Sizes {
    /// Rows of a head of keys and values in the projection: its queries, its key and its value.
    pub fn rows(&self) -> usize {
        self.sharing + 2
    }
}

/// Walks token × head × part, giving the part's number, the offsets of its row in the projection and alone, and the
/// position.
fn walk(
    b: &mut Body<'_>,
    s: &Sizes,
    body: impl Fn(&mut Emit, usize, Val, Val, Val),
) -> Result<Shape, CodegenError> {
    b.tasks(|b, token| {
        let k = &mut b.k;
        let seq = k.int(s.seq as i64);
        let (batch, position) = (k.div(token, seq), k.rem(token, seq));
        k.count(s.heads, |k, head| {
            let at = k.scale(token, s.heads);
            let at = k.add(at, head);
            let fused = k.scale(at, s.rows() * s.width);
            let at = k.scale(batch, s.heads);
            let head = k.add(at, head);
            let single = |k: &mut Emit, head: Val| {
                let at = k.scale(head, s.seq);
                let at = k.add(at, position);
                k.scale(at, s.width)
            };
            if s.sharing == 1 {
                let single = single(k, head);
                body(k, 0, fused, single, position);
            } else {
                k.count(s.sharing, |k, member| {
                    let first = k.scale(head, s.sharing);
                    let head = k.add(first, member);
                    let single = single(k, head);
                    let at = k.scale(member, s.width);
                    let fused = k.add(fused, at);
                    body(k, 0, fused, single, position);
                });
            }
            let single = single(k, head);
            for part in [1, 2] {
                let at = k.int(((s.sharing + part - 1) * s.width) as i64);
                let fused = k.add(fused, at);
                body(k, part, fused, single, position);
            }
        });
        Ok(())
    })?;
    Ok(Shape { tasks: s.tokens, scratch_floats: 0, tiles: false })
}

/// The sizes of the projection that has the queries `q`.
pub(super) fn sizes(b: &Body<'_>, q: ValueId) -> Result<Sizes, CodegenError> {
    let ty = b.f.ty(q);
    let size = |n| ty.size(n).ok_or_else(|| b.fail(format!("no `{n}`")));
    Ok(Sizes {
        seq: size("seq")?,
        heads: size("heads")?,
        sharing: sharing(ty),
        width: size("head_dim")?,
        tokens: size("batch")? * size("seq")?,
    })
}

/// The rotation that `op` (a `rotary`) does; its sine may be negated in the body.
fn rotation(b: &Body<'_>, op: &neoxc_ir::Op) -> Result<Rotation, CodegenError> {
    let half = b.f.ty(op.operands[1]).size("rot").unwrap_or(0);
    let sin = op.operands[2];
    let negated = b.f.ops.iter().find(|o| o.kind == OpKind::Neg && o.results[0] == sin);
    let source = negated.map_or(sin, |o| o.operands[0]);
    let pointer = |v| b.param(v).ok_or_else(|| b.fail("rotary tables must be operands"));
    Ok(Rotation {
        cos: pointer(op.operands[1])?,
        sin: pointer(source)?,
        half,
        back: negated.is_some(),
    })
}

/// Where the body returns the parts that `op` (a `qkv_split`) makes, and what rotation each has before.
pub(super) fn stored_parts(
    b: &Body<'_>,
    op: &neoxc_ir::Op,
) -> Result<Vec<(Val, Option<Rotation>)>, CodegenError> {
    let mut parts = vec![];
    for r in &op.results {
        let turn = b.f.ops.iter().find(|o| o.kind == OpKind::Rotary && o.operands[0] == *r);
        let (value, how) = match turn {
            Some(t) => (t.results[0], Some(rotation(b, t)?)),
            None => (*r, None),
        };
        let at = b.f.results.iter().position(|x| *x == value);
        parts.push((b.result(at.ok_or_else(|| b.fail("does not return a part"))?), how));
    }
    Ok(parts)
}

/// `qkv_split`, then rotary of queries and keys if the body has it.
pub(super) fn split(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let op = b.f.ops.iter().find(|op| op.kind == OpKind::QkvSplit).cloned();
    let op = op.ok_or_else(|| b.fail("has no qkv_split"))?;
    let s = sizes(b, op.results[0])?;
    let from = b.param(op.operands[0]).ok_or_else(|| b.fail("lost an operand"))?;
    let parts = stored_parts(b, &op)?;
    let lanes = b.lanes;
    walk(b, &s, |k, i, fused, single, position| {
        let (to, how) = parts[i];
        let (from, to) = (k.element(from, fused), k.element(to, single));
        part(k, from, to, s.width, position, how, lanes);
    })
}

/// `rotary` alone, of queries or keys [.., seq, head_dim] that were normalised before, or whose gradient was not merged: a
/// task is the sequence of one head.
pub(super) fn rotary(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let op = b.f.ops.iter().find(|op| op.kind == OpKind::Rotary).cloned();
    let op = op.ok_or_else(|| b.fail("has no rotary"))?;
    let dims = &b.f.ty(op.operands[0]).dims;
    let [outer @ .., seq, width] = &dims[..] else { return Err(b.fail("has no rows")) };
    if &*seq.name != "seq" {
        return Err(b.fail("has rows of several positions together"));
    }
    let tasks = outer.iter().map(|d| d.size).product();
    let (seq, width) = (seq.size, width.size);
    let from = b.param(op.operands[0]).ok_or_else(|| b.fail("lost an operand"))?;
    let (to, how, lanes) = (b.result(0), rotation(b, &op)?, b.lanes);
    b.tasks(|b, head| {
        let k = &mut b.k;
        let first = k.scale(head, seq);
        k.count(seq, |k, position| {
            let row = k.add(first, position);
            let at = k.scale(row, width);
            let (from, to) = (k.element(from, at), k.element(to, at));
            part(k, from, to, width, position, Some(how), lanes);
        });
        Ok(())
    })?;
    Ok(Shape { tasks, scratch_floats: 0, tiles: false })
}

/// Rotary of the first two parts if the body has it, then `qkv_merge`.
pub(super) fn merge(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let op = b.f.ops.iter().find(|op| op.kind == OpKind::QkvMerge).cloned();
    let op = op.ok_or_else(|| b.fail("has no qkv_merge"))?;
    let s = sizes(b, op.operands[0])?;
    let mut parts = vec![];
    for o in &op.operands {
        let turn = b.f.ops.iter().find(|t| t.kind == OpKind::Rotary && t.results[0] == *o);
        let (value, how) = match turn {
            Some(t) => (t.operands[0], Some(rotation(b, t)?)),
            None => (*o, None),
        };
        parts.push((b.param(value).ok_or_else(|| b.fail("lost a part"))?, how));
    }
    let to = b.result(0);
    let lanes = b.lanes;
    walk(b, &s, |k, i, fused, single, position| {
        let (from, how) = parts[i];
        let (from, to) = (k.element(from, single), k.element(to, fused));
        part(k, from, to, s.width, position, how, lanes);
    })
}
