//! `neox.gather`: rows of a table (an embedding).

use super::part::{self, own};
use super::prelude::*;

/// The op of this file.
pub struct Gather;

impl OpDef for Gather {
    frame! {
        gather(table, ids, part: Optional) -> (y),
        "Row `ids[i]` of `table`, whose first dim is indexed: [rows, rest..] and [idx..] give [idx.., rest..]. A table that is part `part` of a larger one gives zeros for rows of other parts.",
        class Special,
        // A table has many more rows than are looked up: these are rounded, if they are, and not the table.
        precision (Stored) -> (Stored),
        attrs &[],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (table, ids) = (&cx.operands[0], &cx.operands[1]);
        if table.dims.is_empty() || ids.dtype != DType::I32 {
            return Err(OpError::new("needs a table with rows and i32 ids"));
        }
        part::check(cx, 2)?;
        let dims = [&ids.dims[..], &table.dims[1..]].concat();
        Ok(vec![TensorType::new(table.dtype, dims)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let mut operands = vec![cx.operand(1), dy];
        operands.extend(cx.op.operands.get(2));
        let rows = cx.b.ty(cx.operand(0)).dims[0].clone();
        let attrs = Attrs::new()
            .with("dim", Attr::Str(rows.name.to_string()))
            .with("size", Attr::Int(rows.size as i64));
        let dt = cx.b.one(OpKind::ScatterAdd, &operands, attrs)?;
        let mut grads = vec![None; cx.op.operands.len()];
        grads[0] = Some(dt);
        Ok(Gradient::Operands(grads))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let rows = cx.operands[0].dims[0].name.clone();
        ShardRule::by_dim(cx, |dim| match *dim == *rows {
            true => ShardEffect::Own,
            false => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost {
            flops: 0.0,
            bytes: 2.0 * cx.results[0].bytes() as f64 + cx.operands[1].bytes() as f64,
        }
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (table, ids) = (cx.operands[0], cx.operands[1]);
        let rows = table.ty.dims[0].size;
        let row = table.ty.elements() / rows;
        let mut data = Vec::with_capacity(ids.data.len() * row);
        for id in &ids.data {
            match own(*id, rows, cx.operands.get(2).copied(), "id")? {
                Some(id) => data.extend_from_slice(&table.data[id * row..(id + 1) * row]),
                None => data.extend(std::iter::repeat_n(0.0, row)),
            }
        }
        Ok(vec![Tensor::new(cx.rule.results[0].clone(), data)])
    }
    primitive!();
}
