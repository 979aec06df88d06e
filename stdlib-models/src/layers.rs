//! Building blocks shared by model families, in plain ops.

use neoxc_ir::op::OpError;
use neoxc_ir::{Attr, Attrs, Builder, ValueId};

type Result<T> = std::result::Result<T, OpError>;

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
    let rstd = b.unary("rsqrt", shifted)?;
    let normal = b.mul(centred, rstd)?;
    let scaled = b.mul(normal, weight)?;
    match bias {
        Some(bias) => b.add(scaled, bias),
        None => Ok(scaled),
    }
}

/// Causal attention, written out: `drop(softmax(mask(q kᵀ · scale))) v`.
///
/// `q`, `k`, `v`: `[batch, heads, seq, head_dim]`; result: `[batch, seq, heads, head_dim]`.
pub fn attention(
    b: &mut Builder<'_>,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    scale: f64,
    drop: impl FnOnce(&mut Builder<'_>, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    let to_kv =
        Attrs::new().with("from", Attr::Str("seq".into())).with("to", Attr::Str("kv_seq".into()));
    let k = b.one("rename", &[k], to_kv.clone())?;
    let v = b.one("rename", &[v], to_kv)?;
    let scores = b.matmul(q, k, &["head_dim"])?;
    let scale = b.scalar(scale)?;
    let scaled = b.mul(scores, scale)?;
    let mask = Attrs::new()
        .with("query", Attr::Str("seq".into()))
        .with("key", Attr::Str("kv_seq".into()))
        .with("value", Attr::Float(-1e30));
    let masked = b.one("causal_mask", &[scaled], mask)?;
    let dim = Attrs::new().with("dim", Attr::Str("kv_seq".into()));
    let weights = b.one("softmax", &[masked], dim)?;
    let weights = drop(b, weights)?;
    let mixed = b.matmul(weights, v, &["kv_seq"])?;
    b.transpose_to(mixed, &["batch", "seq", "heads", "head_dim"])
}

/// `x · weightᵀ + bias`, contracted over `contract`.
pub fn linear(
    b: &mut Builder<'_>,
    x: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
    contract: &[&str],
) -> Result<ValueId> {
    let y = b.matmul(x, weight, contract)?;
    match bias {
        Some(bias) => b.add(y, bias),
        None => Ok(y),
    }
}

/// GELU, in its tanh form or exact.
pub fn gelu(b: &mut Builder<'_>, x: ValueId, tanh: bool) -> Result<ValueId> {
    let form = if tanh { "tanh" } else { "none" };
    b.one("gelu", &[x], Attrs::new().with("approximate", Attr::Str(form.into())))
}
