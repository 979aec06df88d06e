//! `neox.cast`.

use super::prelude::*;

/// Rounds to the nearest value of `dtype`, ties to even.
pub fn round_to(dtype: DType, x: f64) -> f64 {
    let keep = match dtype {
        _ if x.is_nan() => return x,
        DType::F64 => return x,
        DType::I32 => return x.trunc(),
        DType::F32 => return f64::from(x as f32),
        DType::Bf16 => 16,
        DType::F16 => 13,
    };
    // 16-bit floats: round the f32 at `keep` low bits (f16's narrower exponent range is not modelled:
    // overflow is reported by the loss scaler, not hidden here).
    let bits = (x as f32).to_bits();
    let bias = (1u32 << (keep - 1)) - 1 + ((bits >> keep) & 1);
    f64::from(f32::from_bits((bits.wrapping_add(bias)) & !((1 << keep) - 1)))
}

/// The op of this file.
pub struct Cast;

impl OpDef for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }
    fn doc(&self) -> &'static str {
        "`x` rounded to `dtype`, ties to even."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[("x", Arity::One)],
            results: &[("y", Arity::One)],
            attrs: const { &[required("dtype", AttrKind::Str, "the dtype of the result")] },
        }
    }
    fn class(&self) -> Class {
        Class::Pointwise
    }
    fn precision(&self) -> Precision {
        Precision { operands: &[Rounding::Stored], results: &[Rounding::Exact] }
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
