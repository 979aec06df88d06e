//! Movement of elements: transpose, slice, pad. One element at a time; these are rare and small
//! where they are left at all.

use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty};
use neoxc_ir::OpKind;

/// Emits the kernel: a task is one row of the result along its innermost dim.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let [op] = &b.f.ops[..] else { return Err(b.fail("must be one op")) };
    let (x, y) = (b.f.ty(op.operands[0]).clone(), b.f.ty(op.results[0]).clone());
    let Some(inner) = y.dims.last().map(|d| d.size) else {
        return Err(b.fail("moves a scalar"));
    };
    // Stride in x of each dim of y, a constant offset, and the range of `dim` that is inside x.
    let (strides, mut offset) = (x.strides(), 0i64);
    let along: Vec<usize> =
        y.dims.iter().map(|d| x.position(&d.name).map_or(0, |p| strides[p])).collect();
    let mut inside = None;
    let dim = op.attrs.str("dim").and_then(|d| y.position(d));
    match (op.kind, dim) {
        (OpKind::Transpose, _) => {}
        (OpKind::Slice, Some(p)) => offset = op.attrs.int("start").unwrap_or(0) * along[p] as i64,
        (OpKind::Pad, Some(p)) => {
            let before = op.attrs.int("before").unwrap_or(0);
            offset = -before * along[p] as i64;
            let size = x.dims.get(p).map_or(0, |d| d.size as i64);
            inside = Some((p, before, before + size));
        }
        (other, _) => return Err(b.fail(format!("`{other}` is not a movement"))),
    }
    let from = b.param(op.operands[0]).ok_or_else(|| b.fail("lost an operand"))?;
    let to = b.result(0);
    let last = y.dims.len() - 1;
    b.tasks(|b, row| {
        let k = &mut b.k;
        let mut base = k.int(offset);
        let mut rest = row;
        let mut index = vec![None; y.dims.len()];
        for d in (0..last).rev() {
            let n = k.int(y.dims[d].size as i64);
            let i = k.rem(rest, n);
            rest = k.div(rest, n);
            index[d] = Some(i);
            let part = k.scale(i, along[d]);
            base = k.add(base, part);
        }
        let out = k.scale(row, inner);
        k.count(inner, |k, i| {
            let step = k.scale(i, along[last]);
            let at = k.add(base, step);
            let place = k.add(out, i);
            let p = k.element(to, place);
            let zero = k.float(0.0, Ty::F32);
            match inside {
                None => {
                    let q = k.element(from, at);
                    let v = k.load(Ty::F32, q);
                    k.store(v, p);
                }
                Some((d, lo, hi)) => {
                    k.store(zero, p);
                    let i = index[d].unwrap_or(i);
                    let (lo, hi) = (k.int(lo), k.int(hi));
                    let (above, below) = (k.cmp("sge", i, lo), k.cmp("slt", i, hi));
                    let ok = both(k, above, below);
                    k.if_(ok, |k| {
                        let q = k.element(from, at);
                        let v = k.load(Ty::F32, q);
                        k.store(v, p);
                    });
                }
            }
        });
        Ok(())
    })?;
    Ok(Shape { tasks: y.elements() / inner, scratch_floats: 0, tiles: false })
}

fn both(k: &mut Emit, a: crate::emit::Val, b: crate::emit::Val) -> crate::emit::Val {
    k.arith("andi", a, b)
}
