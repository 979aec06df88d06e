//! Attention of a layer: one projection to queries, keys and values, rotary positions, causal attention written
//! out, and the projection back.

use neoxc_ir::ops::causal_mask::WINDOW;
use neoxc_ir::{Attr, Attrs, Builder, OpKind, TensorType, ValueId};

use super::transformer::Layer;
use super::{Result, linear, norms};
use crate::arch::Arch;

/// Keys and values of the tokens before the one in the stream, and how many there are.
#[derive(Debug, Clone, Copy)]
pub struct Past {
    /// [batch, heads, past, head_dim].
    pub keys: ValueId,
    /// [batch, heads, past, head_dim].
    pub values: ValueId,
    /// [seq = 1].
    pub count: ValueId,
}

/// The keys, or the values, of a layer that are kept of a sequence: [batch, heads, past, head_dim].
pub fn kept(a: &Arch) -> TensorType {
    let dims = [("batch", 1), ("heads", a.key_heads()), ("past", a.seq), ("head_dim", a.head_dim)];
    TensorType::f32(&dims)
}

/// Causal attention, written out: `drop(softmax(mask(q kᵀ · scale))) v`, where a token sees itself and those before it, or
/// the last `window` of them.
///
/// `k`, `v`: `[batch, heads, seq, head_dim]`; `q` likewise, and the result `[batch, seq, heads, head_dim]`; where
/// several queries share a key, both have a dim `queries` behind `heads`.
pub fn attention(
    b: &mut Builder<'_>,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    (scale, window): (f64, Option<usize>),
    drop: impl FnOnce(&mut Builder<'_>, ValueId) -> Result<ValueId>,
) -> Result<ValueId> {
    let to_kv =
        Attrs::new().with("from", Attr::Str("seq".into())).with("to", Attr::Str("kv_seq".into()));
    let k = b.one(OpKind::Rename, &[k], to_kv.clone())?;
    let v = b.one(OpKind::Rename, &[v], to_kv)?;
    let scores = b.matmul(q, k, &["head_dim"])?;
    let scale = b.scalar(scale)?;
    let scaled = b.mul(scores, scale)?;
    let mut mask = Attrs::new()
        .with("query", Attr::Str("seq".into()))
        .with("key", Attr::Str("kv_seq".into()))
        .with("value", Attr::Float(-1e30));
    if let Some(window) = window {
        mask.set(WINDOW.name, Attr::Int(window as i64));
    }
    let masked = b.one(OpKind::CausalMask, &[scaled], mask)?;
    let dim = Attrs::new().with("dim", Attr::Str("kv_seq".into()));
    let weights = b.one(OpKind::Softmax, &[masked], dim)?;
    let weights = drop(b, weights)?;
    let mixed = b.matmul(weights, v, &["kv_seq"])?;
    match b.ty(mixed).has("queries") {
        true => b.transpose_to(mixed, &["batch", "seq", "heads", "queries", "head_dim"]),
        false => b.transpose_to(mixed, &["batch", "seq", "heads", "head_dim"]),
    }
}

/// Queries or keys [batch, heads, .., seq, head_dim], normalised where there is a weight: over the dims of each head
/// (`weight`: [head_dim]), or of all heads.
fn normal(a: &Arch, b: &mut Builder<'_>, x: ValueId, weight: Option<ValueId>) -> Result<ValueId> {
    let Some(weight) = weight else { return Ok(x) };
    b.at(&a.loc("qk_norm"));
    let weight = norms::weight_of(a, b, weight)?;
    let names = |b: &Builder<'_>, v| -> Vec<String> {
        b.ty(v).dims.iter().map(|d| d.name.to_string()).collect()
    };
    let (over, order) = (names(b, weight), names(b, x));
    let over: Vec<&str> = over.iter().map(String::as_str).collect();
    if over == ["head_dim"] {
        return norms::rms_norm(b, x, weight, &over, a.eps);
    }
    // Kernels of sums want the dims that are summed together.
    let together = b.transpose_to(x, &[&["batch", "seq"], &over[..]].concat())?;
    let y = norms::rms_norm(b, together, weight, &over, a.eps)?;
    b.transpose_to(y, &order.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The attention branch of layer `l` on normalised `x` [batch, seq, embed], with the parameters whose roles begin with
/// `attention.`: its output, its keys and its values.
pub fn branch(
    a: &Arch,
    b: &mut Builder<'_>,
    l: &Layer<'_>,
    x: ValueId,
) -> Result<(ValueId, [ValueId; 2])> {
    let p = l.parameters;
    b.at(&a.loc("num_attention_heads"));
    let weight = p.need("attention.qkv.weight")?;
    let qkv = linear(b, x, weight, p.get("attention.qkv.bias"), &["embed"])?;
    let split = b.op(OpKind::QkvSplit, &[qkv], Attrs::new())?;
    let (mut q, mut k, v) = (split[0], split[1], split[2]);
    q = normal(a, b, q, p.get("attention.q_norm.weight"))?;
    k = normal(a, b, k, p.get("attention.k_norm.weight"))?;
    if let [cos, sin] = *l.tables {
        b.at(&a.loc("rotary_pct"));
        q = b.one(OpKind::Rotary, &[q, cos, sin], Attrs::new())?;
        k = b.one(OpKind::Rotary, &[k, cos, sin], Attrs::new())?;
    }
    b.at(&a.loc("num_attention_heads"));
    let scale = a.score_scale();
    let window = a.window_of(l.kind);
    let mixed = match l.past {
        Some(Past { keys, values, count }) => {
            let mut attrs = Attrs::new().with("scale", Attr::Float(scale));
            if let Some(window) = window {
                attrs.set(WINDOW.name, Attr::Int(window as i64));
            }
            b.one(OpKind::CachedAttention, &[q, k, v, *keys, *values, *count], attrs)?
        }
        None => attention(b, q, k, v, (scale, window), |b, weights| match l.names {
            Some(names) => {
                let dropped = names.weights(a, b, weights);
                b.at(&a.loc("num_attention_heads"));
                dropped
            }
            None => Ok(weights),
        })?,
    };
    let weight = p.need("attention.out.weight")?;
    let bias = p.get("attention.out.bias");
    let contract = match a.queries() {
        1 => &["heads", "head_dim"][..],
        _ => &["heads", "queries", "head_dim"],
    };
    Ok((linear(b, mixed, weight, bias, contract)?, [k, v]))
}
