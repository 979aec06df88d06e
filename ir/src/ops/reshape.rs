//! `neox.reshape`.

use std::sync::Arc;

use super::prelude::*;
use crate::build::dims_attrs;

/// The op of this file.
pub struct Reshape;

/// Where runs of dims of `x` and `y` have the same elements in the same places: the outermost dims of
/// each pair of runs, if they differ.
fn outermost(x: &TensorType, y: &TensorType) -> Vec<(Arc<str>, Arc<str>)> {
    // Dims of one element divide nothing.
    let several =
        |ty: &TensorType| -> Vec<Dim> { ty.dims.iter().filter(|d| d.size > 1).cloned().collect() };
    let (x, y) = (several(x), several(y));
    let mut out = vec![];
    let (mut i, mut j) = (0, 0);
    while i < x.len() && j < y.len() {
        let (a, b) = (&x[i], &y[j]);
        let (mut left, mut right) = (a.size, b.size);
        (i, j) = (i + 1, j + 1);
        while left != right {
            let longer = if left < right { (&x, &mut i) } else { (&y, &mut j) };
            let Some(d) = longer.0.get(*longer.1) else { return out };
            *longer.1 += 1;
            if left < right { left *= d.size } else { right *= d.size }
        }
        if a != b {
            out.push((a.name.clone(), b.name.clone()));
        }
    }
    out
}

impl OpDef for Reshape {
    frame! {
        reshape(x) -> (y),
        "The same elements in the same order, seen with other dims.",
        class View,
        precision SAME,
        attrs &[
            required("dims", AttrKind::Strs, "dim names"),
            required("sizes", AttrKind::Ints, "dim sizes"),
        ],
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
        let dx = cx.b.one(OpKind::Reshape, &[dy], dims_attrs(&dims))?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        // Dims that keep name and size keep their layout; of dims that are put together or taken apart
        // the outermost one keeps it under its new name.
        let x = &cx.operands[0];
        let Some(y) = cx.results.first() else { return ShardRule::whole(cx) };
        let follows = outermost(x, y);
        let kept = |dim: &str| {
            y.size(dim) == x.size(dim) || follows.iter().any(|(from, _)| &**from == dim)
        };
        let rule = ShardRule::by_dim(cx, |dim| match kept(dim) {
            true => ShardEffect::Parallel,
            false => ShardEffect::Whole,
        });
        ShardRule { follows, ..rule.sums(Sums::Together) }
    }

    fn cost(&self, _cx: &RuleCx<'_>) -> Cost {
        Cost::free()
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![Tensor::new(cx.rule.results[0].clone(), cx.operands[0].data.clone())])
    }
    primitive!();
}
