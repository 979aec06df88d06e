//! Norms over one dim, written out; rewriting finds the fused forms.

use neoxc_ir::op::OpError;
use neoxc_ir::{Attr, Attrs, Builder, OpKind, ValueId};

use super::Result;
use crate::arch::{Arch, Norm};
use crate::param::Values;

/// `(x - mean) / sqrt(var + eps) * weight + bias` over the dim `dim`, written out.
///
/// `x`: `[.., dim]`; `weight`, `bias`: `[dim]`.
pub fn layer_norm(
    b: &mut Builder<'_>,
    x: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
    dim: &str,
    eps: f64,
) -> Result<ValueId> {
    let n = b.ty(x).size(dim).ok_or_else(|| OpError::new(format!("no dim `{dim}`")))?;
    let inverse = b.scalar(1.0 / n as f64)?;
    let sum = b.reduce_sum(x, &[dim])?;
    let mean = b.mul(sum, inverse)?;
    let centred = b.sub(x, mean)?;
    let square = b.mul(centred, centred)?;
    let sum = b.reduce_sum(square, &[dim])?;
    let variance = b.mul(sum, inverse)?;
    let eps = b.scalar(eps)?;
    let shifted = b.add(variance, eps)?;
    let rstd = b.unary(OpKind::Rsqrt, shifted)?;
    let normal = b.mul(centred, rstd)?;
    let scaled = b.mul(normal, weight)?;
    match bias {
        Some(bias) => b.add(scaled, bias),
        None => Ok(scaled),
    }
}

/// `x / sqrt(mean(x²) + eps) * weight` with the mean over `dims`, written out.
///
/// `x`: `[.., dims ..]`; `weight`: `[dims ..]`.
pub fn rms_norm(
    b: &mut Builder<'_>,
    x: ValueId,
    weight: ValueId,
    dims: &[&str],
    eps: f64,
) -> Result<ValueId> {
    let mut n = 1;
    for dim in dims {
        n *= b.ty(x).size(dim).ok_or_else(|| OpError::new(format!("no dim `{dim}`")))?;
    }
    let inverse = b.scalar(1.0 / n as f64)?;
    let square = b.mul(x, x)?;
    let sum = b.reduce_sum(square, dims)?;
    let mean = b.mul(sum, inverse)?;
    let eps = b.scalar(eps)?;
    let shifted = b.add(mean, eps)?;
    let rstd = b.unary(OpKind::Rsqrt, shifted)?;
    let normal = b.mul(x, rstd)?;
    b.mul(normal, weight)
}

/// `x / max(‖x‖, eps) · gain` over `embed`, in GPT-NeoX's form; `gain`: one number, of any shape.
fn scale_norm(b: &mut Builder<'_>, x: ValueId, gain: ValueId, eps: f64) -> Result<ValueId> {
    let square = b.mul(x, x)?;
    let sum = b.reduce_sum(square, &["embed"])?;
    // The larger one before the root, which has no gradient at 0.
    let least = b.scalar(eps * eps)?;
    let sum = b.one(OpKind::Maximum, &[sum, least], Attrs::new())?;
    let inverse = b.unary(OpKind::Rsqrt, sum)?;
    let normal = b.mul(x, inverse)?;
    let gain = b.reshape(gain, &[])?;
    b.mul(normal, gain)
}

/// What a norm multiplies by: its weight, or 1 plus that (Gemma's form, so that weight decay draws towards 1).
pub fn weight_of(a: &Arch, b: &mut Builder<'_>, weight: ValueId) -> Result<ValueId> {
    if !a.zero_centred {
        return Ok(weight);
    }
    let one = b.scalar(1.0)?;
    b.add(weight, one)
}

/// The architecture's norm of `x` over `embed`, with the parameters whose roles are `{which}.weight` and
/// `{which}.bias`.
pub fn norm(a: &Arch, b: &mut Builder<'_>, p: &Values, x: ValueId, which: &str) -> Result<ValueId> {
    let weight = |p: &Values| p.need(&format!("{which}.weight"));
    match a.norm {
        Norm::RmsNorm => {
            b.at(&a.loc("rms_norm_epsilon"));
            let weight = weight_of(a, b, weight(p)?)?;
            rms_norm(b, x, weight, &["embed"], a.eps)
        }
        Norm::ScaleNorm => {
            b.at(&a.loc("scalenorm_epsilon"));
            scale_norm(b, x, weight(p)?, a.eps)
        }
        Norm::NonParametric => {
            b.at(&a.loc("layernorm_epsilon"));
            // The fused form has a weight.
            let ones = Attrs::new()
                .with("dims", Attr::strs(&["embed"]))
                .with("sizes", Attr::ints(&[a.embed as i64]))
                .with("value", Attr::Float(1.0))
                .with("dtype", Attr::Str("f32".into()));
            let ones = b.one(OpKind::Fill, &[], ones)?;
            layer_norm(b, x, ones, None, "embed", a.eps)
        }
        Norm::LayerNorm => {
            b.at(&a.loc("layernorm_epsilon"));
            let weight = weight_of(a, b, weight(p)?)?;
            layer_norm(b, x, weight, p.get(&format!("{which}.bias")), "embed", a.eps)
        }
    }
}
