//! `neox.softmax`.

use super::prelude::*;

/// The op of this file.
pub struct Softmax;

impl OpDef for Softmax {
    frame! {
        softmax(x) -> (y),
        "`exp(x - max) / Σ exp(x - max)` over `dim`.",
        class Special,
        precision EXACT,
        attrs &[required("dim", AttrKind::Str, "the dim that sums to 1")],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let dim = cx.str("dim")?;
        if !cx.operands[0].has(dim) {
            return Err(OpError::new(format!("{} has no dim `{dim}`", cx.operands[0])));
        }
        Ok(vec![cx.operands[0].clone()])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let y = cx.result(0);
        let dim = cx.op.attrs.str("dim").unwrap_or_default().to_string();
        let product = cx.b.mul(y, dy)?;
        let sum = cx.b.reduce_sum(product, &[&dim])?;
        let centred = cx.b.sub(dy, sum)?;
        let dx = cx.b.mul(y, centred)?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::whole_along(cx, "dim")
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        super::pointwise::cost(cx, 18.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.operands[0];
        let (rows, at) = super::rows::rows(&x.ty, cx.rule.str("dim")?)?;
        let mut out = x.clone();
        for base in rows {
            let row: Vec<usize> = at.iter().map(|o| base + o).collect();
            let max = row.iter().map(|i| x.data[*i]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|i| (x.data[*i] - max).exp()).sum();
            row.iter().for_each(|i| out.data[*i] = (x.data[*i] - max).exp() / sum);
        }
        Ok(vec![out])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let dim = attrs.str("dim").unwrap_or_default();
        let x = operands[0];
        let max = b.one(OpKind::ReduceMax, &[x], Attrs::new().with("dims", Attr::strs(&[dim])))?;
        let centred = b.sub(x, max)?;
        let e = b.unary(OpKind::Exp, centred)?;
        let sum = b.reduce_sum(e, &[dim])?;
        Ok(Decomposition::Values(vec![b.div(e, sum)?]))
    }
}
