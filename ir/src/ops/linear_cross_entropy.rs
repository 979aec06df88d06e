//! `neox.linear_cross_entropy`: head and loss in one, without storing all logits.

use super::part::{self, AXIS, RANKS};
use super::prelude::*;

/// Checks x, w and labels; gives the type of a row value.
pub fn row_type(cx: &RuleCx<'_>) -> Result<TensorType, OpError> {
    let (x, w, labels) = (&cx.operands[0], &cx.operands[1], &cx.operands[2]);
    let rows = x.without("embed").with_dtype(x.dtype.wide());
    // The order matters: gradients have the types of x and w, and kernels read rows of both.
    let fits = w.dims.iter().map(|d| &*d.name).eq(["vocab", "embed"])
        && x.dims.last() == w.dims.last()
        && !x.has("vocab")
        && x.dtype == w.dtype
        && labels.dims == rows.dims
        && labels.dtype == DType::I32;
    if fits { Ok(rows) } else { Err(OpError::new(format!("{x}, {w} and {labels} do not fit"))) }
}

/// The type of the gradient of w: a sum over all rows, in f32 at least.
pub fn weight_gradient(cx: &RuleCx<'_>) -> TensorType {
    cx.operands[1].with_dtype(cx.operands[1].dtype.wide())
}

/// FLOPs of one matmul of x and w.
pub fn matmul_flops(cx: &RuleCx<'_>) -> f64 {
    2.0 * cx.operands[0].elements() as f64 * cx.operands[1].size("vocab").unwrap_or(1) as f64
}

/// The attributes of the cross-entropy inside, which has those of the op.
pub fn over_vocab(attrs: &Attrs) -> Attrs {
    attrs.clone().with("dim", Attr::Str("vocab".into()))
}

/// The attributes of the gradient of the cross-entropy inside.
pub fn grad_over_vocab() -> Attrs {
    Attrs::new().with("dim", Attr::Str("vocab".into()))
}

/// Which dims may be divided: rows are parallel, a rank may have its part of the vocabulary, the width
/// must be whole here.
pub fn shard(cx: &RuleCx<'_>) -> ShardRule {
    ShardRule::by_dim(cx, |dim| match dim {
        "vocab" => ShardEffect::Own,
        "embed" => ShardEffect::Whole,
        _ => ShardEffect::Parallel,
    })
}

/// The op of this file.
pub struct LinearCrossEntropy;

impl OpDef for LinearCrossEntropy {
    frame! {
        linear_cross_entropy(x, w, labels, part: Optional) -> (loss, lse),
        "`cross_entropy(x wᵀ, labels)`: x [.., embed], w [vocab, embed], labels [..]; gives loss and log-sum-exp [..]. Of a w that is part `part` of the vocabulary, each of the `ranks` ranks along `axis` gets both.",
        class Special,
        precision (Low, Low, Exact) -> (Exact),
        attrs &[AXIS, RANKS],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        part::check_meeting(cx, 3)?;
        let row = row_type(cx)?;
        Ok(vec![row.clone(), row])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        if cx.cotangents[1].is_some() {
            return Ok(Gradient::None("the log-sum-exp is only for the backward pass"));
        }
        let dy = cx.dy()?;
        let mut operands = cx.op.operands[..3].to_vec();
        operands.extend([cx.result(1), dy]);
        operands.extend(cx.op.operands.get(3));
        let d = cx.b.op(OpKind::LinearCrossEntropyGrad, &operands, Attrs::new())?;
        let mut grads = vec![None; cx.op.operands.len()];
        grads[..2].copy_from_slice(&[Some(d[0]), Some(d[1])]);
        Ok(Gradient::Operands(grads))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        shard(cx).settled(&[0, 1])
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, matmul_flops(cx))
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        super::decomposed::evaluate(&LinearCrossEntropy, cx)
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let logits = b.matmul(operands[0], operands[1], &["embed"])?;
        let rest = [&[logits], &operands[2..]].concat();
        let out = b.op(OpKind::CrossEntropy, &rest, over_vocab(attrs))?;
        Ok(Decomposition::Values(out))
    }
}
