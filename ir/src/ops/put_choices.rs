//! `neox.put_choices`: values at chosen elements of each row (gradient of `take_choices`).

use super::prelude::*;
use super::rows::index;

/// The op of this file.
pub struct PutChoices;

impl OpDef for PutChoices {
    frame! {
        put_choices(values, indices) -> (y),
        "Adds each of `values` [rows.., choice] into element `indices` of its row of zeros [rows.., dim = size], in the order of choices.",
        class Special,
        precision EXACT,
        attrs &[
            required("dim", AttrKind::Str, "name of the dim that was chosen from"),
            required("size", AttrKind::Int, "its size"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (v, i) = (&cx.operands[0], &cx.operands[1]);
        let Some((_, rows)) = v.dims.split_last() else {
            return Err(OpError::new("a scalar has no rows"));
        };
        if i.dtype != DType::I32 || i.dims != v.dims {
            return Err(OpError::new(format!("{i} does not say where {v} goes")));
        }
        let dims = [rows, &[Dim::new(cx.str("dim")?, cx.size("size")?)]].concat();
        Ok(vec![TensorType::new(v.dtype, dims)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let (dy, indices) = (cx.dy()?, cx.operand(1));
        let dv = cx.b.one(OpKind::TakeChoices, &[dy, indices], Attrs::new())?;
        Ok(Gradient::Operands(vec![Some(dv), None]))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        // What choices divide are parts of a sum.
        let choice = cx.operands[1].dims.last().map(|d| d.name.clone());
        let mut rule = super::take_choices::sharding(cx, &cx.operands[1]);
        for (dim, effect) in &mut rule.dims {
            if Some(&*dim) == choice.as_ref() {
                *effect = ShardEffect::Partial;
            }
        }
        rule
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (values, indices) = (cx.operands[0], cx.operands[1]);
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        let width = out.ty.dims.last().map_or(1, |d| d.size);
        let choices = indices.ty.dims.last().map_or(1, |d| d.size);
        for (n, (v, i)) in values.data.iter().zip(&indices.data).enumerate() {
            out.data[n / choices * width + index(*i, width, "index")?] += v;
        }
        Ok(vec![out])
    }
    primitive!();
}
