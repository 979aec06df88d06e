//! `neox.cached_attention`: attention of one token to those before it, whose keys and values are kept.

use super::attention::{FORM, Form, output};
use super::prelude::*;
use super::qkv_split::{FORMS, attends, sharing};

/// The op of this file.
pub struct CachedAttention;

impl OpDef for CachedAttention {
    frame! {
        cached_attention(q, k, v, keys, values, count) -> (out),
        "`softmax(q [keys; k]ᵀ·scale) [values; v]` for one token: of `keys` and `values` [batch, heads, past, head_dim] the first `count` rows, or the last `window` of those, and the token's own `k` and `v`; q, k, v [batch, heads, seq = 1, head_dim] give [batch, seq, heads, head_dim]. As in `neox.attention`, q may have `queries`.",
        class Special,
        precision (Low) -> (Low),
        attrs &FORM,
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let [q, k, v, keys, values, count] = cx.operands else {
            return Err(OpError::new("takes q, k, v, keys, values and count"));
        };
        if !attends(q, k) || v != k || q.size("seq") != Some(1) {
            return Err(OpError::new(format!("{FORMS}, and seq 1")));
        }
        Form::of(cx.attrs)?;
        let kept = |ty: &TensorType| {
            let mut dims = k.dims.clone();
            dims[2] = Dim::new("past", ty.size("past").unwrap_or(0));
            ty.dims == dims && ty.dtype == q.dtype
        };
        if !kept(keys) || values != keys {
            return Err(OpError::new(
                "keys and values must be [batch, heads, past, head_dim] alike",
            ));
        }
        if count.dtype != DType::I32 || count.elements() != 1 {
            return Err(OpError::new("count must be one i32"));
        }
        Ok(vec![output(q)])
    }
    no_gradient!("tokens are made one by one after training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::by_dim(cx, |dim| match dim {
            "batch" | "heads" => ShardEffect::Parallel,
            _ => ShardEffect::Whole,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        // Of the worst case: as if all that is kept counted.
        let queries = sharing(&cx.operands[0]) as f64;
        Cost::streaming(cx, 4.0 * queries * cx.operands[3].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let [q, k, v, keys, values, count] = cx.operands[..] else {
            return Err(OpError::new("takes q, k, v, keys, values and count"));
        };
        let form = Form::of(cx.rule.attrs)?;
        let past = keys.ty.size("past").unwrap_or(0);
        let width = q.ty.size("head_dim").unwrap_or(1);
        let queries = sharing(&q.ty);
        let count = count.data[0];
        if !(0.0..=past as f64).contains(&count) {
            return Err(OpError::new(format!("{count} of {past} rows")));
        }
        let count = count as usize;
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        for head in 0..q.data.len() / width {
            // The token's own row comes last.
            let shared = head / queries;
            let row = |kept: &'_ Tensor, own: &'_ Tensor, j: usize, d: usize| match j < count {
                true => kept.data[(shared * past + j) * width + d],
                false => own.data[shared * width + d],
            };
            let score = |j: usize| -> f64 {
                form.scale
                    * (0..width).map(|d| q.data[head * width + d] * row(keys, k, j, d)).sum::<f64>()
            };
            let scores: Vec<f64> = form.seen(count).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..width {
                let mixed =
                    weights.iter().zip(form.seen(count)).map(|(w, j)| w * row(values, v, j, d));
                out.data[head * width + d] = mixed.sum::<f64>() / sum;
            }
        }
        Ok(vec![out])
    }
    primitive!();
}
