//! `neox.layer_norm` (Ba et al. 2016, arXiv:1607.06450).

use super::norms;
use super::prelude::*;
use super::rows::rows;

/// The op of this file.
pub struct LayerNorm;

impl OpDef for LayerNorm {
    frame! {
        layer_norm(x, weight, bias: Optional) -> (y, mean, rstd),
        "`(x - mean)·rstd·weight + bias` over `dim`, rstd = 1/√(variance + eps); also gives mean and rstd, which lack `dim`.",
        class Special,
        precision (Free) -> (Free, Exact),
        attrs &[
            required("dim", AttrKind::Str, "the dim that is normalised"),
            required("eps", AttrKind::Float, "added to the variance"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let dim = cx.str("dim")?;
        let x = &cx.operands[0];
        let want = norms::weight(x, dim)?;
        if cx.operands[1..].iter().any(|t| *t != want) {
            return Err(OpError::new(format!("weight and bias must be {want}")));
        }
        Ok(vec![x.clone(), x.without(dim), x.without(dim)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        if cx.cotangents[1..].iter().any(Option::is_some) {
            return Ok(Gradient::None("mean and rstd are only for the backward pass"));
        }
        let dy = cx.dy()?;
        let (x, weight, mean, rstd) = (cx.operand(0), cx.operand(1), cx.result(1), cx.result(2));
        let out =
            cx.b.op(OpKind::LayerNormGrad, &[x, weight, mean, rstd, dy], norms::dim_of(cx.op))?;
        grads(&out[..cx.op.operands.len()])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::whole_along(cx, "dim")
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 8.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.operands[0];
        let eps = cx.rule.float("eps")?;
        let (bases, at) = rows(&x.ty, cx.rule.str("dim")?)?;
        let n = at.len() as f64;
        let mut y = x.clone();
        let (mut means, mut rstds) = (vec![], vec![]);
        for base in bases {
            let mean = at.iter().map(|o| x.data[base + o]).sum::<f64>() / n;
            let variance = at.iter().map(|o| (x.data[base + o] - mean).powi(2)).sum::<f64>() / n;
            let rstd = 1.0 / (variance + eps).sqrt();
            for (i, o) in at.iter().enumerate() {
                let bias = cx.operands.get(2).map_or(0.0, |b| b.data[i]);
                y.data[base + o] = (x.data[base + o] - mean) * rstd * cx.operands[1].data[i] + bias;
            }
            means.push(mean);
            rstds.push(rstd);
        }
        let stat = cx.rule.results[1].clone();
        Ok(vec![y, Tensor::new(stat.clone(), means), Tensor::new(stat, rstds)])
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
        let sum = b.reduce_sum(x, &[dim])?;
        let mean = b.mul(sum, inverse)?;
        let centred = b.sub(x, mean)?;
        let square = b.mul(centred, centred)?;
        let sum = b.reduce_sum(square, &[dim])?;
        let variance = b.mul(sum, inverse)?;
        let eps = b.scalar(attrs.float("eps").unwrap_or(0.0))?;
        let shifted = b.add(variance, eps)?;
        let rstd = b.unary(OpKind::Rsqrt, shifted)?;
        let normal = b.mul(centred, rstd)?;
        let mut y = b.mul(normal, operands[1])?;
        if let Some(bias) = operands.get(2) {
            y = b.add(y, *bias)?;
        }
        Ok(Decomposition::Values(vec![y, mean, rstd]))
    }
}
