//! `neox.route_dot`: dot products of tokens with what is at their places (gradient of routing weights).

use super::prelude::*;
use super::routing::{place, rest, routed, row};

/// The op of this file.
pub struct RouteDot;

impl OpDef for RouteDot {
    frame! {
        route_dot(x, y, position) -> (dots),
        "For each choice the dot product of its token in x [group, token, rest..] with what is at `position` in y [bin, group, slot, rest..]; 0 where it was dropped. Gives [group, token, choice].",
        class Special,
        precision (Same, Same, Stored) -> (Exact),
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (x, y, position) = (&cx.operands[0], &cx.operands[1], &cx.operands[2]);
        routed(x, position, y)?;
        if rest(x, 2) != rest(y, 3) || x.dtype != y.dtype {
            return Err(OpError::new(format!("cannot multiply tokens of {x} and {y}")));
        }
        Ok(vec![position.with_dtype(x.dtype.wide())])
    }
    no_gradient!("second derivatives are not needed for training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let inner: Vec<&str> = rest(&cx.operands[0], 2).iter().map(|d| &*d.name).collect();
        ShardRule::by_dim(cx, |dim| match dim {
            "group" => ShardEffect::Parallel,
            _ if inner.contains(&dim) => ShardEffect::Partial,
            _ => ShardEffect::Whole,
        })
        .sums(Sums::Each)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        let choices = cx.operands[2].dims.last().map_or(1, |d| d.size);
        let x = &cx.operands[0];
        let bytes = x.bytes() * (choices + 1) + 2 * cx.operands[2].bytes();
        Cost { flops: 2.0 * (choices * x.elements()) as f64, bytes: bytes as f64 }
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, y, position) = (cx.operands[0], cx.operands[1], cx.operands[2]);
        let r = routed(&x.ty, &position.ty, &y.ty)?;
        let width: usize = rest(&x.ty, 2).iter().map(|d| d.size).product();
        let places = y.ty.dims[0].size * r.slots;
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        for (n, p) in position.data.iter().enumerate() {
            let Some(p) = place(*p, places, "position")? else { continue };
            let token = n / r.choices;
            let (a, b) = (token * width, row(&r, p, token / r.tokens) * width);
            out.data[n] = (0..width).map(|i| x.data[a + i] * y.data[b + i]).sum();
        }
        Ok(vec![out])
    }
    primitive!();
}
