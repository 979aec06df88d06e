//! `neox.combine`: tokens back from the places that routing gave them.

use super::prelude::*;
use super::routing::{moves, place, rest, routed, row, whole_numbers};

/// The op of this file.
pub struct Combine;

impl OpDef for Combine {
    frame! {
        combine(x, position, source, weights: Optional) -> (y),
        "For each token the sum over its choices, in their order, of what is at `position`, times `weights` [group, token, choice] where given; dropped choices count nothing: x [bin, group, slot, rest..] gives [group, token, rest..]. `source` is the inverse of `position`.",
        class Special,
        precision (Same, Same, Same, Exact) -> (Same),
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (x, position, source) = (&cx.operands[0], &cx.operands[1], &cx.operands[2]);
        let names: Vec<&str> = source.dims.iter().map(|d| &*d.name).take(3).collect();
        whole_numbers(source, &names)?;
        if x.dims.len() < 3 || x.dims[..3] != source.dims[..] {
            return Err(OpError::new(format!("{x} has other slots than {source}")));
        }
        if let Some(w) = cx.operands.get(3).filter(|w| **w != position.with_dtype(x.dtype.wide())) {
            return Err(OpError::new(format!("{w} are not weights of {position}")));
        }
        routed(position, position, x)?;
        let dims = [&position.dims[..2], rest(x, 3)].concat();
        Ok(vec![TensorType::new(x.dtype, dims)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let (x, position) = (cx.operand(0), cx.operand(1));
        let mut operands = vec![dy];
        operands.extend_from_slice(&cx.op.operands[1..]);
        let dx = cx.b.one(OpKind::Dispatch, &operands, Attrs::new())?;
        let mut out = vec![Some(dx), None, None];
        if cx.op.operands.len() > 3 {
            out.push(Some(cx.b.one(OpKind::RouteDot, &[dy, x, position], Attrs::new())?));
        }
        Ok(Gradient::Operands(out))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        // What a token has is the same on both sides.
        let swapped = RuleCx { operands: cx.results, results: cx.operands, ..*cx };
        moves(&swapped)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        let choices = cx.operands[1].dims.last().map_or(1, |d| d.size);
        let read = choices * cx.results[0].elements();
        let bytes = cx.results[0].bytes() * (choices + 1) + 2 * cx.operands[1].bytes();
        Cost { flops: 2.0 * read as f64, bytes: bytes as f64 }
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, position) = (cx.operands[0], cx.operands[1]);
        let r = routed(&position.ty, &position.ty, &x.ty)?;
        let width: usize = rest(&x.ty, 3).iter().map(|d| d.size).product();
        let places = x.ty.dims[0].size * r.slots;
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        for (n, p) in position.data.iter().enumerate() {
            let Some(p) = place(*p, places, "position")? else { continue };
            let token = n / r.choices;
            let weight = cx.operands.get(3).map_or(1.0, |w| w.data[n]);
            let from = row(&r, p, token / r.tokens) * width;
            for i in 0..width {
                out.data[token * width + i] += weight * x.data[from + i];
            }
        }
        Ok(vec![out])
    }
    primitive!();
}
