//! Sums over neighbouring outer dims, leaving the inner ones: gradients of biases and norm weights; with
//! dims further out, one such sum for each of their elements (biases of experts).
//!
//! A task owns a block of columns and walks all its rows, so the sum has one order whatever the number
//! of threads. Pointwise ops before and after the sum are computed on the way.

use std::collections::HashMap;

use neoxc_ir::ValueId;

use super::space::Space;
use super::{Body, Shape};
use crate::CodegenError;
use crate::emit::{Emit, Ty, Val};

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let space = Space::of(b.f).ok_or_else(|| b.fail("its values do not share one index space"))?;
    let (outer, rows, width) = match space.sizes[..] {
        [rows, width] => (1, rows, width),
        [outer, rows, width] => (outer, rows, width),
        _ => {
            return Err(
                b.fail(format!("has {} groups of dims, not rows and columns", space.sizes.len()))
            );
        }
    };
    let columns = space.sizes.len() - 1;
    let sums: Vec<neoxc_ir::Op> =
        b.f.ops.iter().filter(|op| op.kind.is("reduce_sum")).cloned().collect();
    for op in &sums {
        let (x, y) = (op.operands[0], op.results[0]);
        let kept = |g| space.has(x, g) && space.has(y, g);
        if !kept(columns) || space.has(y, columns - 1) || columns == 2 && !kept(0) {
            return Err(b.fail("reduces other dims than the rows"));
        }
    }
    if sums.is_empty() {
        return Err(b.fail("has no sum"));
    }
    let lanes = b.lanes;
    // Several vectors share a row's cache lines and page, and their sums do not wait for each other.
    let enough = |v: &usize| outer * width / (lanes * v) >= 2 * b.cpu.cores;
    let whole = |v: &usize| width.is_multiple_of(lanes * v);
    let vectors = [4, 2].into_iter().find(|v| whole(v) && enough(v)).unwrap_or(1);
    let blocks = width.div_ceil(lanes * vectors);
    b.tasks(|b, t| {
        let (first, t) = if outer == 1 {
            (None, t)
        } else {
            let n = b.k.int(blocks as i64);
            (Some(b.k.div(t, n)), b.k.rem(t, n))
        };
        let column = b.k.scale(t, lanes * vectors);
        let mask = (!width.is_multiple_of(lanes)).then(|| {
            let ids = b.k.lane_ids(lanes);
            let left = b.k.int(width as i64);
            let left = b.k.sub(left, column);
            let left = b.k.narrow(left);
            let left = b.k.splat(left, lanes);
            b.k.cmp("slt", ids, left)
        });
        let places: Vec<Val> = (0..vectors)
            .map(|j| {
                let offset = b.k.int((j * lanes) as i64);
                b.k.add(column, offset)
            })
            .collect();
        let zero = b.k.float(0.0, Ty::Vec(lanes));
        let init = vec![zero; vectors * sums.len()];
        let (lo, hi, step) = (b.k.int(0), b.k.int(rows as i64), b.k.int(1));
        let mut outcome = Ok(());
        let mut k = std::mem::replace(&mut b.k, Emit::new(""));
        let totals = k.for_(lo, hi, step, &init, |k, row, acc| {
            std::mem::swap(&mut b.k, k);
            let mut out = vec![];
            for (column, acc) in places.iter().zip(acc.chunks(sums.len())) {
                let at = At { space: &space, first, row: Some(row), column: *column, mask };
                let mut known = HashMap::new();
                for (op, a) in sums.iter().zip(acc) {
                    match at.value(b, op.operands[0], &mut known) {
                        Ok(v) => {
                            let v = b.k.splat(v, lanes);
                            out.push(b.k.add(*a, v));
                        }
                        Err(e) => {
                            outcome = Err(e);
                            out.push(*a);
                        }
                    }
                }
            }
            std::mem::swap(&mut b.k, k);
            out
        });
        b.k = k;
        outcome?;
        let mut ready = vec![];
        for (column, totals) in places.into_iter().zip(totals.chunks(sums.len())) {
            let at = At { space: &space, first, row: None, column, mask };
            let mut known: HashMap<ValueId, Val> =
                sums.iter().zip(totals).map(|(op, v)| (op.results[0], *v)).collect();
            for (i, r) in b.f.results.clone().into_iter().enumerate() {
                let v = at.value(b, r, &mut known)?;
                ready.push((i, column, b.k.splat(v, lanes)));
            }
        }
        for (i, column, v) in ready {
            let pointer = b.result(i);
            let at = match first {
                Some(first) => {
                    let line = b.k.scale(first, width);
                    b.k.add(line, column)
                }
                None => column,
            };
            let p = b.k.element(pointer, at);
            match mask {
                None => b.k.store(v, p),
                Some(mask) => b.k.store_masked(v, p, mask),
            }
        }
        Ok(())
    })?;
    Ok(Shape { tasks: outer * blocks, scratch_floats: 0, tiles: false })
}

/// A place in the index space; after the sum there is no row.
struct At<'a> {
    space: &'a Space,
    /// Index further out than the rows, if there is one.
    first: Option<Val>,
    row: Option<Val>,
    column: Val,
    mask: Option<Val>,
}

impl At<'_> {
    fn value(
        &self,
        b: &mut Body<'_>,
        v: ValueId,
        known: &mut HashMap<ValueId, Val>,
    ) -> Result<Val, CodegenError> {
        if let Some(x) = known.get(&v) {
            return Ok(*x);
        }
        let x = if let Some(pointer) = b.param(v) {
            let strides = self.space.strides(v);
            let columns = strides.len() - 1;
            let mut at = b.k.int(0);
            if strides[columns - 1] > 0 {
                let row = self.row.ok_or_else(|| b.fail("uses a row after the sum"))?;
                at = b.k.scale(row, strides[columns - 1]);
            }
            if let Some(first) = self.first.filter(|_| strides[0] > 0) {
                let line = b.k.scale(first, strides[0]);
                at = b.k.add(at, line);
            }
            if strides[columns] > 0 {
                let at = b.k.add(at, self.column);
                let p = b.k.element(pointer, at);
                b.load_lanes(v, p, self.mask)
            } else {
                let p = b.k.element(pointer, at);
                b.load_one(v, p)
            }
        } else {
            let op =
                b.f.ops
                    .iter()
                    .find(|op| op.results.contains(&v))
                    .cloned()
                    .ok_or_else(|| b.fail("uses a value that nothing defines"))?;
            let mut args = vec![];
            for o in &op.operands {
                args.push(self.value(b, *o, known)?);
            }
            b.pointwise(&op, &args)?
        };
        known.insert(v, x);
        Ok(x)
    }
}
