//! `neox.qkv_split`: queries, keys and values out of a fused projection.

use super::prelude::*;

/// The dims of a fused projection, and of its parts.
pub const FUSED: [&str; 5] = ["batch", "seq", "heads", "qkv", "head_dim"];
/// The dims of queries, keys and values.
pub const PART: [&str; 4] = ["batch", "heads", "seq", "head_dim"];

/// The op of this file.
pub struct QkvSplit;

impl OpDef for QkvSplit {
    fn name(&self) -> &'static str {
        "qkv_split"
    }
    fn doc(&self) -> &'static str {
        "[batch, seq, heads, qkv = 3, head_dim] to three tensors [batch, heads, seq, head_dim] (GPT-NeoX's interleaving)."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[("qkv", Arity::One)],
            results: &[("q", Arity::One), ("k", Arity::One), ("v", Arity::One)],
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
        let x = &cx.operands[0];
        if !x.dims.iter().map(|d| &*d.name).eq(FUSED) || x.size("qkv") != Some(3) {
            return Err(OpError::new(format!("{x} is not a fused projection")));
        }
        let dims = PART.iter().map(|n| Dim::new(n, x.size(n).unwrap_or(1))).collect();
        let part = TensorType::new(x.dtype, dims);
        Ok(vec![part.clone(), part.clone(), part])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let mut parts = vec![];
        for (i, d) in cx.cotangents.iter().enumerate() {
            let ty = cx.b.ty(cx.op.results[i]).clone();
            parts.push(match d {
                Some(d) => *d,
                None => cx.b.fill(0.0, &ty)?,
            });
        }
        let dx = cx.b.one("qkv_merge", &parts, Attrs::new())?;
        grads(&[dx])
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
        let x = cx.operands[0];
        let part = |which: usize| {
            Tensor::from_fn(cx.rule.results[0].clone(), |i| x.at(&[i[0], i[2], i[1], which, i[3]]))
        };
        Ok(vec![part(0), part(1), part(2)])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let mut parts = vec![];
        for i in 0..3 {
            let attrs = Attrs::new()
                .with("dim", Attr::Str("qkv".into()))
                .with("start", Attr::Int(i))
                .with("size", Attr::Int(1));
            let part = b.one("slice", operands, attrs)?;
            let mut dims = b.ty(part).dims.clone();
            dims.retain(|d| &*d.name != "qkv");
            let part = b.reshape(part, &dims)?;
            parts.push(b.transpose_to(part, &PART)?);
        }
        Ok(Decomposition::Values(parts))
    }
}
