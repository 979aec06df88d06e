//! `neox.iota`: numbers of the places along a dim.

use super::prelude::*;

/// The op of this file.
pub struct Iota;

impl OpDef for Iota {
    frame! {
        iota() -> (y),
        "The integers 0, 1, … below `size` along `dim`.",
        class Special,
        precision EXACT,
        attrs &[
            required("dim", AttrKind::Str, "name of the only dim"),
            required("size", AttrKind::Int, "its size"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let size = cx.size("size")?;
        if size > i32::MAX as usize {
            return Err(OpError::new(format!("{size} places are more than an i32 counts")));
        }
        Ok(vec![TensorType::new(DType::I32, vec![Dim::new(cx.str("dim")?, size)])])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::Operands(vec![]))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        // A rank's part of it is taken, not made: a rank does not know its own number.
        ShardRule::whole(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![Tensor::from_fn(cx.rule.results[0].clone(), |i| i[0] as f64)])
    }
    primitive!();
}
