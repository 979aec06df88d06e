//! `neox.attention`: causal attention without a stored score matrix (Dao et al. 2022,
//! arXiv:2205.14135, for the streaming form that kernels use).

use super::causal_mask::{WINDOW, window};
use super::prelude::*;
use super::qkv_split::{FORMS, QUERIES, attends, sharing};

/// What later keys' scores become in the decomposition.
pub const MASKED: f64 = -1e30;

/// The attributes that say what becomes of scores before the softmax.
pub const FORM: [AttrSpec; 2] =
    [required("scale", AttrKind::Float, "factor of the scores"), WINDOW];

/// What becomes of scores before the softmax.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Form {
    /// Their factor.
    pub scale: f64,
    /// How many keys before its own a query sees, if they are limited.
    pub window: Option<usize>,
}

impl Form {
    /// What `attrs` say.
    pub fn of(attrs: &Attrs) -> Result<Form, OpError> {
        let scale = attrs.float("scale").ok_or_else(|| OpError::new("needs `scale`"))?;
        Ok(Form { scale, window: window(attrs)? })
    }

    /// The keys that the query at position `query` sees.
    pub fn seen(&self, query: usize) -> std::ops::RangeInclusive<usize> {
        self.window.map_or(0, |w| query.saturating_sub(w))..=query
    }
}

/// Checks q, k and v; gives the types of the output and the log-sum-exp.
pub fn result_types(qkv: &[TensorType]) -> Result<Vec<TensorType>, OpError> {
    let [q, k, v] = qkv else { return Err(OpError::new("takes q, k and v")) };
    if !attends(q, k) || v != k {
        return Err(OpError::new(FORMS));
    }
    Ok(vec![output(q), q.without("head_dim").with_dtype(q.dtype.wide())])
}

/// The output of queries `q`: [batch, seq, heads, head_dim], with `queries` behind `heads` where q has them.
pub fn output(q: &TensorType) -> TensorType {
    let mut out = q.clone();
    let seq = out.dims.remove(q.dims.len() - 2);
    out.dims.insert(1, seq);
    out
}

/// The names of its dims.
pub(super) fn names(ty: &TensorType) -> Vec<String> {
    ty.dims.iter().map(|d| d.name.to_string()).collect()
}

/// The op of this file.
pub struct Attention;

impl OpDef for Attention {
    frame! {
        attention(q, k, v) -> (out, lse),
        "Causal `softmax(q kᵀ·scale) v`, of the `window` keys before a query's own and that one, if it is given; q, k, v [batch, heads, seq, head_dim] give [batch, seq, heads, head_dim] and the log-sum-exp of each row of scores [batch, heads, seq], in f32 at least. With q [batch, heads, queries, seq, head_dim] so many query heads share each head of k and v: the results have `queries` behind `heads`.",
        class Special,
        precision (Low) -> (Low, Exact),
        attrs &FORM,
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        Form::of(cx.attrs)?;
        result_types(cx.operands)
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        if cx.cotangents[1].is_some() {
            return Ok(Gradient::None("the log-sum-exp is only for the backward pass"));
        }
        let dy = cx.dy()?;
        let operands =
            [cx.operand(0), cx.operand(1), cx.operand(2), cx.result(0), cx.result(1), dy];
        let d = cx.b.op(OpKind::AttentionGrad, &operands, cx.op.attrs.clone())?;
        grads(&d)
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        sharding(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        cost(cx, 4.0, 12.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        weigh(cx, &|_| 1.0)
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        decompose(b, operands, attrs, |_, p| Ok(p))
    }
}

/// Sequences and heads of keys and values are independent of each other.
pub fn sharding(cx: &RuleCx<'_>) -> ShardRule {
    ShardRule::by_dim(cx, |dim| match dim {
        "batch" | "heads" => ShardEffect::Parallel,
        _ => ShardEffect::Whole,
    })
}

/// Matmuls over the keys that queries see, `per_score` FLOPs for each pair of elements and `per_weight` for each
/// weight.
pub fn cost(cx: &RuleCx<'_>, per_score: f64, per_weight: f64) -> Cost {
    let q = &cx.operands[0];
    let seq = q.size("seq").unwrap_or(1) as f64;
    let window = window(cx.attrs).ok().flatten().map_or(seq, |w| (w as f64 + 1.0).min(seq));
    // Of the average query: the first ones see fewer.
    let scores = q.elements() as f64 * window * (1.0 - window / seq / 2.0);
    let weights = scores / q.size("head_dim").unwrap_or(1) as f64;
    Cost::streaming(cx, per_score * scores + per_weight * weights)
}

/// The place of a weight, (batch, head, query, key), among the dims that queries of type `q` and their keys have.
pub(super) fn place(q: &TensorType, [b, h, i, j]: [usize; 4]) -> Vec<usize> {
    match q.size(QUERIES) {
        None => vec![b, h, i, j],
        Some(queries) => vec![b, h / queries, h % queries, i, j],
    }
}

/// Attention whose weight at an index [batch, heads, (queries,) seq, kv_seq] is multiplied by `factor`.
pub fn weigh(cx: &EvalCx<'_>, factor: &dyn Fn(&[usize]) -> f64) -> Result<Vec<Tensor>, OpError> {
    let [q, k, v, ..] = cx.operands[..] else { return Err(OpError::new("takes q, k and v")) };
    let form = Form::of(cx.rule.attrs)?;
    let size = |n| q.ty.size(n).unwrap_or(1);
    let queries = sharing(&q.ty);
    let (batch, seq, width) = (size("batch"), size("seq"), size("head_dim"));
    let heads = size("heads") * queries;
    let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
    let mut lse = Tensor::fill(cx.rule.results[1].clone(), 0.0);
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..seq {
                let own = (b * heads + h) * seq;
                let shared = (b * heads + h) / queries * seq;
                let score = |j: usize| -> f64 {
                    let (q, k) = (&q.data[(own + i) * width..], &k.data[(shared + j) * width..]);
                    form.scale * q.iter().zip(k).take(width).map(|(q, k)| q * k).sum::<f64>()
                };
                let first = *form.seen(i).start();
                let scores: Vec<f64> = form.seen(i).map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                lse.data[own + i] = max + sum.ln();
                for d in 0..width {
                    let mixed: f64 = scores
                        .iter()
                        .enumerate()
                        .map(|(n, s)| {
                            let j = first + n;
                            let weight = (s - max).exp() * factor(&place(&q.ty, [b, h, i, j]));
                            weight * v.data[(shared + j) * width + d]
                        })
                        .sum();
                    out.data[((b * seq + i) * heads + h) * width + d] = mixed / sum;
                }
            }
        }
    }
    Ok(vec![out, lse])
}

/// Attention in simpler ops; `change` makes of the weights what is multiplied with the values.
pub fn decompose(
    b: &mut Builder<'_>,
    operands: &[ValueId],
    attrs: &Attrs,
    change: impl Fn(&mut Builder<'_>, ValueId) -> Result<ValueId, OpError>,
) -> Result<Decomposition, OpError> {
    let form = Form::of(attrs)?;
    let dtype = b.ty(operands[0]).dtype;
    let order = names(&output(b.ty(operands[0])));
    let order: Vec<&str> = order.iter().map(String::as_str).collect();
    let (scores, v) = scores(b, operands, form)?;
    let max =
        b.one(OpKind::ReduceMax, &[scores], Attrs::new().with("dims", Attr::strs(&["kv_seq"])))?;
    let centred = b.sub(scores, max)?;
    let e = b.unary(OpKind::Exp, centred)?;
    let sum = b.reduce_sum(e, &["kv_seq"])?;
    let p = b.div(e, sum)?;
    let p = change(b, p)?;
    let mixed = b.matmul(p, v, &["kv_seq"])?;
    let out = b.transpose_to(mixed, &order)?;
    let out = b.cast(out, dtype)?;
    let log = b.unary(OpKind::Log, sum)?;
    let lse = b.add(max, log)?;
    Ok(Decomposition::Values(vec![out, lse]))
}

/// Masked scores, q's dims with kv_seq in the place of head_dim, and the values with their sequence renamed; widened.
pub fn scores(
    b: &mut Builder<'_>,
    qkv: &[ValueId],
    form: Form,
) -> Result<(ValueId, ValueId), OpError> {
    let to_kv =
        Attrs::new().with("from", Attr::Str("seq".into())).with("to", Attr::Str("kv_seq".into()));
    let (q, k, v) = (b.widened(qkv[0])?, b.widened(qkv[1])?, b.widened(qkv[2])?);
    let k = b.one(OpKind::Rename, &[k], to_kv.clone())?;
    let v = b.one(OpKind::Rename, &[v], to_kv)?;
    let s = b.matmul(q, k, &["head_dim"])?;
    let scale = b.scalar(form.scale)?;
    let s = b.mul(s, scale)?;
    let mut mask = Attrs::new()
        .with("query", Attr::Str("seq".into()))
        .with("key", Attr::Str("kv_seq".into()))
        .with("value", Attr::Float(MASKED));
    if let Some(window) = form.window {
        mask.set(WINDOW.name, Attr::Int(window as i64));
    }
    Ok((b.one(OpKind::CausalMask, &[s], mask)?, v))
}
