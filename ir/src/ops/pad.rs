//! `neox.pad`.

use super::prelude::*;

/// The op of this file.
pub struct Pad;

impl OpDef for Pad {
    frame! {
        pad(x) -> (y),
        "`x` with `before` zeros in front and `after` zeros at the end along `dim`.",
        class Movement,
        precision SAME,
        attrs &[
            required("dim", AttrKind::Str, "the dim"),
            required("before", AttrKind::Int, "zeros in front"),
            required("after", AttrKind::Int, "zeros at the end"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let dim = cx.str("dim")?;
        let mut ty = cx.operands[0].clone();
        let p = ty.position(dim).ok_or_else(|| OpError::new(format!("{ty} has no dim `{dim}`")))?;
        for which in ["before", "after"] {
            let n = usize::try_from(cx.int(which)?)
                .map_err(|_| OpError::new(format!("`{which}` is negative")))?;
            ty.dims[p].size = ty.dims[p]
                .size
                .checked_add(n)
                .filter(|n| *n < 1 << 48)
                .ok_or_else(|| OpError::new("pads to an impossible size"))?;
        }
        Ok(vec![ty])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let dim = cx.op.attrs.str("dim").unwrap_or_default().to_string();
        let size = cx.b.ty(cx.operand(0)).size(&dim).unwrap_or(0) as i64;
        let attrs = Attrs::new()
            .with("dim", Attr::Str(dim))
            .with("start", Attr::Int(cx.op.attrs.int("before").unwrap_or(0)))
            .with("size", Attr::Int(size));
        let dx = cx.b.one(OpKind::Slice, &[dy], attrs)?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::whole_along(cx, "dim").sums(Sums::Together)
    }

    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let ty = cx.rule.results[0].clone();
        let x = cx.operands[0];
        let p = ty.position(cx.rule.str("dim")?).ok_or_else(|| OpError::new("dim is missing"))?;
        let before = cx.rule.int("before")? as usize;
        let size = x.ty.dims[p].size;
        let mut at = vec![0; ty.dims.len()];
        Ok(vec![Tensor::from_fn(ty, |i| {
            at.copy_from_slice(i);
            if i[p] < before || i[p] >= before + size {
                return 0.0;
            }
            at[p] -= before;
            x.at(&at)
        })])
    }
    primitive!();
}
