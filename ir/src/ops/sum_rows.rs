//! `neox.sum_rows`: sums of the rows of each expert (gradient of `expand_rows`).

use super::prelude::*;
use super::routing::{each_row, ranges};

/// The op of this file.
pub struct SumRows;

impl OpDef for SumRows {
    frame! {
        sum_rows(x, starts, counts) -> (y),
        "Σ over groups and the rows that an expert has, in this order: x [owner, group, row, n] gives [owner, local, n]. Ranges are as in `grouped_matmul`.",
        class Special,
        precision (Stored) -> (Exact),
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let [x, starts, counts] = cx.operands else { return Err(OpError::new("takes three")) };
        if x.dims.len() != 4 {
            return Err(OpError::new(format!("{x} is not rows of owners and groups")));
        }
        ranges(&x.dims[0], &x.dims[1], starts, counts)?;
        let dims = vec![x.dims[0].clone(), starts.dims[2].clone(), x.dims[3].clone()];
        Ok(vec![TensorType::new(x.dtype.wide(), dims)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let (starts, counts) = (cx.operand(1), cx.operand(2));
        let rows = cx.b.ty(cx.operand(0)).dims[2].size;
        let attrs = Attrs::new().with("rows", Attr::Int(rows as i64));
        let dx = cx.b.one(OpKind::ExpandRows, &[dy, starts, counts], attrs)?;
        Ok(Gradient::Operands(vec![Some(dx), None, None]))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        super::expand_rows::sharding(cx, ShardEffect::Partial)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let [x, starts, counts] = cx.operands else { return Err(OpError::new("takes three")) };
        let [groups, rows, width] = [1, 2, 3].map(|i: usize| x.ty.dims[i].size);
        let local = starts.ty.dims[2].size;
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        each_row(starts, counts, rows, |o, g, e, r| {
            let (to, from) = ((o * local + e) * width, ((o * groups + g) * rows + r) * width);
            for i in 0..width {
                out.data[to + i] += x.data[from + i];
            }
        })?;
        Ok(vec![out])
    }
    primitive!();
}
