//! `neox.qkv_merge`: the inverse of `qkv_split`.

use super::prelude::*;
use super::qkv_split::{FUSED, PART};

/// The op of this file.
pub struct QkvMerge;

impl OpDef for QkvMerge {
    fn name(&self) -> &'static str {
        "qkv_merge"
    }
    fn doc(&self) -> &'static str {
        "Three tensors [batch, heads, seq, head_dim] to [batch, seq, heads, qkv = 3, head_dim]."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[("q", Arity::One), ("k", Arity::One), ("v", Arity::One)],
            results: &[("qkv", Arity::One)],
            attrs: &[],
        }
    }
    fn class(&self) -> Class {
        Class::Movement
    }
    fn precision(&self) -> Precision {
        Precision::SAME
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let q = &cx.operands[0];
        let same = cx.operands.iter().all(|t| t == q);
        if !same || !q.dims.iter().map(|d| &*d.name).eq(PART) {
            return Err(OpError::new("q, k and v must be [batch, heads, seq, head_dim] alike"));
        }
        let dims = FUSED.iter().map(|n| Dim::new(n, q.size(n).unwrap_or(3))).collect();
        Ok(vec![TensorType::new(q.dtype, dims)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let parts = cx.b.named("qkv_split", &[dy], Attrs::new())?;
        grads(&parts)
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::by_dim(cx, |dim| match dim {
            "qkv" => ShardEffect::Whole,
            _ => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let ty = cx.rule.results[0].clone();
        Ok(vec![Tensor::from_fn(ty, |i| cx.operands[i[3]].at(&[i[0], i[2], i[1], i[4]]))])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let mut sum = None;
        for (i, part) in operands.iter().enumerate() {
            let part = b.transpose_to(*part, &["batch", "seq", "heads", "head_dim"])?;
            let mut dims = b.ty(part).dims.clone();
            dims.insert(3, Dim::new("qkv", 1));
            let part = b.reshape(part, &dims)?;
            let attrs = Attrs::new()
                .with("dim", Attr::Str("qkv".into()))
                .with("before", Attr::Int(i as i64))
                .with("after", Attr::Int(2 - i as i64));
            let part = b.one("pad", &[part], attrs)?;
            sum = Some(match sum {
                None => part,
                Some(sum) => b.add(sum, part)?,
            });
        }
        Ok(Decomposition::Values(sum.into_iter().collect()))
    }
}
