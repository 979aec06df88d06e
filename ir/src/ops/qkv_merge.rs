//! `neox.qkv_merge`: the inverse of `qkv_split`.

use super::prelude::*;
use super::qkv_split::{FORMS, FUSED, QUERIES, attends, sharing};

/// The op of this file.
pub struct QkvMerge;

impl OpDef for QkvMerge {
    frame! {
        qkv_merge(q, k, v) -> (qkv),
        "Three tensors [batch, heads, seq, head_dim] to [batch, seq, heads, qkv = 3, head_dim]; of queries [batch, heads, queries, seq, head_dim], which come first, to qkv = queries + 2.",
        class Movement,
        precision SAME,
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let [q, k, v] = cx.operands else { return Err(OpError::new("takes q, k and v")) };
        if !attends(q, k) || v != k {
            return Err(OpError::new(FORMS));
        }
        let all = sharing(q) + 2;
        let dims = FUSED.iter().map(|n| Dim::new(n, q.size(n).unwrap_or(all))).collect();
        Ok(vec![TensorType::new(q.dtype, dims)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let parts = cx.b.op(OpKind::QkvSplit, &[dy], Attrs::new())?;
        grads(&parts)
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::by_dim(cx, |dim| match dim {
            "qkv" | QUERIES => ShardEffect::Whole,
            _ => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let ty = cx.rule.results[0].clone();
        let queries = sharing(&cx.operands[0].ty);
        Ok(vec![Tensor::from_fn(ty, |i| match i[3].checked_sub(queries) {
            Some(other) => cx.operands[1 + other].at(&[i[0], i[2], i[1], i[4]]),
            None if queries == 1 => cx.operands[0].at(&[i[0], i[2], i[1], i[4]]),
            None => cx.operands[0].at(&[i[0], i[2], i[3], i[1], i[4]]),
        })])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let mut sum = None;
        let queries = sharing(b.ty(operands[0]));
        let places = [(0, queries), (queries, 1), (queries + 1, 1)];
        for (part, (before, size)) in operands.iter().zip(places) {
            let part = if size > 1 {
                let rename = Attrs::new()
                    .with("from", Attr::Str(QUERIES.into()))
                    .with("to", Attr::Str("qkv".into()));
                let part = b.one(OpKind::Rename, &[*part], rename)?;
                b.transpose_to(part, &FUSED)?
            } else {
                let part = b.transpose_to(*part, &["batch", "seq", "heads", "head_dim"])?;
                let mut dims = b.ty(part).dims.clone();
                dims.insert(3, Dim::new("qkv", 1));
                b.reshape(part, &dims)?
            };
            let attrs = Attrs::new()
                .with("dim", Attr::Str("qkv".into()))
                .with("before", Attr::Int(before as i64))
                .with("after", Attr::Int((queries + 2 - before - size) as i64));
            let part = b.one(OpKind::Pad, &[part], attrs)?;
            sum = Some(match sum {
                None => part,
                Some(sum) => b.add(sum, part)?,
            });
        }
        Ok(Decomposition::Values(sum.into_iter().collect()))
    }
}
