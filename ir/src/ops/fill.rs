//! `neox.fill`.

use super::prelude::*;

/// The dims that `dims` and `sizes` describe.
pub fn dims_of(cx: &RuleCx<'_>) -> Result<Vec<Dim>, OpError> {
    let (names, sizes) = (cx.strs("dims")?, cx.sizes("sizes")?);
    if names.len() != sizes.len() {
        return Err(OpError::new("`dims` and `sizes` have different lengths"));
    }
    Ok(names.iter().zip(sizes).map(|(n, s)| Dim::new(n, s)).collect())
}

/// The op of this file.
pub struct Fill;

impl OpDef for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }
    fn doc(&self) -> &'static str {
        "A tensor whose elements are all `value`."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[],
            results: &[("y", Arity::One)],
            attrs: const {
                &[
                    required("dims", AttrKind::Strs, "dim names"),
                    required("sizes", AttrKind::Ints, "dim sizes"),
                    required("value", AttrKind::Float, "the value"),
                    required("dtype", AttrKind::Str, "the dtype"),
                ]
            },
        }
    }
    fn class(&self) -> Class {
        Class::Pointwise
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let name = cx.str("dtype")?;
        let dtype = DType::ALL
            .into_iter()
            .find(|d| d.name() == name)
            .ok_or_else(|| OpError::new(format!("no dtype `{name}`")))?;
        Ok(vec![TensorType::new(dtype, dims_of(cx)?)])
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
