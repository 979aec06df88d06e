//! `neox.causal_mask`.

use super::prelude::*;

/// The op of this file.
pub struct CausalMask;

impl OpDef for CausalMask {
    fn name(&self) -> &'static str {
        "causal_mask"
    }
    fn doc(&self) -> &'static str {
        "`x` where the position along `key` is at most the position along `query`, else `value`."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[("x", Arity::One)],
            results: &[("y", Arity::One)],
            attrs: const {
                &[
                    required("query", AttrKind::Str, "dim of the queries"),
                    required("key", AttrKind::Str, "dim of the keys"),
                    required("value", AttrKind::Float, "what later keys get"),
                ]
            },
        }
    }
    fn class(&self) -> Class {
        Class::Pointwise
    }
    fn precision(&self) -> Precision {
        Precision::WIDE
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        for which in ["query", "key"] {
            let dim = cx.str(which)?;
            if !cx.operands[0].has(dim) {
                return Err(OpError::new(format!("{} has no dim `{dim}`", cx.operands[0])));
            }
        }
        Ok(vec![cx.operands[0].clone()])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let mut attrs = cx.op.attrs.clone();
        attrs.set("value", Attr::Float(0.0));
        let dx = cx.b.one(OpKind::CausalMask, &[dy], attrs)?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        // A divided sequence needs the rank's offset, which this op does not take.
        let (q, k) = (cx.attrs.str("query"), cx.attrs.str("key"));
        ShardRule::by_dim(cx, |dim| match Some(dim) == q || Some(dim) == k {
            true => ShardEffect::Whole,
            false => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        super::pointwise::cost(cx, 1.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let ty = cx.rule.results[0].clone();
        let find = |name: &str| ty.position(name).ok_or_else(|| OpError::new("dim is missing"));
        let (q, k) = (find(cx.rule.str("query")?)?, find(cx.rule.str("key")?)?);
        let value = cx.rule.float("value")?;
        let x = cx.operands[0];
        Ok(vec![Tensor::from_fn(ty, |i| if i[k] <= i[q] { x.at(i) } else { value })])
    }
    primitive!();
}
