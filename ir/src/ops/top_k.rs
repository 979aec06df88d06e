//! `neox.top_k`: the largest elements of each row.

use super::prelude::*;

/// The op of this file.
pub struct TopK;

impl OpDef for TopK {
    frame! {
        top_k(x) -> (indices),
        "Indices along the last dim of its `k` largest elements, the largest first and the lower index first among equals: [rows.., n] gives i32 [rows.., choice = k].",
        class Special,
        precision EXACT,
        attrs &[required("k", AttrKind::Int, "how many are chosen")],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (x, k) = (&cx.operands[0], cx.size("k")?);
        let Some((last, rows)) = x.dims.split_last() else {
            return Err(OpError::new("a scalar has nothing to choose from"));
        };
        if k > last.size || !x.dtype.is_float() {
            return Err(OpError::new(format!("cannot choose {k} along the last dim of {x}")));
        }
        let dims = [rows, &[Dim::new("choice", k)]].concat();
        Ok(vec![TensorType::new(DType::I32, dims)])
    }
    no_gradient!("indices are whole numbers");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let rows = &cx.operands[0].dims;
        let rows = &rows[..rows.len().saturating_sub(1)];
        ShardRule::by_dim(cx, |dim| match rows.iter().any(|d| &*d.name == dim) {
            true => ShardEffect::Parallel,
            false => ShardEffect::Whole,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        let k = cx.int("k").unwrap_or(1) as f64;
        Cost::streaming(cx, k * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.operands[0];
        let width = x.ty.dims.last().map_or(1, |d| d.size);
        let k = cx.rule.size("k")?;
        let mut data = vec![];
        for row in x.data.chunks(width) {
            let mut order: Vec<usize> = (0..width).collect();
            // Zeros are equal, whatever their sign.
            let key = |i: usize| row[i] + 0.0;
            order.sort_by(|a, b| key(*b).total_cmp(&key(*a)).then(a.cmp(b)));
            data.extend(order[..k].iter().map(|i| *i as f64));
        }
        Ok(vec![Tensor::new(cx.rule.results[0].clone(), data)])
    }
    primitive!();
}
