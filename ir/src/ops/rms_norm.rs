//! `neox.rms_norm` (Zhang & Sennrich 2019, arXiv:1910.07467).

use super::norms;
use super::prelude::*;
use super::rows::rows;

/// The op of this file.
pub struct RmsNorm;

impl OpDef for RmsNorm {
    frame! {
        rms_norm(x, weight) -> (y, rstd),
        "`x·rstd·weight` over `dim`, rstd = 1/√(mean(x²) + eps); also gives rstd, which lacks `dim`.",
        class Special,
        precision (Free) -> (Free, Exact),
        attrs &[
            required("dim", AttrKind::Str, "the dim that is normalised"),
            required("eps", AttrKind::Float, "added to the mean square"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let dim = cx.str("dim")?;
        let x = &cx.operands[0];
        let want = norms::weight(x, dim)?;
        if cx.operands[1] != want {
            return Err(OpError::new(format!("weight must be {want}")));
        }
        Ok(vec![x.clone(), x.without(dim)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        if cx.cotangents[1].is_some() {
            return Ok(Gradient::None("rstd is only for the backward pass"));
        }
        let dy = cx.dy()?;
        let (x, weight, rstd) = (cx.operand(0), cx.operand(1), cx.result(1));
        let out = cx.b.op(OpKind::RmsNormGrad, &[x, weight, rstd, dy], norms::dim_of(cx.op))?;
        grads(&out)
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::whole_along(cx, "dim")
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 4.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, weight) = (cx.operands[0], cx.operands[1]);
        let eps = cx.rule.float("eps")?;
        let (bases, at) = rows(&x.ty, cx.rule.str("dim")?)?;
        let n = at.len() as f64;
        let mut y = x.clone();
        let mut rstds = vec![];
        for base in bases {
            let square = at.iter().map(|o| x.data[base + o].powi(2)).sum::<f64>() / n;
            let rstd = 1.0 / (square + eps).sqrt();
            for (i, o) in at.iter().enumerate() {
                y.data[base + o] = x.data[base + o] * rstd * weight.data[i];
            }
            rstds.push(rstd);
        }
        Ok(vec![y, Tensor::new(cx.rule.results[1].clone(), rstds)])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let dim = attrs.str("dim").unwrap_or_default();
        let x = operands[0];
        let n = b.ty(x).size(dim).unwrap_or(1);
        let inverse = b.scalar(1.0 / n as f64)?;
        let square = b.mul(x, x)?;
        let sum = b.reduce_sum(square, &[dim])?;
        let mean = b.mul(sum, inverse)?;
        let eps = b.scalar(attrs.float("eps").unwrap_or(0.0))?;
        let shifted = b.add(mean, eps)?;
        let rstd = b.unary(OpKind::Rsqrt, shifted)?;
        let normal = b.mul(x, rstd)?;
        let y = b.mul(normal, operands[1])?;
        Ok(Decomposition::Values(vec![y, rstd]))
    }
}
