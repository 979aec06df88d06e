//! `neox.reshape`.

use super::prelude::*;
use crate::build::dims_attrs;

/// The op of this file.
pub struct Reshape;

impl OpDef for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }
    fn doc(&self) -> &'static str {
        "The same elements in the same order, seen with other dims."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[("x", Arity::One)],
            results: &[("y", Arity::One)],
            attrs: const {
                &[
                    required("dims", AttrKind::Strs, "dim names"),
                    required("sizes", AttrKind::Ints, "dim sizes"),
                ]
            },
        }
    }
    fn class(&self) -> Class {
        Class::View
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let x = &cx.operands[0];
        let ty = super::fill::type_of(cx, x.dtype)?;
        if ty.checked_elements()? != x.checked_elements()? {
            return Err(OpError::new(format!("{x} has another number of elements than {ty}")));
        }
        Ok(vec![ty])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let dims = cx.b.ty(cx.operand(0)).dims.clone();
        let dx = cx.b.one("reshape", &[dy], dims_attrs(&dims))?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        // Dims that keep name and size keep their layout.
        let (x, y) = (&cx.operands[0], cx.results.first());
        ShardRule::by_dim(cx, |dim| match y.is_some_and(|y| y.size(dim) == x.size(dim)) {
            true => ShardEffect::Parallel,
            false => ShardEffect::Whole,
        })
        .sums(Sums::Together)
    }

    fn cost(&self, _cx: &RuleCx<'_>) -> Cost {
        Cost::free()
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![Tensor::new(cx.rule.results[0].clone(), cx.operands[0].data.clone())])
    }
    primitive!();
}
