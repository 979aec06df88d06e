//! `neox.sum_runs`: sums of runs of rows, which a kernel's tasks can make each on its own.

use super::prelude::*;
use super::rows::rows;

/// The op of this file.
pub struct SumRuns;

/// The attribute of an op that can sum rows in runs: with it, each result that is a sum over all rows becomes the sums of
/// runs of so many rows, with the leading dim `run`.
pub const ROWS: AttrSpec =
    AttrSpec { name: "rows", kind: AttrKind::Int, required: false, doc: "rows of a run" };

/// Whether `op`, given [`ROWS`], sums rows in runs.
pub fn can_sum_runs(op: OpKind) -> bool {
    op.def().signature().attrs.contains(&ROWS)
}

/// What becomes of `x` summed over rows: sums of all rows, ordered as `like`, or of runs where `attrs` has [`ROWS`].
pub(super) fn sums(
    b: &mut Builder<'_>,
    x: ValueId,
    like: ValueId,
    attrs: &Attrs,
) -> Result<ValueId, OpError> {
    match attrs.int(ROWS.name) {
        Some(rows) => {
            let dim = attrs.str("dim").unwrap_or_default();
            let runs = Attrs::new().with("dim", Attr::Str(dim.into()));
            b.one(OpKind::SumRuns, &[x], runs.with(ROWS.name, Attr::Int(rows)))
        }
        None => {
            let ty = b.ty(like).clone();
            b.sum_to(x, &ty)
        }
    }
}

/// The sums of runs of `rows` rows along `dim` of `x`: the last run may be shorter.
pub(super) fn run_type(x: &TensorType, dim: &str, rows: usize) -> Result<TensorType, OpError> {
    let Some(width) = x.size(dim) else {
        return Err(OpError::new(format!("{x} has no dim `{dim}`")));
    };
    if x.has("run") {
        return Err(OpError::new(format!("{x} has runs already")));
    }
    let runs = (x.elements() / width.max(1)).div_ceil(rows);
    Ok(TensorType::new(x.dtype.wide(), vec![Dim::new("run", runs), Dim::new(dim, width)]))
}

impl OpDef for SumRuns {
    frame! {
        sum_runs(x) -> (sums),
        "x as rows along `dim`, in their order: the sum of each run of `rows` of them. The last run may be shorter.",
        class Special,
        precision WIDE,
        attrs &[
            required("dim", AttrKind::Str, "the dim along which rows lie"),
            required("rows", AttrKind::Int, "rows of a run"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        Ok(vec![run_type(&cx.operands[0], cx.str("dim")?, cx.size("rows")?)?])
    }
    no_gradient!("it belongs to gradients of norms");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let along = cx.attrs.str("dim").unwrap_or_default();
        // Runs are counted over all rows.
        ShardRule::by_dim(cx, |dim| match dim == along {
            true => ShardEffect::Parallel,
            false => ShardEffect::Whole,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, run) = (cx.operands[0], cx.rule.size("rows")?);
        let (bases, at) = rows(&x.ty, cx.rule.str("dim")?)?;
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        for (row, base) in bases.into_iter().enumerate() {
            for (i, o) in at.iter().enumerate() {
                out.data[row / run * at.len() + i] += x.data[base + o];
            }
        }
        Ok(vec![out])
    }
    primitive!();
}
