//! `neox.layer_norm_grad`: gradients of a layer norm's input, weight and bias.

use super::norms;
use super::prelude::*;
use super::rows::rows;
use super::sum_runs::{ROWS, sums};

/// The op of this file.
pub struct LayerNormGrad;

impl OpDef for LayerNormGrad {
    frame! {
        layer_norm_grad(x, weight, mean, rstd, dy) -> (dx, dweight, dbias),
        "With n = (x - mean)·rstd and g = dy·weight: dx = `rstd·(g - mean(g) - n·mean(g·n))` over `dim`, dweight = Σ dy·n and dbias = Σ dy over all rows; with `rows`, the sums of each run of so many rows, as `sum_runs` makes them.",
        class Special,
        precision (Free, Free, Exact, Exact, Free) -> (Free, Exact),
        attrs &[required("dim", AttrKind::Str, "the dim that was normalised"), ROWS],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (x, dy) = (&cx.operands[0], &cx.operands[4]);
        let dim = cx.str("dim")?;
        let (weight, row) = (norms::weight(x, dim)?, x.without(dim));
        let [_, w, mean, rstd, _] = cx.operands else {
            return Err(OpError::new("takes five operands"));
        };
        if x != dy || *w != weight || *mean != row || *rstd != row {
            return Err(OpError::new(format!("operands do not fit {x} normalised over `{dim}`")));
        }
        let sum = norms::gradient_of(cx, x, weight)?;
        Ok(vec![x.clone(), sum.clone(), sum])
    }
    no_gradient!("second derivatives are not needed for training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        norms::gradient_sharding(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 15.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let [x, weight, mean, rstd, dy] = cx.operands[..] else {
            return Err(OpError::new("takes five operands"));
        };
        let (bases, at) = rows(&x.ty, cx.rule.str("dim")?)?;
        let n = at.len() as f64;
        let mut dx = x.clone();
        let sum = &cx.rule.results[1];
        let (mut dw, mut db) = (Tensor::fill(sum.clone(), 0.0), Tensor::fill(sum.clone(), 0.0));
        let run = norms::run(&cx.rule, bases.len())?;
        for (row, base) in bases.into_iter().enumerate() {
            let normal = |o: usize| (x.data[base + o] - mean.data[row]) * rstd.data[row];
            let g = |i: usize, o: usize| dy.data[base + o] * weight.data[i];
            let pairs = || at.iter().copied().enumerate();
            let mean_g = pairs().map(|(i, o)| g(i, o)).sum::<f64>() / n;
            let mean_gn = pairs().map(|(i, o)| g(i, o) * normal(o)).sum::<f64>() / n;
            for (i, o) in pairs() {
                let to = row / run * at.len() + i;
                dw.data[to] += dy.data[base + o] * normal(o);
                db.data[to] += dy.data[base + o];
                dx.data[base + o] = rstd.data[row] * (g(i, o) - mean_g - normal(o) * mean_gn);
            }
        }
        Ok(vec![dx, dw, db])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let [x, weight, mean, rstd, dy] = operands[..] else {
            return Err(OpError::new("takes five operands"));
        };
        let dim = attrs.str("dim").unwrap_or_default();
        let n = b.ty(x).size(dim).unwrap_or(1);
        let inverse = b.scalar(1.0 / n as f64)?;
        let centred = b.sub(x, mean)?;
        let normal = b.mul(centred, rstd)?;
        let g = b.mul(dy, weight)?;
        let sum = b.reduce_sum(g, &[dim])?;
        let mean_g = b.mul(sum, inverse)?;
        let product = b.mul(g, normal)?;
        let sum = b.reduce_sum(product, &[dim])?;
        let mean_gn = b.mul(sum, inverse)?;
        let part = b.mul(normal, mean_gn)?;
        let d = b.sub(g, mean_g)?;
        let d = b.sub(d, part)?;
        let dx = b.mul(d, rstd)?;
        let part = b.mul(dy, normal)?;
        let dw = sums(b, part, weight, attrs)?;
        let db = sums(b, dy, weight, attrs)?;
        Ok(Decomposition::Values(vec![dx, dw, db]))
    }
}
