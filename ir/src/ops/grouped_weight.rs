//! `neox.grouped_weight`: outer products of the rows of each expert (gradient of `grouped_matmul`'s matrices).

use super::grouped_matmul::flops;
use super::prelude::*;
use super::routing::{each_row, ranges};

/// The op of this file.
pub struct GroupedWeight;

impl OpDef for GroupedWeight {
    frame! {
        grouped_weight(a, b, starts, counts) -> (dw),
        "Σ over groups and the rows that an expert has of a[row, m] · b[row, n]: [owner, group, row, m] and [owner, group, row, n] give [owner, local, m, n]. Ranges are as in `grouped_matmul`. 16-bit operands give f32.",
        class Special,
        precision (Low) -> (Exact),
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let [a, b, starts, counts] = cx.operands else { return Err(OpError::new("takes four")) };
        let rows = a.dims.len() == 4 && b.dims.len() == 4 && a.dims[..3] == b.dims[..3];
        if !rows || a.dims[3].name == b.dims[3].name || a.dtype != b.dtype || !a.dtype.is_float() {
            return Err(OpError::new(format!("cannot multiply rows of {a} and {b}")));
        }
        ranges(&a.dims[0], &a.dims[1], starts, counts)?;
        let dims = [&a.dims[0], &starts.dims[2], &a.dims[3], &b.dims[3]].map(Clone::clone);
        Ok(vec![TensorType::new(a.dtype.wide(), dims.to_vec())])
    }
    no_gradient!("second derivatives are not needed for training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::by_dim(cx, |dim| match dim {
            "row" | "local" => ShardEffect::Whole,
            "group" => ShardEffect::Partial,
            _ => ShardEffect::Parallel,
        })
        .sums(Sums::Each)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, flops(&cx.operands[0], &cx.operands[1]))
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let [a, b, starts, counts] = cx.operands else { return Err(OpError::new("takes four")) };
        let [groups, rows, m] = [1, 2, 3].map(|i: usize| a.ty.dims[i].size);
        let (n, local) = (b.ty.dims[3].size, starts.ty.dims[2].size);
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        each_row(starts, counts, rows, |o, g, e, r| {
            let row = (o * groups + g) * rows + r;
            for i in 0..m {
                for j in 0..n {
                    let at = ((o * local + e) * m + i) * n + j;
                    out.data[at] += a.data[row * m + i] * b.data[row * n + j];
                }
            }
        })?;
        Ok(vec![out])
    }
    primitive!();
}
