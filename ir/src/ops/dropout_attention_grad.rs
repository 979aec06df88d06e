//! `neox.dropout_attention_grad`: gradient of attention with dropped weights. The mask is made again.

use super::attention;
use super::attention_grad;
use super::dropout_attention::{ATTRS, check, drop, factors};
use super::prelude::*;

/// The op of this file.
pub struct DropoutAttentionGrad;

impl OpDef for DropoutAttentionGrad {
    frame! {
        dropout_attention_grad(q, k, v, out, lse, dout, place, layer, column, head) -> (dq, dk, dv),
        "With p and δ as in `neox.attention_grad` and m the mask's factors: `dv = (p·m)ᵀ dout`, `ds = p·(m·(dout vᵀ) - δ)·scale`, `dq = ds k`, `dk = dsᵀ q`.",
        class Special,
        precision (Low, Low, Low, Low, Exact, Low) -> (Low),
        attrs &[
            ATTRS[0],
            ATTRS[1],
            ATTRS[2],
            ATTRS[3],
            ATTRS[4],
            attention_grad::KEYS,
            attention_grad::MEMBERS,
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        check(&cx.operands[6..], &cx.operands[0], cx.attrs)?;
        attention_grad::result_types(&cx.operands[..6], cx.attrs)
    }
    no_gradient!("second derivatives are not needed for training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        attention::sharding(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        attention::cost(cx, 10.0, 24.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let factor = factors(&cx.operands[6..], &cx.operands[0].ty, cx.rule.attrs)?;
        attention_grad::evaluate(cx, &factor)
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let drop = |b: &mut Builder<'_>, p| drop(b, p, &operands[6..], attrs);
        attention_grad::decompose(b, operands, attrs, drop)
    }
}
