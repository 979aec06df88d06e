//! `neox.linear_cross_entropy_train`: loss and both gradients in one pass over the vocabulary.

use super::linear_cross_entropy::{
    grad_over_vocab, matmul_flops, over_vocab, row_type, shard, weight_gradient,
};
use super::part::{self, AXIS, RANKS};
use super::prelude::*;

/// The op of this file.
pub struct LinearCrossEntropyTrain;

impl OpDef for LinearCrossEntropyTrain {
    frame! {
        linear_cross_entropy_train(x, w, labels, dloss, part: Optional) -> (loss, lse, dx, dw),
        "linear_cross_entropy and its gradient at once, for a `dloss` that is known beforehand: three matmuls instead of four. Of a w that is part `part` of the vocabulary, each of the `ranks` ranks along `axis` gets loss and lse, that part of dw and its share of dx.",
        class Special,
        precision (Low, Low, Exact) -> (Exact, Exact, Low, Exact),
        attrs &[AXIS, RANKS],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        part::check_meeting(cx, 4)?;
        let row = row_type(cx)?;
        if cx.operands[3] != row {
            return Err(OpError::new(format!("dloss must be {row}")));
        }
        Ok(vec![row.clone(), row, cx.operands[0].clone(), weight_gradient(cx)])
    }
    no_gradient!("second derivatives are not needed for training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        shard(cx).settled(&[0, 1])
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 3.0 * matmul_flops(cx))
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        super::decomposed::evaluate(&LinearCrossEntropyTrain, cx)
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let [x, w, labels, dloss, ref part @ ..] = operands[..] else {
            return Err(OpError::new("takes four operands"));
        };
        let logits = b.matmul(x, w, &["embed"])?;
        let rest = [&[logits, labels], part].concat();
        let out = b.op(OpKind::CrossEntropy, &rest, over_vocab(attrs))?;
        let rest = [&[logits, labels, out[1], dloss], part].concat();
        let d = b.one(OpKind::CrossEntropyGrad, &rest, grad_over_vocab())?;
        let dtype = b.ty(x).dtype;
        let d = b.cast(d, dtype)?;
        let dx = b.matmul(d, w, &["vocab"])?;
        let dx = b.cast(dx, dtype)?;
        let rows: Vec<String> = b.ty(labels).dims.iter().map(|d| d.name.to_string()).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        Ok(Decomposition::Values(vec![out[0], out[1], dx, b.matmul(d, x, &rows)?]))
    }
}
