//! `neox.rename`.

use super::prelude::*;

/// The op of this file.
pub struct Rename;

impl OpDef for Rename {
    frame! {
        rename(x) -> (y),
        "`x` with the dim `from` called `to`.",
        class View,
        precision SAME,
        attrs &[
            required("from", AttrKind::Str, "old name"),
            required("to", AttrKind::Str, "new name"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (from, to) = (cx.str("from")?, cx.str("to")?);
        let mut ty = cx.operands[0].clone();
        let p =
            ty.position(from).ok_or_else(|| OpError::new(format!("{ty} has no dim `{from}`")))?;
        if ty.has(to) {
            return Err(OpError::new(format!("{ty} already has a dim `{to}`")));
        }
        ty.dims[p].name = to.into();
        Ok(vec![ty])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let at = |name| Attr::Str(cx.op.attrs.str(name).unwrap_or_default().to_string());
        let attrs = Attrs::new().with("from", at("to")).with("to", at("from"));
        let dx = cx.b.one(OpKind::Rename, &[dy], attrs)?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        // A layout is by name: it does not follow the dim to its new one.
        let names = ["from", "to"].map(|name| cx.attrs.str(name).unwrap_or_default());
        ShardRule::by_dim(cx, |dim| match names.contains(&dim) {
            true => ShardEffect::Whole,
            false => ShardEffect::Parallel,
        })
        .sums(Sums::Together)
    }

    fn cost(&self, _cx: &RuleCx<'_>) -> Cost {
        Cost::free()
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![Tensor::new(cx.rule.results[0].clone(), cx.operands[0].data.clone())])
    }
    primitive!();
}
