//! `neox.cross_entropy_join`: the loss of each row from what all ranks say of their parts.

use super::cross_entropy_part::NUMBERS;
use super::prelude::*;

/// The op of this file.
pub struct CrossEntropyJoin;

impl OpDef for CrossEntropyJoin {
    frame! {
        cross_entropy_join(stats) -> (loss, lse),
        "From the `stats` (m, s, x) of all parts of each row: `lse = M + log(Σ s·exp(m - M))` with M the largest m, and the loss `lse - Σ x`.",
        class Special,
        precision EXACT,
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let stats = &cx.operands[0];
        match &stats.dims[..] {
            [rank, rows @ .., stat]
                if &*rank.name == "rank" && *stat == Dim::new("stat", NUMBERS) =>
            {
                Ok(vec![TensorType::new(stats.dtype, rows.to_vec()); 2])
            }
            _ => Err(OpError::new(format!("{stats} is not [rank, rows.., stat = {NUMBERS}]"))),
        }
    }
    no_gradient!("parts are made after differentiation");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let row = cx.results.first().cloned();
        ShardRule::by_dim(cx, |dim| match row.as_ref().is_some_and(|r| r.has(dim)) {
            true => ShardEffect::Parallel,
            false => ShardEffect::Whole,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 5.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let stats = cx.operands[0];
        let ty = &cx.rule.results[0];
        let (ranks, rows) = (stats.ty.dims[0].size, ty.elements());
        let (mut losses, mut lses) = (vec![], vec![]);
        for row in 0..rows {
            let of = |rank: usize, i: usize| stats.data[(rank * rows + row) * NUMBERS + i];
            let max = (0..ranks).map(|r| of(r, 0)).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..ranks).map(|r| of(r, 1) * (of(r, 0) - max).exp()).sum();
            let label: f64 = (0..ranks).map(|r| of(r, 2)).sum();
            let lse = max + sum.ln();
            losses.push(lse - label);
            lses.push(lse);
        }
        Ok(vec![Tensor::new(ty.clone(), losses), Tensor::new(ty.clone(), lses)])
    }
    primitive!();
}
