//! `neox.sinkhorn`: scores that share tokens out evenly among experts.

use super::prelude::*;
use super::routing::by_group;

/// The op of this file.
pub struct Sinkhorn;

/// An attribute: rounds at most, as GPT-NeoX's main branch makes them.
pub const ROUNDS: AttrSpec =
    AttrSpec { name: "rounds", kind: AttrKind::Int, required: false, doc: "rounds at most" };
/// Added to sums before they divide.
pub const EPS: f64 = 1e-8;
/// Iteration ends when the experts' factors move by less than this on average.
pub const TOLERANCE: f64 = 1e-4;
/// The most iterations; kernels need a bound, and logits of a router reach the tolerance long before.
pub const ITERATIONS: usize = 256;

impl OpDef for Sinkhorn {
    frame! {
        sinkhorn(logits) -> (scores),
        "Per group, with c = exp(logits) [token, experts], a = 1 and b = 1: repeat `a = 1 / (tokens · (Σ_experts b·c + 1e-8))`, `b = 1 / (experts · (Σ_tokens a·c + 1e-8))` until the mean of |b - b before| is at most 1e-4, 256 times at most; gives a·b·c. With `rounds`, b begins as 1 / (experts · Σ_tokens c), and it ends after so many rounds, or after the first one that moves b by *more* than 1e-4, as GPT-NeoX's does. It only serves to choose experts.",
        class Special,
        precision EXACT,
        attrs &[ROUNDS],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let x = &cx.operands[0];
        if !x.dims.iter().map(|d| &*d.name).eq(["group", "token", "experts"]) {
            return Err(OpError::new(format!("{x} is not logits of a router")));
        }
        Ok(vec![x.clone()])
    }
    no_gradient!("its result only chooses experts");
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
        let rounds = match cx.rule.attrs.get(ROUNDS.name) {
            Some(_) => Some(cx.rule.size(ROUNDS.name)?),
            None => None,
        };
        let mut out = x.clone();
        for group in out.data.chunks_mut(tokens * experts) {
            let c: Vec<f64> = group.iter().map(|x| x.exp()).collect();
            let (mut a, mut b) = (vec![1.0; tokens], vec![1.0; experts]);
            if rounds.is_some() {
                for (e, b) in b.iter_mut().enumerate() {
                    let sum: f64 = (0..tokens).map(|t| c[t * experts + e]).sum();
                    *b = 1.0 / (experts as f64 * sum);
                }
            }
            for _ in 0..rounds.unwrap_or(ITERATIONS) {
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
                let settled = error <= TOLERANCE;
                if settled == rounds.is_none() {
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

#[cfg(test)]
mod tests {
    use crate::eval::{Tensor, run};
    use crate::{Attr, Attrs, Builder, Function, Module, OpKind, TensorType};

    /// What NumPy makes of the two formulas, GPT-NeoX's of its main branch and the one before.
    #[test]
    fn rounds_are_those_of_gpt_neox() {
        let logits = [0.5, -1.0, 2.0, 1.5, 0.25, -0.5, -0.75, 0.0, 1.0, 2.0, 1.0, 0.5];
        // One round: it moves b by more than the tolerance.
        let rounds = [
            0.0415493716,
            0.0217804763,
            0.1743982023,
            0.1455301637,
            0.0979556635,
            0.0184459011,
            0.0212189206,
            0.1055331215,
            0.1143600804,
            0.1250348773,
            0.1080640714,
            0.0261291493,
        ];
        let settled = [
            0.0466733801,
            0.0239605943,
            0.1793544259,
            0.1408328071,
            0.0928337274,
            0.0163424059,
            0.0231372022,
            0.11269425,
            0.1141635083,
            0.1226899354,
            0.1038447419,
            0.0234729858,
        ];
        for (attrs, want) in
            [(Attrs::new().with("rounds", Attr::Int(3)), rounds), (Attrs::new(), settled)]
        {
            let ty = TensorType::f32(&[("group", 1), ("token", 4), ("experts", 3)]);
            let mut f = Function::new("f");
            let x = f.add_param("x", ty.clone(), Attrs::new());
            f.results = vec![Builder::new(&mut f).one(OpKind::Sinkhorn, &[x], attrs).unwrap()];
            let mut m = Module::new();
            m.insert(f);
            let got = run(&m, "f", &[Tensor::new(ty, logits.to_vec())]).unwrap();
            for (got, want) in got[0].data.iter().zip(want) {
                assert!((got - want).abs() < 1e-9, "{got} {want}");
            }
        }
    }
}
