//! `neox.cross_entropy_part`: three numbers per row of logits, of a rank that holds a shard of the vocabulary. The numbers of
//! all ranks together give the row's loss (`neox.cross_entropy_join`).

use super::part::{self, own};
use super::prelude::*;
use super::rows::rows;

/// Numbers for each row: largest logit, sum of exponentials, the label's logit.
pub const NUMBERS: usize = 3;

/// The op of this file.
pub struct CrossEntropyPart;

impl OpDef for CrossEntropyPart {
    frame! {
        cross_entropy_part(logits, labels, part) -> (stats),
        "Three numbers for each row of a rank's part of the logits along `dim`: the largest, m; the sum of `exp(logits - m)`; the label's logit, 0 where another rank has it. [rank = 1, rows.., stat = 3]",
        class Special,
        precision EXACT,
        attrs &[required("dim", AttrKind::Str, "the dim of the classes")],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        part::check(cx, 2)?;
        let row = super::cross_entropy::row_type(cx)?;
        let mut dims = cx.operands[2].dims.clone();
        dims.extend_from_slice(&row.dims);
        dims.push(Dim::new("stat", NUMBERS));
        Ok(vec![TensorType::new(row.dtype, dims)])
    }
    no_gradient!("parts are made after differentiation");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let rows = cx.operands[1].clone();
        ShardRule::by_dim(cx, |dim| match rows.has(dim) {
            true => ShardEffect::Parallel,
            false => ShardEffect::Whole,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 13.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (logits, labels, part) = (cx.operands[0], cx.operands[1], cx.operands[2]);
        let (bases, at) = rows(&logits.ty, cx.rule.str("dim")?)?;
        let mut stats = vec![];
        for (row, base) in bases.into_iter().enumerate() {
            let x = |i: usize| logits.data[base + at[i]];
            let max = (0..at.len()).map(x).fold(f64::NEG_INFINITY, f64::max);
            let sum = (0..at.len()).map(|i| (x(i) - max).exp()).sum::<f64>();
            let label = own(labels.data[row], at.len(), Some(part), "label")?;
            stats.extend([max, sum, label.map_or(0.0, x)]);
        }
        Ok(vec![Tensor::new(cx.rule.results[0].clone(), stats)])
    }
    primitive!();
}
