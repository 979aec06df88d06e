//! `neox.slice`.

use super::prelude::*;

/// The op of this file.
pub struct Slice;

impl OpDef for Slice {
    frame! {
        slice(x) -> (y),
        "Elements `start .. start + size` along `dim`.",
        class Movement,
        precision SAME,
        attrs &[
            required("dim", AttrKind::Str, "the dim"),
            required("start", AttrKind::Int, "first element"),
            required("size", AttrKind::Int, "number of elements"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (dim, size) = (cx.str("dim")?, cx.size("size")?);
        let mut ty = cx.operands[0].clone();
        let p = ty.position(dim).ok_or_else(|| OpError::new(format!("{ty} has no dim `{dim}`")))?;
        let start = usize::try_from(cx.int("start")?).unwrap_or(usize::MAX);
        if start.checked_add(size).is_none_or(|end| end > ty.dims[p].size) {
            return Err(OpError::new(format!("slice {start}+{size} leaves {ty}")));
        }
        ty.dims[p].size = size;
        Ok(vec![ty])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let rule = &cx.op.attrs;
        let dim = rule.str("dim").unwrap_or_default().to_string();
        let (start, size) = (rule.int("start").unwrap_or(0), rule.int("size").unwrap_or(0));
        let whole = cx.b.ty(cx.operand(0)).size(&dim).unwrap_or(0) as i64;
        let attrs = Attrs::new()
            .with("dim", Attr::Str(dim))
            .with("before", Attr::Int(start))
            .with("after", Attr::Int(whole - start - size));
        let dx = cx.b.one(OpKind::Pad, &[dy], attrs)?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::whole_along(cx, "dim").sums(Sums::Together)
    }

    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost { flops: 0.0, bytes: 2.0 * cx.results[0].bytes() as f64 }
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let ty = cx.rule.results[0].clone();
        let p = ty.position(cx.rule.str("dim")?).ok_or_else(|| OpError::new("dim is missing"))?;
        let start = cx.rule.int("start")? as usize;
        let mut at = vec![0; ty.dims.len()];
        Ok(vec![Tensor::from_fn(ty, |i| {
            at.copy_from_slice(i);
            at[p] += start;
            cx.operands[0].at(&at)
        })])
    }
    primitive!();
}
