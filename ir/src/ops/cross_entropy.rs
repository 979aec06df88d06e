//! `neox.cross_entropy`: loss of each row of logits.

use super::part::{self, AXIS, RANKS};
use super::prelude::*;
use super::rows::{index, rows};

/// The type of a value of each row, for labels that fit the logits.
pub fn row_type(cx: &RuleCx<'_>) -> Result<TensorType, OpError> {
    let (logits, labels) = (&cx.operands[0], &cx.operands[1]);
    let dim = cx.str("dim")?;
    let row = logits.without(dim);
    if !logits.has(dim) || labels.dims != row.dims || labels.dtype != DType::I32 {
        return Err(OpError::new(format!("labels {labels} do not fit {logits}")));
    }
    Ok(row)
}

/// The op of this file.
pub struct CrossEntropy;

impl OpDef for CrossEntropy {
    frame! {
        cross_entropy(logits, labels, part: Optional) -> (loss, lse),
        "`lse - logits[label]` for each row along `dim`, and the log-sum-exp `lse` itself. Of logits that are part `part` of the rows, each of the `ranks` ranks along `axis` gets both.",
        class Special,
        precision EXACT,
        attrs &[required("dim", AttrKind::Str, "the dim of the classes"), AXIS, RANKS],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        part::check_meeting(cx, 2)?;
        let row = row_type(cx)?;
        Ok(vec![row.clone(), row])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        if cx.cotangents[1].is_some() {
            return Ok(Gradient::None("the log-sum-exp is only for the backward pass"));
        }
        let dy = cx.dy()?;
        let mut operands = vec![cx.operand(0), cx.operand(1), cx.result(1), dy];
        operands.extend(cx.op.operands.get(2));
        let dim = cx.op.attrs.str("dim").unwrap_or_default();
        let attrs = Attrs::new().with("dim", Attr::Str(dim.to_string()));
        let d = cx.b.one(OpKind::CrossEntropyGrad, &operands, attrs)?;
        let mut grads = vec![None; cx.op.operands.len()];
        grads[0] = Some(d);
        Ok(Gradient::Operands(grads))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let along = cx.attrs.str("dim").unwrap_or_default();
        ShardRule::by_dim(cx, |dim| match dim == along {
            true => ShardEffect::Own,
            false => ShardEffect::Parallel,
        })
        .settled(&[0, 1])
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 15.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        if cx.operands.len() > 2 {
            return super::decomposed::evaluate(&CrossEntropy, cx);
        }
        let (logits, labels) = (cx.operands[0], cx.operands[1]);
        let (bases, at) = rows(&logits.ty, cx.rule.str("dim")?)?;
        let (mut losses, mut lses) = (vec![], vec![]);
        for (row, base) in bases.into_iter().enumerate() {
            let x = |i: usize| logits.data[base + at[i]];
            let max = (0..at.len()).map(x).fold(f64::NEG_INFINITY, f64::max);
            let lse = max + (0..at.len()).map(|i| (x(i) - max).exp()).sum::<f64>().ln();
            let label = index(labels.data[row], at.len(), "label")?;
            losses.push(lse - x(label));
            lses.push(lse);
        }
        let ty = &cx.rule.results[0];
        Ok(vec![Tensor::new(ty.clone(), losses), Tensor::new(ty.clone(), lses)])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        // One collective of three numbers per row and rank, instead of one for the maximum and one for
        // the sums.
        if operands.len() < 3 {
            return Ok(Decomposition::Primitive);
        }
        let of = |names: &[&str]| {
            let given = names.iter().filter_map(|n| Some((*n, attrs.get(n)?.clone())));
            given.fold(Attrs::new(), |a, (name, value)| a.with(name, value))
        };
        let stats = b.one(OpKind::CrossEntropyPart, operands, of(&["dim"]))?;
        let along = of(&["axis", "ranks"]).with("dim", Attr::Str("rank".into()));
        let all = b.one(OpKind::AllGather, &[stats], along)?;
        Ok(Decomposition::Values(b.op(OpKind::CrossEntropyJoin, &[all], Attrs::new())?))
    }
}
