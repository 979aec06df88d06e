//! Rules shared by pointwise ops: broadcasting by dim name.
//!
//! Of two operands, one must have all dims of the other, in the same relative order; the result has
//! the dims of that larger one. Nothing else is broadcast silently.

use crate::eval::Tensor;
use crate::op::{Cost, EvalCx, OpError, RuleCx};
use crate::types::TensorType;

/// Result type of a pointwise op of any number of operands.
pub fn infer(cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
    let largest = cx
        .operands
        .iter()
        .rev()
        .max_by_key(|t| t.dims.len())
        .ok_or_else(|| OpError::new("needs an operand"))?;
    for t in cx.operands {
        if t.dtype != largest.dtype {
            return Err(OpError::new(format!(
                "mixes {} and {}",
                t.dtype.name(),
                largest.dtype.name()
            )));
        }
        check_broadcast(t, largest)?;
    }
    Ok(vec![largest.clone()])
}

/// Whether `small` broadcasts into `large`.
pub fn check_broadcast(small: &TensorType, large: &TensorType) -> Result<(), OpError> {
    let mut last = None;
    for d in &small.dims {
        let at = large.position(&d.name);
        match at {
            Some(p) if large.dims[p].size == d.size && last.is_none_or(|l| p > l) => last = at,
            _ => return Err(OpError::new(format!("{small} does not broadcast into {large}"))),
        }
    }
    Ok(())
}

/// Evaluates element by element.
pub fn evaluate(cx: &EvalCx<'_>, f: impl Fn(&[f64]) -> f64) -> Result<Vec<Tensor>, OpError> {
    let ty = cx.rule.results[0].clone();
    let mut args = vec![0.0; cx.operands.len()];
    let like = ty.clone();
    Ok(vec![Tensor::from_fn(ty, |index| {
        for (a, t) in args.iter_mut().zip(cx.operands) {
            *a = t.at_named(&like, index);
        }
        f(&args)
    })])
}

/// The larger of two numbers, NaN if either is (IEEE 754-2019 `maximum`; `f64::max` drops NaNs).
pub fn maximum(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// `flops` operations per element of the result.
pub fn cost(cx: &RuleCx<'_>, flops: f64) -> Cost {
    let elements: usize = cx.results.iter().map(TensorType::elements).sum();
    Cost::streaming(cx, flops * elements as f64)
}
