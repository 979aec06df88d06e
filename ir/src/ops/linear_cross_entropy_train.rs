//! `neox.linear_cross_entropy_train`: loss and both gradients in one pass over the vocabulary.

use super::linear_cross_entropy::{over_vocab, product_flops, row_type, shard};
use super::prelude::*;

/// The op of this file.
pub struct LinearCrossEntropyTrain;

impl OpDef for LinearCrossEntropyTrain {
    fn name(&self) -> &'static str {
        "linear_cross_entropy_train"
    }
    fn doc(&self) -> &'static str {
        "linear_cross_entropy and its gradient at once, for a `dloss` that is known beforehand: three products instead of four."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[
                ("x", Arity::One),
                ("w", Arity::One),
                ("labels", Arity::One),
                ("dloss", Arity::One),
            ],
            results: &[
                ("loss", Arity::One),
                ("lse", Arity::One),
                ("dx", Arity::One),
                ("dw", Arity::One),
            ],
            attrs: &[],
        }
    }
    fn class(&self) -> Class {
        Class::Special
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let row = row_type(cx)?;
        if cx.operands[3] != row {
            return Err(OpError::new(format!("dloss must be {row}")));
        }
        Ok(vec![row.clone(), row, cx.operands[0].clone(), cx.operands[1].clone()])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::None("second derivatives are not needed for training"))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        shard(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 3.0 * product_flops(cx))
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        super::decomposed::evaluate(&LinearCrossEntropyTrain, cx)
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let [x, w, labels, dloss] = operands[..] else {
            return Err(OpError::new("takes four operands"));
        };
        let logits = b.matmul(x, w, &["embed"])?;
        let out = b.named("cross_entropy", &[logits, labels], over_vocab())?;
        let d = b.one("cross_entropy_grad", &[logits, labels, out[1], dloss], over_vocab())?;
        let dx = b.matmul(d, w, &["vocab"])?;
        let rows: Vec<String> = b.ty(labels).dims.iter().map(|d| d.name.to_string()).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        Ok(Decomposition::Values(vec![out[0], out[1], dx, b.matmul(d, x, &rows)?]))
    }
}
