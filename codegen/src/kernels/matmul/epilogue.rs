//! What is done with sums before they are stored: biases, activations, dropout, residuals, accumulation.

use std::collections::HashMap;

use neoxc_ir::{DType, ValueId};

use super::Plan;
use crate::CodegenError;
use crate::emit::{LINE, Val};
use crate::kernels::Body;

/// The epilogue of some columns of one of the independent matmuls.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// The matmul.
    pub(super) plan: &'a Plan,
    /// Which of the independent matmuls.
    pub batch: Val,
    /// First column.
    pub column: Val,
}

impl Epilogue<'_> {
    /// Asks for what a tile's epilogue reads, whole matrices at least: it comes while the sums are made.
    pub fn prefetch(&self, b: &mut Body<'_>, row: Val) {
        let s = self.plan.s;
        for v in b.f.params.clone() {
            let Some([sb, sm, 1]) = self.plan.strides.get(&v).copied() else { continue };
            if sm == 0 {
                continue;
            }
            let Some(pointer) = b.param(v) else { continue };
            let at = self.row_offset(b, row, sb, sm);
            let at = b.k.add(at, self.column);
            let first = b.k.element(pointer, at);
            let per_line = 4 * LINE / b.f.ty(v).dtype.bytes();
            for r in 0..s.tile_rows {
                for c in (0..s.tile_vectors * b.lanes).step_by(per_line) {
                    let p = b.k.element_at(first, r * sm + c);
                    b.k.prefetch(p, false);
                }
            }
        }
    }

    /// Makes the results of one row of a tile and stores them.
    pub fn store_row(&self, b: &mut Body<'_>, row: Val, sums: &[Val]) -> Result<(), CodegenError> {
        let lanes = b.lanes;
        let n = self.plan.n;
        let ragged = self.plan.ragged;
        let names = self.row_names(b, row);
        for (j, sum) in sums.iter().enumerate() {
            let offset = b.k.int((j * lanes) as i64);
            let column = b.k.add(self.column, offset);
            let mask = ragged.then(|| {
                let ids = b.k.lane_ids(lanes);
                let all = b.k.int(n as i64);
                let left = b.k.sub(all, column);
                let left = b.k.narrow(left);
                let left = b.k.splat(left, lanes);
                b.k.cmp("slt", ids, left)
            });
            let mut known = names.clone();
            known.insert(self.plan.result, *sum);
            let mut ready = vec![];
            for (i, r) in b.f.results.clone().into_iter().enumerate() {
                if self.plan.parts.as_ref().is_some_and(|p| p.holds(b.result(i))) {
                    continue;
                }
                let v = self.value(b, r, row, column, mask, &mut known)?;
                ready.push((i, b.k.splat(v, lanes)));
            }
            if let Some(parts) = &self.plan.parts {
                let v = self.value(b, parts.fused, row, column, mask, &mut known)?;
                let v = b.k.splat(v, lanes);
                parts.store(&mut b.k, row, column, v, ragged.then_some(n));
            }
            for (i, v) in ready {
                let at = b.k.scale(self.batch, self.plan.m * n);
                let line = b.k.scale(row, n);
                let at = b.k.add(at, line);
                let at = b.k.add(at, column);
                let pointer = b.result(i);
                let p = b.k.element(pointer, at);
                match mask {
                    None => b.k.store(v, p),
                    Some(mask) => b.k.store_masked(v, p, mask),
                }
            }
        }
        Ok(())
    }

    /// The numbers that name a row, loaded once: what is computed from them is then common to all its
    /// columns, which the compiler cannot see across stores.
    fn row_names(&self, b: &mut Body<'_>, row: Val) -> HashMap<ValueId, Val> {
        let mut out = HashMap::new();
        for v in b.f.params.clone() {
            let Some([sb, sm, 0]) = self.plan.strides.get(&v).copied() else { continue };
            let Some(pointer) = b.param(v).filter(|_| b.f.ty(v).dtype == DType::I32) else {
                continue;
            };
            let at = self.row_offset(b, row, sb, sm);
            let p = b.k.element(pointer, at);
            out.insert(v, b.load_one(v, p));
        }
        out
    }

    /// Where a row starts in an operand of these strides.
    fn row_offset(&self, b: &mut Body<'_>, row: Val, along_batch: usize, along_rows: usize) -> Val {
        let mut at = b.k.int(0);
        for (index, stride) in [(self.batch, along_batch), (row, along_rows)] {
            if stride > 0 {
                let part = b.k.scale(index, stride);
                at = b.k.add(at, part);
            }
        }
        at
    }

    /// The value `v` at one row and a vector of columns.
    fn value(
        &self,
        b: &mut Body<'_>,
        v: ValueId,
        row: Val,
        column: Val,
        mask: Option<Val>,
        known: &mut HashMap<ValueId, Val>,
    ) -> Result<Val, CodegenError> {
        if let Some(x) = known.get(&v) {
            return Ok(*x);
        }
        let x = if let Some(pointer) = b.param(v) {
            let [sb, sm, sn] = *self
                .plan
                .strides
                .get(&v)
                .ok_or_else(|| b.fail("uses a factor in the epilogue"))?;
            let at = self.row_offset(b, row, sb, sm);
            if sn == 1 {
                let at = b.k.add(at, column);
                let p = b.k.element(pointer, at);
                b.load_lanes(v, p, mask)
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
                args.push(self.value(b, *o, row, column, mask, known)?);
            }
            b.pointwise(&op, &args)?
        };
        known.insert(v, x);
        Ok(x)
    }
}
