//! `neox.linear_cross_entropy_grad`: gradients of the head's input and weight.

use super::linear_cross_entropy::{
    grad_over_vocab, matmul_flops, row_type, shard, weight_gradient,
};
use super::part::{self, PART};
use super::prelude::*;

/// The op of this file.
pub struct LinearCrossEntropyGrad;

impl OpDef for LinearCrossEntropyGrad {
    fn name(&self) -> &'static str {
        "linear_cross_entropy_grad"
    }
    fn doc(&self) -> &'static str {
        "With dlogits = cross_entropy_grad(x wᵀ, labels, lse, dloss): `dx = dlogits w`, `dw = dlogitsᵀ x`; of a w that is part `part` of the vocabulary, that part of dw and its share of dx."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[
                ("x", Arity::One),
                ("w", Arity::One),
                ("labels", Arity::One),
                ("lse", Arity::One),
                ("dloss", Arity::One),
                PART,
            ],
            results: &[("dx", Arity::One), ("dw", Arity::One)],
            attrs: &[],
        }
    }
    fn class(&self) -> Class {
        Class::Special
    }
    fn precision(&self) -> Precision {
        Precision {
            operands: &[Rounding::Low, Rounding::Low, Rounding::Exact],
            results: &[Rounding::Low, Rounding::Exact],
        }
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        part::check(cx, 5)?;
        let row = row_type(cx)?;
        if cx.operands[3] != row || cx.operands[4] != row {
            return Err(OpError::new(format!("lse and dloss must be {row}")));
        }
        Ok(vec![cx.operands[0].clone(), weight_gradient(cx)])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::None("second derivatives are not needed for training"))
    }
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
