//! `neox.grouped_matmul`: rows sorted by expert, each times its expert's matrix.

use super::prelude::*;
use super::routing::{each_row, ranges};

/// The op of this file.
pub struct GroupedMatmul;

/// Positions of the contracted dim and of the other one in a weight [owner, local, two dims].
pub fn sides(w: &TensorType, attrs: &Attrs) -> Result<(usize, usize), OpError> {
    let contract = attrs.str("contract").ok_or_else(|| OpError::new("needs `contract`"))?;
    match (w.dims.len(), w.position(contract)) {
        (4, Some(2)) => Ok((2, 3)),
        (4, Some(3)) => Ok((3, 2)),
        _ => Err(OpError::new(format!("{w} has no matrices with a side `{contract}`"))),
    }
}

impl OpDef for GroupedMatmul {
    frame! {
        grouped_matmul(x, w, starts, counts) -> (y),
        "Each row of x [owner, group, row, contract] times the matrix of the expert that has it, `w` [owner, local, two dims], summed over `contract`; zeros in rows that no expert has; 16-bit operands give f32. Expert e has `counts` rows from `starts` on [owner, group, local]; ranges do not overlap and follow one after the other from row 0 on.",
        class Special,
        precision (Low) -> (Low),
        attrs &[required("contract", AttrKind::Str, "the dim summed over")],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let [x, w, starts, counts] = cx.operands else { return Err(OpError::new("takes four")) };
        let (k, n) = sides(w, cx.attrs)?;
        if x.dims.len() != 4 || x.dims[3] != w.dims[k] || x.dims[0] != w.dims[0] {
            return Err(OpError::new(format!("rows of {x} do not fit the matrices of {w}")));
        }
        if x.dtype != w.dtype || !x.dtype.is_float() {
            return Err(OpError::new(format!("cannot multiply {x} and {w}")));
        }
        ranges(&x.dims[0], &x.dims[1], starts, counts)?;
        if starts.dims[2] != w.dims[1] {
            return Err(OpError::new(format!("{starts} are of other experts than {w}")));
        }
        let dims = [&x.dims[..3], std::slice::from_ref(&w.dims[n])].concat();
        Ok(vec![TensorType::new(x.dtype.wide(), dims)])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let [x, w, starts, counts] = [0, 1, 2, 3].map(|i| cx.operand(i));
        let wt = cx.b.ty(w).clone();
        let (k, n) = sides(&wt, &cx.op.attrs)?;
        let attrs = Attrs::new().with("contract", Attr::Str(wt.dims[n].name.to_string()));
        let dtype = wt.dtype;
        let dy = cx.b.cast(dy, dtype)?;
        let dx = cx.b.one(OpKind::GroupedMatmul, &[dy, w, starts, counts], attrs)?;
        let factors = if k == 3 { [dy, x] } else { [x, dy] };
        let operands = [factors[0], factors[1], starts, counts];
        let dw = cx.b.one(OpKind::GroupedWeight, &operands, Attrs::new())?;
        let (dx, dw) = (cx.b.cast(dx, dtype)?, cx.b.cast(dw, dtype)?);
        Ok(Gradient::Operands(vec![Some(dx), Some(dw), None, None]))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let contract = cx.attrs.str("contract").unwrap_or_default();
        ShardRule::by_dim(cx, |dim| match dim {
            "row" | "local" => ShardEffect::Whole,
            _ if dim == contract => ShardEffect::Partial,
            _ => ShardEffect::Parallel,
        })
        .sums(Sums::Each)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, flops(&cx.operands[0], &cx.results[0]))
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let [x, w, starts, counts] = cx.operands else { return Err(OpError::new("takes four")) };
        let (k, n) = sides(&w.ty, cx.rule.attrs)?;
        let strides = w.ty.strides();
        let (depth, width) = (w.ty.dims[k].size, w.ty.dims[n].size);
        let [groups, rows] = [1, 2].map(|i: usize| x.ty.dims[i].size);
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        each_row(starts, counts, rows, |o, g, e, r| {
            let row = (o * groups + g) * rows + r;
            let matrix = o * strides[0] + e * strides[1];
            for j in 0..width {
                out.data[row * width + j] = (0..depth)
                    .map(|i| {
                        let at = matrix + i * strides[k] + j * strides[n];
                        x.data[row * depth + i] * w.data[at]
                    })
                    .sum();
            }
        })?;
        Ok(vec![out])
    }
    primitive!();
}

/// FLOPs where every choice has a row with one owner: each row counts once, however many owners have
/// room for it.
pub fn flops(x: &TensorType, y: &TensorType) -> f64 {
    let size = |ty: &TensorType, i: usize| ty.dims.get(i).map_or(1, |d| d.size) as f64;
    2.0 * size(x, 1) * size(x, 2) * size(x, 3) * size(y, 3)
}
