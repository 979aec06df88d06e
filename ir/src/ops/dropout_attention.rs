//! `neox.dropout_attention`: causal attention whose weights are dropped after the softmax.

use super::attention::{self, FORM, Form, weigh};
use super::dropout::{ATTRS as DROP, Mask, check_ids};
use super::prelude::*;
use super::qkv_split::QUERIES;

/// The shared attribute list of the op and its gradient.
pub const ATTRS: [AttrSpec; 5] = [DROP[0], DROP[1], DROP[2], FORM[0], FORM[1]];

/// The scores' type, for checking what names their elements.
fn square(q: &TensorType) -> TensorType {
    let mut ty = q.without("head_dim");
    let seq = q.size("seq").unwrap_or(1);
    ty.dims.push(Dim::new("kv_seq", seq));
    ty
}

/// Checks place, layer, column and head of the weights of an attention over `q`.
pub fn check(ids: &[TensorType], q: &TensorType, attrs: &Attrs) -> Result<(), OpError> {
    Mask::of(attrs)?;
    let scores = square(q);
    check_ids(ids, &scores)?;
    let heads: &[&str] = if q.has(QUERIES) { &["heads", QUERIES] } else { &["heads"] };
    let want: [&[&str]; 4] = [&["batch", "seq"], &[], &["kv_seq"], heads];
    let named =
        |t: &TensorType, dims: &[&str]| t.dims.iter().map(|d| &*d.name).eq(dims.iter().copied());
    if ids.len() != want.len() || ids.iter().zip(want).any(|(t, dims)| !named(t, dims)) {
        return Err(OpError::new(format!(
            "place, layer, column and head must be [batch, seq], [], [kv_seq] and [{}]",
            heads.join(", ")
        )));
    }
    Ok(())
}

/// The factor of the weight at each place.
pub fn factors<'a>(
    ids: &'a [&'a Tensor],
    q: &TensorType,
    attrs: &Attrs,
) -> Result<impl Fn(&[usize]) -> f64 + 'a, OpError> {
    let mask = Mask::of(attrs)?;
    let like = square(q);
    let [place, layer, column, head] = ids[..] else {
        return Err(OpError::new("takes place, layer, column and head"));
    };
    Ok(move |index: &[usize]| {
        let row = [place, layer, head].map(|t| t.at_named(&like, index));
        mask.factor(&row, column.at_named(&like, index))
    })
}

/// The op of this file.
pub struct DropoutAttention;

impl OpDef for DropoutAttention {
    frame! {
        dropout_attention(q, k, v, place, layer, column, head) -> (out, lse),
        "`neox.attention` whose weights go through `neox.dropout` between softmax and the matmul with v: place [batch, seq] is of the query, column [kv_seq] of the key. The log-sum-exp is of all scores.",
        class Special,
        precision (Low) -> (Low, Exact),
        attrs &ATTRS,
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        check(&cx.operands[3..], &cx.operands[0], cx.attrs)?;
        Form::of(cx.attrs)?;
        attention::result_types(&cx.operands[..3])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        if cx.cotangents[1].is_some() {
            return Ok(Gradient::None("the log-sum-exp is only for the backward pass"));
        }
        let dy = cx.dy()?;
        let mut operands = cx.op.operands[..3].to_vec();
        operands.extend([cx.result(0), cx.result(1), dy]);
        operands.extend(&cx.op.operands[3..]);
        let d = cx.b.op(OpKind::DropoutAttentionGrad, &operands, cx.op.attrs.clone())?;
        let mut all: Vec<Option<ValueId>> = d.into_iter().map(Some).collect();
        all.resize(7, None);
        Ok(Gradient::Operands(all))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        attention::sharding(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        attention::cost(cx, 4.0, 24.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let factor = factors(&cx.operands[3..], &cx.operands[0].ty, cx.rule.attrs)?;
        weigh(cx, &factor)
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let drop = |b: &mut Builder<'_>, p| drop(b, p, &operands[3..], attrs);
        attention::decompose(b, operands, attrs, drop)
    }
}

/// Drops weights, which have a name for each of their dims, or their gradients.
pub fn drop(
    b: &mut Builder<'_>,
    p: ValueId,
    ids: &[ValueId],
    attrs: &Attrs,
) -> Result<ValueId, OpError> {
    let mut attrs = attrs.clone();
    attrs.0.retain(|name, _| DROP.iter().any(|a| a.name == name));
    b.one(OpKind::Dropout, &[&[p], ids].concat(), attrs)
}
