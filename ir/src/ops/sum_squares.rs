//! `neox.sum_squares`.

use super::prelude::*;

/// The op of this file.
pub struct SumSquares;

impl OpDef for SumSquares {
    frame! {
        sum_squares(x) -> (sum),
        "`Σ x²` over all elements, a scalar.",
        class Special,
        precision EXACT,
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        Ok(vec![TensorType::scalar(cx.operands[0].dtype)])
    }
    no_gradient!("it belongs to the optimizer");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::by_dim(cx, |_| ShardEffect::Partial)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 2.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let sum = cx.operands[0].data.iter().map(|x| x * x).sum();
        Ok(vec![Tensor::new(cx.rule.results[0].clone(), vec![sum])])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let x = operands[0];
        let square = b.mul(x, x)?;
        let names: Vec<String> = b.ty(x).dims.iter().map(|d| d.name.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(Decomposition::Values(vec![b.reduce_sum(square, &names)?]))
    }
}
