//! `neox.adamw`: AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101).

use super::prelude::*;

/// The op of this file.
pub struct AdamW;

impl OpDef for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn doc(&self) -> &'static str {
        "With g' = g·clip: m' = β₁m + (1-β₁)g'; v' = β₂v + (1-β₂)g'²; p' = p - lr·λ·p - lr·(m'/bc1)/(√(v'/bc2) + ε). bc1 = 1-β₁ᵗ and bc2 = 1-β₂ᵗ come from outside."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[
                ("p", Arity::One),
                ("g", Arity::One),
                ("m", Arity::One),
                ("v", Arity::One),
                ("lr", Arity::One),
                ("bc1", Arity::One),
                ("bc2", Arity::One),
                ("clip", Arity::One),
            ],
            results: &[("p_new", Arity::One), ("m_new", Arity::One), ("v_new", Arity::One)],
            attrs: const {
                &[
                    required("beta1", AttrKind::Float, "β₁"),
                    required("beta2", AttrKind::Float, "β₂"),
                    required("eps", AttrKind::Float, "ε"),
                    required("weight_decay", AttrKind::Float, "λ"),
                ]
            },
        }
    }
    fn class(&self) -> Class {
        Class::Special
    }
    fn precision(&self) -> Precision {
        Precision::EXACT
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let p = &cx.operands[0];
        if cx.operands[1..4].iter().any(|t| t != p) {
            return Err(OpError::new("p, g, m and v must have one type"));
        }
        if cx.operands[4..].iter().any(|t| !t.dims.is_empty()) {
            return Err(OpError::new("lr, bc1, bc2 and clip must be scalars"));
        }
        Ok(vec![p.clone(), p.clone(), p.clone()])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::None("it belongs to the optimizer"))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 18.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let at = |name| cx.rule.float(name);
        let (b1, b2, eps, wd) = (at("beta1")?, at("beta2")?, at("eps")?, at("weight_decay")?);
        let scalar = |i: usize| cx.operands[i].data[0];
        let (lr, bc1, bc2, clip) = (scalar(4), scalar(5), scalar(6), scalar(7));
        let mut out: Vec<Tensor> = [0, 2, 3].iter().map(|i| cx.operands[*i].clone()).collect();
        for i in 0..out[0].data.len() {
            let g = cx.operands[1].data[i] * clip;
            let m = b1 * cx.operands[2].data[i] + (1.0 - b1) * g;
            let v = b2 * cx.operands[3].data[i] + (1.0 - b2) * g * g;
            let p = cx.operands[0].data[i];
            out[0].data[i] = p - lr * wd * p - lr * (m / bc1) / ((v / bc2).sqrt() + eps);
            out[1].data[i] = m;
            out[2].data[i] = v;
        }
        Ok(out)
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let [p, g, m, v, lr, bc1, bc2, clip] = operands[..] else {
            return Err(OpError::new("takes eight operands"));
        };
        let at = |name| attrs.float(name).ok_or_else(|| OpError::new("attribute is missing"));
        let (b1, b2, eps, wd) = (at("beta1")?, at("beta2")?, at("eps")?, at("weight_decay")?);
        let g = b.mul(g, clip)?;
        let decayed_mean = |b: &mut Builder<'_>, old, new, beta: f64| {
            let (keep, take) = (b.scalar(beta)?, b.scalar(1.0 - beta)?);
            let old = b.mul(old, keep)?;
            let new = b.mul(new, take)?;
            b.add(old, new)
        };
        let m = decayed_mean(b, m, g, b1)?;
        let g2 = b.mul(g, g)?;
        let v = decayed_mean(b, v, g2, b2)?;
        let vh = b.div(v, bc2)?;
        let root = b.unary("sqrt", vh)?;
        let eps = b.scalar(eps)?;
        let root = b.add(root, eps)?;
        let mh = b.div(m, bc1)?;
        let update = b.div(mh, root)?;
        let wd = b.scalar(wd)?;
        let decay = b.mul(p, wd)?;
        let total = b.add(decay, update)?;
        let total = b.mul(total, lr)?;
        Ok(Decomposition::Values(vec![b.sub(p, total)?, m, v]))
    }
}
