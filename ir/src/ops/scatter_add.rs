//! `neox.scatter_add`: sums rows by id (gradient of a gather).

use super::part::{self, own};
use super::prelude::*;

/// The op of this file.
pub struct ScatterAdd;

impl OpDef for ScatterAdd {
    frame! {
        scatter_add(ids, updates, part: Optional) -> (y),
        "Adds row i of `updates` into row `ids[i]` of a zero tensor [dim = size, rest..], in the order of i. If that tensor is part `part` of a larger one, rows of other parts are left out.",
        class Special,
        precision (Stored) -> (Exact),
        attrs &[
            required("dim", AttrKind::Str, "name of the rows"),
            required("size", AttrKind::Int, "number of rows"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (ids, updates) = (&cx.operands[0], &cx.operands[1]);
        let n = ids.dims.len();
        if ids.dtype != DType::I32 || updates.dims.len() < n || updates.dims[..n] != ids.dims[..] {
            return Err(OpError::new(format!("{updates} does not start with the dims of {ids}")));
        }
        part::check(cx, 2)?;
        let mut dims = vec![Dim::new(cx.str("dim")?, cx.size("size")?)];
        dims.extend_from_slice(&updates.dims[n..]);
        Ok(vec![TensorType::new(updates.dtype.wide(), dims)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let mut operands = vec![dy, cx.operand(0)];
        operands.extend(cx.op.operands.get(2));
        let du = cx.b.one(OpKind::Gather, &operands, Attrs::new())?;
        let mut grads = vec![None; cx.op.operands.len()];
        grads[1] = Some(du);
        Ok(Gradient::Operands(grads))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let ids = cx.operands[0].clone();
        let rows = cx.attrs.str("dim").unwrap_or_default();
        ShardRule::by_dim(cx, |dim| match ids.has(dim) {
            true => ShardEffect::Partial,
            false if dim == rows => ShardEffect::Own,
            false => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, cx.operands[1].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (ids, updates) = (cx.operands[0], cx.operands[1]);
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        let rows = out.ty.dims[0].size;
        let row = out.ty.elements() / rows;
        for (i, id) in ids.data.iter().enumerate() {
            let Some(id) = own(*id, rows, cx.operands.get(2).copied(), "id")? else { continue };
            for j in 0..row {
                out.data[id * row + j] += updates.data[i * row + j];
            }
        }
        Ok(vec![out])
    }
    primitive!();
}
