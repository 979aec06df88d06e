//! Norms over one dim, written out; rewriting finds the fused forms.

use neoxc_ir::op::OpError;
use neoxc_ir::{Builder, OpKind, ValueId};

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

/// The architecture's norm of `x` over `embed`, with the parameters whose roles are `{which}.weight` and
/// `{which}.bias`.
pub fn norm(a: &Arch, b: &mut Builder<'_>, p: &Values, x: ValueId, which: &str) -> Result<ValueId> {
    let weight = p.need(&format!("{which}.weight"))?;
    if a.norm == Norm::RmsNorm {
        b.at(&a.loc("rms_norm_epsilon"));
        return rms_norm(b, x, weight, &["embed"], a.eps);
    }
    b.at(&a.loc("layernorm_epsilon"));
    layer_norm(b, x, weight, p.get(&format!("{which}.bias")), "embed", a.eps)
}
