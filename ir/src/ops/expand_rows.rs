//! `neox.expand_rows`: a vector per expert for each of its rows (biases of experts).

use super::prelude::*;
use super::routing::{each_row, ranges};

/// The op of this file.
pub struct ExpandRows;

/// Effects by dim, where sums over `group` are `group`.
pub(super) fn sharding(cx: &RuleCx<'_>, group: ShardEffect) -> ShardRule {
    ShardRule::by_dim(cx, |dim| match dim {
        "row" | "local" => ShardEffect::Whole,
        "group" => group,
        _ => ShardEffect::Parallel,
    })
    .sums(Sums::Each)
}

impl OpDef for ExpandRows {
    frame! {
        expand_rows(v, starts, counts) -> (y),
        "The vector of the expert that has each row, zeros in rows that none has: v [owner, local, n] gives [owner, group, row = rows, n]. Ranges are as in `grouped_matmul`.",
        class Special,
        precision SAME,
        attrs &[required("rows", AttrKind::Int, "rows of an owner and group")],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let [v, starts, counts] = cx.operands else { return Err(OpError::new("takes three")) };
        if v.dims.len() != 3 || starts.dims.len() != 3 || v.dims[1] != starts.dims[2] {
            return Err(OpError::new(format!("{v} has no vector for each of {starts}")));
        }
        ranges(&v.dims[0], &starts.dims[1], starts, counts)?;
        let row = Dim::new("row", cx.size("rows")?);
        let dims = vec![v.dims[0].clone(), starts.dims[1].clone(), row, v.dims[2].clone()];
        Ok(vec![TensorType::new(v.dtype, dims)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let (starts, counts) = (cx.operand(1), cx.operand(2));
        let dv = cx.b.one(OpKind::SumRows, &[dy, starts, counts], Attrs::new())?;
        Ok(Gradient::Operands(vec![Some(dv), None, None]))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        sharding(cx, ShardEffect::Parallel)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let [v, starts, counts] = cx.operands else { return Err(OpError::new("takes three")) };
        let (local, width) = (v.ty.dims[1].size, v.ty.dims[2].size);
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        let [groups, rows] = [1, 2].map(|i: usize| out.ty.dims[i].size);
        each_row(starts, counts, rows, |o, g, e, r| {
            let (from, to) = ((o * local + e) * width, ((o * groups + g) * rows + r) * width);
            out.data[to..to + width].copy_from_slice(&v.data[from..from + width]);
        })?;
        Ok(vec![out])
    }
    primitive!();
}
