//! `neox.gelu_grad`: `gelu'(x) · dy`.

use super::gelu::{ATTRS, TANH_CUBIC, TANH_SCALE, is_tanh, tanh_share};
use super::pointwise;
use super::prelude::*;

/// The op of this file.
pub struct GeluGrad;

/// 1/√(2π), the height of the normal density.
const DENSITY: f64 = 0.398_942_280_401_432_7;

impl OpDef for GeluGrad {
    frame! {
        gelu_grad(x, dy) -> (dx),
        "Gradient of gelu: erf form `(Φ(x) + x·φ(x))·dy` with the normal distribution Φ and density φ; \
         tanh form by the chain rule.",
        class Pointwise,
        precision WIDE,
        attrs ATTRS,
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        is_tanh(cx.attrs)?;
        pointwise::infer(cx)
    }
    no_gradient!("second derivatives are not needed for training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        pointwise::cost(cx, 40.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        if is_tanh(cx.rule.attrs)? {
            pointwise::evaluate(cx, |v| {
                let (x, dy) = (v[0], v[1]);
                let t = (TANH_SCALE * (x + TANH_CUBIC * x * x * x)).tanh();
                let inner = TANH_SCALE * (1.0 + 3.0 * TANH_CUBIC * x * x);
                dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
            })
        } else {
            pointwise::evaluate(cx, |v| {
                let (x, dy) = (v[0], v[1]);
                let phi = 0.5 * (1.0 + super::erf::erf64(x * std::f64::consts::FRAC_1_SQRT_2));
                dy * (phi + x * DENSITY * (-0.5 * x * x).exp())
            })
        }
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let (x, dy) = (operands[0], operands[1]);
        let (one, half) = (b.scalar(1.0)?, b.scalar(0.5)?);
        let square = b.mul(x, x)?;
        let slope = if is_tanh(attrs)? {
            // (x·s)' = s + x·s·(1 - s)·(2u)'.
            let (first, third) =
                (b.scalar(2.0 * TANH_SCALE)?, b.scalar(6.0 * TANH_SCALE * TANH_CUBIC)?);
            let share = tanh_share(b, x, square)?;
            let inner = b.mul(square, third)?;
            let inner = b.add(inner, first)?;
            let inner = b.mul(inner, x)?;
            let rest = b.sub(one, share)?;
            let bell = b.mul(share, rest)?;
            let tail = b.mul(bell, inner)?;
            b.add(share, tail)?
        } else {
            let (scale, density) = (b.scalar(std::f64::consts::FRAC_1_SQRT_2)?, b.scalar(DENSITY)?);
            let inner = b.mul(x, scale)?;
            let e = b.unary(OpKind::Erf, inner)?;
            let phi = b.add(e, one)?;
            let phi = b.mul(phi, half)?;
            let minus_half = b.scalar(-0.5)?;
            let exponent = b.mul(square, minus_half)?;
            let bell = b.unary(OpKind::Exp, exponent)?;
            let bell = b.mul(bell, density)?;
            let tail = b.mul(bell, x)?;
            b.add(phi, tail)?
        };
        Ok(Decomposition::Values(vec![b.mul(slope, dy)?]))
    }
}
