//! `neox.dispatch`: tokens into the places that routing gave them.

use super::prelude::*;
use super::routing::{moves, place, rest, routed, whole_numbers};

/// The op of this file.
pub struct Dispatch;

impl OpDef for Dispatch {
    frame! {
        dispatch(x, position, source, weights: Optional) -> (y),
        "The token of each slot, times the weight of its choice where `weights` [group, token, choice] are given, zeros in empty slots: x [group, token, rest..] and `source` [bin, group, slot] give [bin, group, slot, rest..]. `position` is the inverse of `source`.",
        class Special,
        precision (Same, Same, Same, Exact) -> (Same),
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (x, position, source) = (&cx.operands[0], &cx.operands[1], &cx.operands[2]);
        routed(x, position, source)?;
        let names: Vec<&str> = source.dims.iter().map(|d| &*d.name).take(3).collect();
        whole_numbers(source, &names)?;
        if let Some(w) = cx.operands.get(3).filter(|w| **w != position.with_dtype(x.dtype.wide())) {
            return Err(OpError::new(format!("{w} are not weights of {position}")));
        }
        let dims = [&source.dims[..], rest(x, 2)].concat();
        Ok(vec![TensorType::new(x.dtype, dims)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let (x, position) = (cx.operand(0), cx.operand(1));
        let mut operands = vec![dy];
        operands.extend_from_slice(&cx.op.operands[1..]);
        let dx = cx.b.one(OpKind::Combine, &operands, Attrs::new())?;
        let mut out = vec![Some(dx), None, None];
        if cx.op.operands.len() > 3 {
            out.push(Some(cx.b.one(OpKind::RouteDot, &[x, dy, position], Attrs::new())?));
        }
        Ok(Gradient::Operands(out))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        moves(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        let bytes = 2 * cx.results[0].bytes();
        Cost { flops: 0.0, bytes: (bytes + cx.operands[2].bytes()) as f64 }
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, position, source) = (cx.operands[0], cx.operands[1], cx.operands[2]);
        let r = routed(&x.ty, &position.ty, &source.ty)?;
        let width: usize = rest(&x.ty, 2).iter().map(|d| d.size).product();
        let choices = r.tokens * r.choices;
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        for (n, s) in source.data.iter().enumerate() {
            let group = n / r.slots % r.groups;
            let Some(s) = place(*s, choices, "source")? else { continue };
            let weight = cx.operands.get(3).map_or(1.0, |w| w.data[group * choices + s]);
            let from = (group * r.tokens + s / r.choices) * width;
            for i in 0..width {
                out.data[n * width + i] = weight * x.data[from + i];
            }
        }
        Ok(vec![out])
    }
    primitive!();
}
