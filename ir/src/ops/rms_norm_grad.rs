//! `neox.rms_norm_grad`: gradients of an RMS norm's input and weight.

use super::norms;
use super::prelude::*;
use super::rows::rows;
use super::sum_runs::{ROWS, sums};

/// The op of this file.
pub struct RmsNormGrad;

impl OpDef for RmsNormGrad {
    frame! {
        rms_norm_grad(x, weight, rstd, dy) -> (dx, dweight),
        "With n = x·rstd and g = dy·weight: dx = `rstd·(g - n·mean(g·n))` over `dim` and dweight = Σ dy·n over all rows; with `rows`, the sums of each run of so many rows, as `sum_runs` makes them.",
        class Special,
        precision (Free, Free, Exact, Free) -> (Free, Exact),
        attrs &[required("dim", AttrKind::Str, "the dim that was normalised"), ROWS],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let [x, w, rstd, dy] = cx.operands else {
            return Err(OpError::new("takes four operands"));
        };
        let dim = cx.str("dim")?;
        let weight = norms::weight(x, dim)?;
        if x != dy || *w != weight || *rstd != x.without(dim) {
            return Err(OpError::new(format!("operands do not fit {x} normalised over `{dim}`")));
        }
        let sum = norms::gradient_of(cx, x, weight)?;
        Ok(vec![x.clone(), sum])
    }
    no_gradient!("second derivatives are not needed for training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        norms::gradient_sharding(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 10.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let [x, weight, rstd, dy] = cx.operands[..] else {
            return Err(OpError::new("takes four operands"));
        };
        let (bases, at) = rows(&x.ty, cx.rule.str("dim")?)?;
        let n = at.len() as f64;
        let mut dx = x.clone();
        let mut dw = Tensor::fill(cx.rule.results[1].clone(), 0.0);
        let run = norms::run(&cx.rule, bases.len())?;
        for (row, base) in bases.into_iter().enumerate() {
            let normal = |o: usize| x.data[base + o] * rstd.data[row];
            let g = |i: usize, o: usize| dy.data[base + o] * weight.data[i];
            let pairs = || at.iter().copied().enumerate();
            let mean = pairs().map(|(i, o)| g(i, o) * normal(o)).sum::<f64>() / n;
            for (i, o) in pairs() {
                dw.data[row / run * at.len() + i] += dy.data[base + o] * normal(o);
                dx.data[base + o] = rstd.data[row] * (g(i, o) - normal(o) * mean);
            }
        }
        Ok(vec![dx, dw])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let [x, weight, rstd, dy] = operands[..] else {
            return Err(OpError::new("takes four operands"));
        };
        let dim = attrs.str("dim").unwrap_or_default();
        let n = b.ty(x).size(dim).unwrap_or(1);
        let inverse = b.scalar(1.0 / n as f64)?;
        let normal = b.mul(x, rstd)?;
        let g = b.mul(dy, weight)?;
        let product = b.mul(g, normal)?;
        let sum = b.reduce_sum(product, &[dim])?;
        let mean = b.mul(sum, inverse)?;
        let part = b.mul(normal, mean)?;
        let d = b.sub(g, part)?;
        let dx = b.mul(d, rstd)?;
        let part = b.mul(dy, normal)?;
        let dw = sums(b, part, weight, attrs)?;
        Ok(Decomposition::Values(vec![dx, dw]))
    }
}
