//! `neox.rotary`: rotary position embedding, half rotation (GPT-NeoX's form).

use super::prelude::*;

/// The op of this file.
pub struct Rotary;

impl OpDef for Rotary {
    frame! {
        rotary(x, cos, sin) -> (y),
        "Of the first 2h elements of `head_dim` (h = size of `rot`): `y₁ = x₁·cos - x₂·sin`, `y₂ = x₂·cos + x₁·sin` with x₁ the first h and x₂ the next h; the rest passes.",
        class Special,
        precision (Same, Exact, Exact) -> (Same),
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let x = &cx.operands[0];
        let (seq, half) = match (x.size("seq"), cx.operands[1].size("rot")) {
            (Some(s), Some(h)) => (s, h),
            _ => return Err(OpError::new("needs `seq` in x and `rot` in the tables")),
        };
        let table =
            TensorType::new(x.dtype.wide(), vec![Dim::new("seq", seq), Dim::new("rot", half)]);
        let fits = x.dims.last().is_some_and(|d| &*d.name == "head_dim" && d.size >= 2 * half);
        if !fits || cx.operands[1] != table || cx.operands[2] != table {
            return Err(OpError::new(format!("tables must be {table}, x must end in `head_dim`")));
        }
        Ok(vec![x.clone()])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let (cos, sin) = (cx.operand(1), cx.operand(2));
        let back = cx.b.unary(OpKind::Neg, sin)?;
        let dx = cx.b.one(OpKind::Rotary, &[dy, cos, back], Attrs::new())?;
        Ok(Gradient::Operands(vec![Some(dx), None, None]))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::by_dim(cx, |dim| match dim {
            "head_dim" | "rot" => ShardEffect::Whole,
            _ => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 3.0 * cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, cos, sin) = (cx.operands[0], cx.operands[1], cx.operands[2]);
        let ty = x.ty.clone();
        let half = cos.ty.dims[1].size;
        let s = ty.position("seq").ok_or_else(|| OpError::new("x has no `seq`"))?;
        let last = ty.dims.len() - 1;
        let mut other = vec![0; ty.dims.len()];
        Ok(vec![Tensor::from_fn(ty, |i| {
            let d = i[last];
            if d >= 2 * half {
                return x.at(i);
            }
            other.copy_from_slice(i);
            let (c, sn) = (cos.at(&[i[s], d % half]), sin.at(&[i[s], d % half]));
            if d < half {
                other[last] = d + half;
                x.at(i) * c - x.at(&other) * sn
            } else {
                other[last] = d - half;
                x.at(i) * c + x.at(&other) * sn
            }
        })])
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let (dtype, x) = (b.ty(operands[0]).dtype, b.widened(operands[0])?);
        let (cos, sin) = (operands[1], operands[2]);
        let half = b.ty(cos).dims[1].size;
        let width = b.ty(x).size("head_dim").unwrap_or(0);
        // The halves get the tables' dim name, so that they broadcast against them.
        let part = |b: &mut Builder<'_>, start: usize| {
            let attrs = Attrs::new()
                .with("dim", Attr::Str("head_dim".into()))
                .with("start", Attr::Int(start as i64))
                .with("size", Attr::Int(half as i64));
            let p = b.one(OpKind::Slice, &[x], attrs)?;
            let rename = Attrs::new()
                .with("from", Attr::Str("head_dim".into()))
                .with("to", Attr::Str("rot".into()));
            b.one(OpKind::Rename, &[p], rename)
        };
        let (x1, x2) = (part(b, 0)?, part(b, half)?);
        let (a, c) = (b.mul(x1, cos)?, b.mul(x2, sin)?);
        let y1 = b.sub(a, c)?;
        let (a, c) = (b.mul(x2, cos)?, b.mul(x1, sin)?);
        let y2 = b.add(a, c)?;
        let place = |b: &mut Builder<'_>, y: ValueId, before: usize| {
            let rename = Attrs::new()
                .with("from", Attr::Str("rot".into()))
                .with("to", Attr::Str("head_dim".into()));
            let y = b.one(OpKind::Rename, &[y], rename)?;
            let attrs = Attrs::new()
                .with("dim", Attr::Str("head_dim".into()))
                .with("before", Attr::Int(before as i64))
                .with("after", Attr::Int((width - before - half) as i64));
            b.one(OpKind::Pad, &[y], attrs)
        };
        let (p1, p2) = (place(b, y1, 0)?, place(b, y2, half)?);
        let mut y = b.add(p1, p2)?;
        if width > 2 * half {
            let attrs = Attrs::new()
                .with("dim", Attr::Str("head_dim".into()))
                .with("start", Attr::Int(2 * half as i64))
                .with("size", Attr::Int((width - 2 * half) as i64));
            let rest = b.one(OpKind::Slice, &[x], attrs)?;
            let attrs = Attrs::new()
                .with("dim", Attr::Str("head_dim".into()))
                .with("before", Attr::Int(2 * half as i64))
                .with("after", Attr::Int(0));
            let rest = b.one(OpKind::Pad, &[rest], attrs)?;
            y = b.add(y, rest)?;
        }
        Ok(Decomposition::Values(vec![b.cast(y, dtype)?]))
    }
}
