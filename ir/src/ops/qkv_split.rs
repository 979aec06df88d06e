//! `neox.qkv_split`: queries, keys and values out of a fused projection.

use super::prelude::*;

/// The dims of a fused projection: of each head of keys and values the query heads that share it, then the key's and the
/// value's.
pub const FUSED: [&str; 5] = ["batch", "seq", "heads", "qkv", "head_dim"];
/// The dims of keys and values, and of queries whose heads share none.
pub const PART: [&str; 4] = ["batch", "heads", "seq", "head_dim"];
/// The dim of the query heads that share one head of keys and values (Ainslie et al. 2023, arXiv:2305.13245).
pub const QUERIES: &str = "queries";
/// The dims of queries whose heads share keys and values.
pub const GROUPED: [&str; 5] = ["batch", "heads", QUERIES, "seq", "head_dim"];

/// Whether queries of type `q` attend to keys of type `k`: heads alike, or several of q's to one of k's.
pub(super) fn attends(q: &TensorType, k: &TensorType) -> bool {
    let named =
        |ty: &TensorType, dims: &[&str]| ty.dims.iter().map(|d| &*d.name).eq(dims.iter().copied());
    named(k, &PART) && (q == k || named(q, &GROUPED) && sharing(q) > 1 && q.without(QUERIES) == *k)
}

/// Query heads that share one head of keys and values.
pub fn sharing(q: &TensorType) -> usize {
    q.size(QUERIES).unwrap_or(1)
}

/// What the three tensors of an attention must be.
pub(super) const FORMS: &str = "k and v must be [batch, heads, seq, head_dim] alike, q too or [batch, heads, queries, seq, head_dim]";

/// The op of this file.
pub struct QkvSplit;

impl OpDef for QkvSplit {
    frame! {
        qkv_split(qkv) -> (q, k, v),
        "[batch, seq, heads, qkv = 3, head_dim] to three tensors [batch, heads, seq, head_dim] (GPT-NeoX's interleaving); with more than three, the first qkv - 2 are queries that share a key and a value: [batch, heads, queries, seq, head_dim].",
        class Movement,
        precision SAME,
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let x = &cx.operands[0];
        let queries = x.size("qkv").and_then(|n| n.checked_sub(2)).filter(|n| *n > 0);
        let Some(queries) = queries.filter(|_| x.dims.iter().map(|d| &*d.name).eq(FUSED)) else {
            return Err(OpError::new(format!("{x} is not a fused projection")));
        };
        let dims = PART.iter().map(|n| Dim::new(n, x.size(n).unwrap_or(1))).collect();
        let part = TensorType::new(x.dtype, dims);
        let mut q = part.clone();
        if queries > 1 {
            q.dims.insert(2, Dim::new(QUERIES, queries));
        }
        Ok(vec![q, part.clone(), part])
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
        let dx = cx.b.one(OpKind::QkvMerge, &parts, Attrs::new())?;
        grads(&[dx])
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
        let x = cx.operands[0];
        let types = cx.rule.results;
        let queries = sharing(&types[0]);
        let part = |ty: &TensorType, first: usize| {
            Tensor::from_fn(ty.clone(), |i| match *i {
                [b, h, member, s, d] => x.at(&[b, s, h, first + member, d]),
                _ => x.at(&[i[0], i[2], i[1], first, i[3]]),
            })
        };
        Ok(vec![part(&types[0], 0), part(&types[1], queries), part(&types[2], queries + 1)])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let mut parts = vec![];
        let queries = b.ty(operands[0]).size("qkv").unwrap_or(3) - 2;
        for (start, size) in [(0, queries), (queries, 1), (queries + 1, 1)] {
            let attrs = Attrs::new()
                .with("dim", Attr::Str("qkv".into()))
                .with("start", Attr::Int(start as i64))
                .with("size", Attr::Int(size as i64));
            let part = b.one(OpKind::Slice, operands, attrs)?;
            if size > 1 {
                let rename = Attrs::new()
                    .with("from", Attr::Str("qkv".into()))
                    .with("to", Attr::Str(QUERIES.into()));
                let part = b.one(OpKind::Rename, &[part], rename)?;
                parts.push(b.transpose_to(part, &GROUPED)?);
                continue;
            }
            let mut dims = b.ty(part).dims.clone();
            dims.retain(|d| &*d.name != "qkv");
            let part = b.reshape(part, &dims)?;
            parts.push(b.transpose_to(part, &PART)?);
        }
        Ok(Decomposition::Values(parts))
    }
}
