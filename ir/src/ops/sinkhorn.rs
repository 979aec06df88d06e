//! `neox.sinkhorn`: scores that share tokens out evenly among experts.

use super::prelude::*;
use super::routing::by_group;

/// The op of this file.
pub struct Sinkhorn;

/// Added to sums before they divide.
pub const EPS: f64 = 1e-8;
/// Iteration ends when the experts' factors move by less than this on average.
pub const TOLERANCE: f64 = 1e-4;
/// The most iterations; kernels need a bound, and logits of a router reach the tolerance long before.
pub const ITERATIONS: usize = 256;

impl OpDef for Sinkhorn {
    fn name(&self) -> &'static str {
        "sinkhorn"
    }
    fn doc(&self) -> &'static str {
        "Per group, with c = exp(logits) [token, experts], a = 1 and b = 1: repeat `a = 1 / (tokens · (Σ_experts b·c + 1e-8))`, `b = 1 / (experts · (Σ_tokens a·c + 1e-8))` until the mean of |b - b before| is at most 1e-4, 256 times at most; gives a·b·c. It only serves to choose experts."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[("logits", Arity::One)],
            results: &[("scores", Arity::One)],
            attrs: &[],
        }
    }
    fn class(&self) -> Class {
        Class::Special
    }
    fn precision(&self) -> Precision {
        Precision::EXACT
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let x = &cx.operands[0];
        if !x.dims.iter().map(|d| &*d.name).eq(["group", "token", "experts"]) {
            return Err(OpError::new(format!("{x} is not logits of a router")));
        }
        Ok(vec![x.clone()])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::None("its result only chooses experts"))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        by_group(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        // A few iterations are usual.
        Cost::streaming(cx, (18.0 + 10.0 * 4.0) * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.operands[0];
        let [tokens, experts] = [1, 2].map(|i: usize| x.ty.dims[i].size);
        let mut out = x.clone();
        for group in out.data.chunks_mut(tokens * experts) {
            let c: Vec<f64> = group.iter().map(|x| x.exp()).collect();
            let (mut a, mut b) = (vec![1.0; tokens], vec![1.0; experts]);
            for _ in 0..ITERATIONS {
                for t in 0..tokens {
                    let sum: f64 = (0..experts).map(|e| b[e] * c[t * experts + e]).sum();
                    a[t] = 1.0 / (tokens as f64 * (sum + EPS));
                }
                let mut error = 0.0;
                for (e, b) in b.iter_mut().enumerate() {
                    let sum: f64 = (0..tokens).map(|t| a[t] * c[t * experts + e]).sum();
                    let new = 1.0 / (experts as f64 * (sum + EPS));
                    error += (new - *b).abs() / experts as f64;
                    *b = new;
                }
                if error <= TOLERANCE {
                    break;
                }
            }
            for (i, x) in group.iter_mut().enumerate() {
                *x = a[i / experts] * b[i % experts] * c[i];
            }
        }
        Ok(vec![out])
    }
    primitive!();
}
