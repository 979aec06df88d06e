//! `neox.take_choices`: chosen elements of each row.

use super::prelude::*;
use super::rows::index;

/// The op of this file.
pub struct TakeChoices;

/// Effects by dim: the dim that is chosen from is numbered as a whole.
pub(super) fn sharding(cx: &RuleCx<'_>, indices: &TensorType) -> ShardRule {
    ShardRule::by_dim(cx, |dim| match indices.has(dim) {
        true => ShardEffect::Parallel,
        false => ShardEffect::Whole,
    })
    .sums(Sums::Each)
}

impl OpDef for TakeChoices {
    frame! {
        take_choices(x, indices) -> (y),
        "Elements `indices` of each row: [rows.., n] and i32 [rows.., choice] give [rows.., choice].",
        class Special,
        precision EXACT,
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (x, i) = (&cx.operands[0], &cx.operands[1]);
        let rows = x.dims.len().saturating_sub(1);
        let fits = i.dims.len() == x.dims.len() && i.dims[..rows] == x.dims[..rows];
        if x.dims.is_empty() || i.dtype != DType::I32 || !fits {
            return Err(OpError::new(format!("{i} does not choose from rows of {x}")));
        }
        Ok(vec![i.with_dtype(x.dtype)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let (dy, indices) = (cx.dy()?, cx.operand(1));
        let from = cx.b.ty(cx.operand(0)).dims.last().cloned();
        let from = from.ok_or_else(|| OpError::new("a scalar has no rows"))?;
        let attrs = Attrs::new()
            .with("dim", Attr::Str(from.name.to_string()))
            .with("size", Attr::Int(from.size as i64));
        let dx = cx.b.one(OpKind::PutChoices, &[dy, indices], attrs)?;
        Ok(Gradient::Operands(vec![Some(dx), None]))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        sharding(cx, &cx.operands[1])
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, indices) = (cx.operands[0], cx.operands[1]);
        let width = x.ty.dims.last().map_or(1, |d| d.size);
        let choices = indices.ty.dims.last().map_or(1, |d| d.size);
        let mut data = vec![];
        for (row, chosen) in x.data.chunks(width).zip(indices.data.chunks(choices)) {
            for i in chosen {
                data.push(row[index(*i, width, "index")?]);
            }
        }
        Ok(vec![Tensor::new(cx.rule.results[0].clone(), data)])
    }
    primitive!();
}
