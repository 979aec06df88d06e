//! `neox.linear_cross_entropy_grad`: gradients of the head's input and weight.

use super::linear_cross_entropy::{
    grad_over_vocab, matmul_flops, row_type, shard, weight_gradient,
};
use super::part::{self};
use super::prelude::*;

/// The op of this file.
pub struct LinearCrossEntropyGrad;

impl OpDef for LinearCrossEntropyGrad {
    frame! {
        linear_cross_entropy_grad(x, w, labels, lse, dloss, part: Optional) -> (dx, dw),
        "With dlogits = cross_entropy_grad(x wᵀ, labels, lse, dloss): `dx = dlogits w`, `dw = dlogitsᵀ x`; of a w that is part `part` of the vocabulary, that part of dw and its share of dx.",
        class Special,
        precision (Low, Low, Exact) -> (Low, Exact),
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        part::check(cx, 5)?;
        let row = row_type(cx)?;
        if cx.operands[3] != row || cx.operands[4] != row {
            return Err(OpError::new(format!("lse and dloss must be {row}")));
        }
        Ok(vec![cx.operands[0].clone(), weight_gradient(cx)])
    }
    no_gradient!("second derivatives are not needed for training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        shard(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 3.0 * matmul_flops(cx))
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        super::decomposed::evaluate(&LinearCrossEntropyGrad, cx)
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let [x, w, labels, lse, dloss, ref part @ ..] = operands[..] else {
            return Err(OpError::new("takes five operands"));
        };
        let logits = b.matmul(x, w, &["embed"])?;
        let rest = [&[logits, labels, lse, dloss], part].concat();
        let d = b.one(OpKind::CrossEntropyGrad, &rest, grad_over_vocab())?;
        let dtype = b.ty(x).dtype;
        let d = b.cast(d, dtype)?;
        let dx = b.matmul(d, w, &["vocab"])?;
        let dx = b.cast(dx, dtype)?;
        let rows: Vec<String> = b.ty(labels).dims.iter().map(|d| d.name.to_string()).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        Ok(Decomposition::Values(vec![dx, b.matmul(d, x, &rows)?]))
    }
}
