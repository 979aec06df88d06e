//! `neox.add`: `a + b`.

use super::pointwise;
use crate::attrs::Attrs;
use crate::build::Builder;
use crate::eval::Tensor;
use crate::module::ValueId;
use crate::op::*;
use crate::types::TensorType;

/// `neox.add`.
pub struct Add;

impl OpDef for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn doc(&self) -> &'static str {
        "Element-wise sum `a + b`, broadcasting by dim name."
    }

    fn signature(&self) -> Signature {
        Signature {
            operands: &[("a", Arity::One), ("b", Arity::One)],
            results: &[("sum", Arity::One)],
            attrs: &[],
        }
    }

    fn class(&self) -> Class {
        Class::Pointwise
    }

    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        pointwise::infer(cx)
    }

    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let (a, b) = (cx.b.ty(cx.operand(0)).clone(), cx.b.ty(cx.operand(1)).clone());
        Ok(Gradient::Operands(vec![Some(cx.b.sum_to(dy, &a)?), Some(cx.b.sum_to(dy, &b)?)]))
    }

    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx)
    }

    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        pointwise::cost(cx, 1.0)
    }

    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        pointwise::evaluate(cx, |x| x[0] + x[1])
    }

    fn decompose(
        &self,
        _b: &mut Builder<'_>,
        _operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        Ok(Decomposition::Primitive)
    }
}
