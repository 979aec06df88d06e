//! `neox.cast`.

use super::prelude::*;

/// Rounds to the nearest value of `dtype`, ties to even. What is too large for the dtype becomes infinite.
pub fn round_to(dtype: DType, x: f64) -> f64 {
    match dtype {
        _ if x.is_nan() => x,
        DType::F64 => x,
        DType::I32 => x.trunc(),
        DType::F32 => f64::from(x as f32),
        DType::Bf16 => {
            // The upper half of an f32.
            let bits = (x as f32).to_bits();
            let carry = 0x7fff + ((bits >> 16) & 1);
            f64::from(f32::from_bits(bits.wrapping_add(carry) & !0xffff))
        }
        DType::F16 => to_f16(f64::from(x as f32)),
    }
}

/// The nearest IEEE binary16: 11 digits down to an exponent of -14, and below that multiples of 2⁻²⁴.
fn to_f16(x: f64) -> f64 {
    /// Where rounding leaves the finite numbers: half a place above the largest.
    const TOO_LARGE: f64 = 65_520.0;
    if x.abs() >= TOO_LARGE {
        return f64::INFINITY.copysign(x);
    }
    // The exponent of x, and the weight of its last place; both exact powers of two.
    let exponent = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let place = 2f64.powi(exponent.max(-14) - 10);
    (x / place).round_ties_even() * place
}

/// The op of this file.
pub struct Cast;

impl OpDef for Cast {
    frame! {
        cast(x) -> (y),
        "`x` rounded to `dtype`, ties to even.",
        class Pointwise,
        precision (Stored) -> (Exact),
        attrs &[required("dtype", AttrKind::Str, "the dtype of the result")],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let name = cx.str("dtype")?;
        let dtype = DType::ALL
            .into_iter()
            .find(|d| d.name() == name)
            .ok_or_else(|| OpError::new(format!("no dtype `{name}`")))?;
        Ok(vec![cx.operands[0].with_dtype(dtype)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dtype = cx.b.ty(cx.operand(0)).dtype;
        // An integer on either side: the derivative is zero where it exists.
        if !dtype.is_float() || !cx.b.ty(cx.result(0)).dtype.is_float() {
            return Ok(Gradient::Operands(vec![None]));
        }
        let dy = cx.dy()?;
        let attrs = Attrs::new().with("dtype", Attr::Str(dtype.name().into()));
        let dx = cx.b.one(OpKind::Cast, &[dy], attrs)?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        super::pointwise::cost(cx, 1.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let ty = cx.rule.results[0].clone();
        let data = cx.operands[0].data.iter().map(|x| round_to(ty.dtype, *x)).collect();
        Ok(vec![Tensor::new(ty, data)])
    }
    primitive!();
}
