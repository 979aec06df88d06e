//! What layer norm and RMS norm share: the type of their weights, what their gradients read and divide, and the
//! runs of rows in which gradients of weights may be summed.

use super::prelude::*;
use super::sum_runs::{ROWS, run_type};

/// The type of a norm's weight and bias: one element for each along `dim` of `x`.
pub fn weight(x: &TensorType, dim: &str) -> Result<TensorType, OpError> {
    let size = x.size(dim).ok_or_else(|| OpError::new(format!("{x} has no dim `{dim}`")))?;
    Ok(TensorType::new(x.dtype, vec![Dim::new(dim, size)]))
}

/// The attributes that a norm hands to its gradient: the dim.
pub fn dim_of(op: &crate::module::Op) -> Attrs {
    let dim = op.attrs.str("dim").unwrap_or_default();
    Attrs::new().with("dim", Attr::Str(dim.to_string()))
}

/// The type of the gradient of a weight: `weight` summed over all rows of `x`, or the sums of runs of rows.
pub fn gradient_of(
    cx: &RuleCx<'_>,
    x: &TensorType,
    weight: TensorType,
) -> Result<TensorType, OpError> {
    match cx.attrs.get(ROWS.name) {
        Some(_) => run_type(x, cx.str("dim")?, cx.size(ROWS.name)?),
        None => Ok(weight),
    }
}

/// How many of `rows` rows the gradient of a weight sums into one: a run, or all.
pub fn run(cx: &RuleCx<'_>, rows: usize) -> Result<usize, OpError> {
    match cx.attrs.get(ROWS.name) {
        Some(_) => cx.size(ROWS.name),
        None => Ok(rows.max(1)),
    }
}

/// How ranks divide the gradient of a norm: any dim but its own, and none in runs, which are counted over all rows.
pub fn gradient_sharding(cx: &RuleCx<'_>) -> ShardRule {
    match cx.attrs.get(ROWS.name) {
        Some(_) => ShardRule::whole(cx),
        None => ShardRule::whole_along(cx, "dim"),
    }
}
