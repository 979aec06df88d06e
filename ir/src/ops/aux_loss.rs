//! `neox.aux_loss`: adds to the loss's gradient without a value on the way.

use super::prelude::*;

/// The op of this file.
pub struct AuxLoss;

impl OpDef for AuxLoss {
    frame! {
        aux_loss(x, aux) -> (y),
        "`x`, unchanged. Its gradient is that of a loss to which `coefficient` · Σ aux was added: dx = dy and daux = `coefficient` (times the loss scale, where there is one), whatever dy is; so a loss of a layer needs no value that layers hand on. `coefficient` has the factor that the loss of one micro-batch enters the step's loss with.",
        class View,
        precision (Same, Exact) -> (Same),
        attrs &[required("coefficient", AttrKind::Float, "weight of the sum of aux")],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        cx.float("coefficient")?;
        Ok(vec![cx.operands[0].clone()])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let ty = cx.b.ty(cx.operand(1)).clone();
        let coefficient = cx.op.attrs.float("coefficient");
        let coefficient = coefficient.ok_or_else(|| OpError::new("needs `coefficient`"))?;
        let mut daux = cx.b.fill(coefficient, &ty)?;
        if let Some(scale) = cx.scale {
            daux = cx.b.mul(daux, scale)?;
        }
        grads(&[dy, daux])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx)
    }
    fn cost(&self, _cx: &RuleCx<'_>) -> Cost {
        Cost::free()
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![cx.operands[0].clone()])
    }
    primitive!();
}
