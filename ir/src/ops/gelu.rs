//! `neox.gelu`: Gaussian error linear unit (Hendrycks & Gimpel 2016, arXiv:1606.08415).

use super::erf::erf64;
use super::pointwise;
use super::prelude::*;

/// The op of this file.
pub struct Gelu;

/// Whether `approximate` asks for the tanh form.
pub fn is_tanh(attrs: &Attrs) -> Result<bool, OpError> {
    match attrs.str("approximate") {
        Some("tanh") => Ok(true),
        Some("none") => Ok(false),
        _ => Err(OpError::new("`approximate` is \"none\" or \"tanh\"")),
    }
}

/// √(2/π), the factor of the tanh form.
pub const TANH_SCALE: f64 = 0.797_884_560_802_865_4;
/// The cubic coefficient of the tanh form.
pub const TANH_CUBIC: f64 = 0.044715;

/// The tanh form's factor of x, of x and its square: ½(1 + tanh u) = 1/(1 + e⁻²ᵘ), which takes fewer operations and no
/// difference of close numbers where x is negative.
pub fn tanh_share(b: &mut Builder<'_>, x: ValueId, square: ValueId) -> Result<ValueId, OpError> {
    let (first, third) = (b.scalar(2.0 * TANH_SCALE)?, b.scalar(2.0 * TANH_SCALE * TANH_CUBIC)?);
    let inner = b.mul(square, third)?;
    let inner = b.add(inner, first)?;
    let inner = b.mul(inner, x)?;
    b.unary(OpKind::Logistic, inner)
}

/// The shared attribute list of gelu and its gradient.
pub const ATTRS: &[AttrSpec] = &[required(
    "approximate",
    AttrKind::Str,
    "`none`: x/2·(1 + erf(x/√2)); `tanh`: x/2·(1 + tanh(√(2/π)(x + 0.044715x³)))",
)];

impl OpDef for Gelu {
    frame! {
        gelu(x) -> (y),
        "Gaussian error linear unit, exact (erf) or in its tanh form.",
        class Pointwise,
        precision WIDE,
        attrs ATTRS,
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        is_tanh(cx.attrs)?;
        pointwise::infer(cx)
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let (x, attrs) = (cx.operand(0), cx.op.attrs.clone());
        let dx = cx.b.one(OpKind::GeluGrad, &[x, dy], attrs)?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        pointwise::cost(cx, 24.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        if is_tanh(cx.rule.attrs)? {
            pointwise::evaluate(cx, |x| {
                let x = x[0];
                0.5 * x * (1.0 + (TANH_SCALE * (x + TANH_CUBIC * x * x * x)).tanh())
            })
        } else {
            pointwise::evaluate(cx, |x| {
                0.5 * x[0] * (1.0 + erf64(x[0] * std::f64::consts::FRAC_1_SQRT_2))
            })
        }
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let x = operands[0];
        if is_tanh(attrs)? {
            let square = b.mul(x, x)?;
            let share = tanh_share(b, x, square)?;
            return Ok(Decomposition::Values(vec![b.mul(x, share)?]));
        }
        let scale = b.scalar(std::f64::consts::FRAC_1_SQRT_2)?;
        let inner = b.mul(x, scale)?;
        let bell = b.unary(OpKind::Erf, inner)?;
        let (one, half) = (b.scalar(1.0)?, b.scalar(0.5)?);
        let shifted = b.add(bell, one)?;
        let halved = b.mul(x, half)?;
        Ok(Decomposition::Values(vec![b.mul(halved, shifted)?]))
    }
}
