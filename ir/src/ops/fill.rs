//! `neox.fill`.

use super::prelude::*;

/// The type that `dims` and `sizes` describe; its number of elements is in range.
pub fn type_of(cx: &RuleCx<'_>, dtype: DType) -> Result<TensorType, OpError> {
    let (names, sizes) = (cx.strs("dims")?, cx.sizes("sizes")?);
    if names.len() != sizes.len() {
        return Err(OpError::new("`dims` and `sizes` have different lengths"));
    }
    let dims = names.iter().zip(sizes).map(|(n, s)| Dim::new(n, s)).collect();
    let ty = TensorType::new(dtype, dims);
    ty.checked_elements()?;
    Ok(ty)
}

/// The op of this file.
pub struct Fill;

impl OpDef for Fill {
    frame! {
        fill() -> (y),
        "A tensor whose elements are all `value`.",
        class Pointwise,
        precision SAME,
        attrs &[
            required("dims", AttrKind::Strs, "dim names"),
            required("sizes", AttrKind::Ints, "dim sizes"),
            required("value", AttrKind::Float, "the value"),
            required("dtype", AttrKind::Str, "the dtype"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let name = cx.str("dtype")?;
        let dtype = DType::ALL
            .into_iter()
            .find(|d| d.name() == name)
            .ok_or_else(|| OpError::new(format!("no dtype `{name}`")))?;
        Ok(vec![type_of(cx, dtype)?])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::Operands(vec![]))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![Tensor::fill(cx.rule.results[0].clone(), cx.rule.float("value")?)])
    }
    primitive!();
}
