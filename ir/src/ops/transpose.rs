//! `neox.transpose`.

use super::prelude::*;

/// The op of this file.
pub struct Transpose;

impl OpDef for Transpose {
    frame! {
        transpose(x) -> (y),
        "`x` with its dims in the order of `dims`.",
        class Movement,
        precision SAME,
        attrs &[required("dims", AttrKind::Strs, "every dim of x, in the new order")],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let x = &cx.operands[0];
        let names = cx.strs("dims")?;
        let repeated = (1..names.len()).any(|i| names[..i].contains(&names[i]));
        let dims: Option<Vec<Dim>> =
            names.iter().map(|n| x.position(n).map(|p| x.dims[p].clone())).collect();
        match dims {
            Some(dims) if dims.len() == x.dims.len() && !repeated => {
                Ok(vec![TensorType::new(x.dtype, dims)])
            }
            _ => Err(OpError::new(format!("`dims` is not an order of the dims of {x}"))),
        }
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let ty = cx.b.ty(cx.operand(0)).clone();
        let names: Vec<&str> = ty.dims.iter().map(|d| &*d.name).collect();
        let dx = cx.b.transpose_to(dy, &names)?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx).sums(Sums::Together)
    }

    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let ty = cx.rule.results[0].clone();
        let like = ty.clone();
        Ok(vec![Tensor::from_fn(ty, |i| cx.operands[0].at_named(&like, i))])
    }
    primitive!();
}
