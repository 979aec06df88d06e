//! The operand `part` of ops that look rows up by number: which part of the rows a rank has.
//!
//! Where rows are divided over ranks, all ranks run one program, so that which rows are a rank's own is
//! a value: the number of its part, `i32 [rank = 1]`. Parts are equal; part p of n rows each has the
//! rows p·n up to (p + 1)·n. Without the operand a rank has all rows.

use super::prelude::*;
use super::rows::index;

/// The attributes of an op that meets the other ranks itself: both or none, and only with a `part`.
pub const AXIS: AttrSpec =
    AttrSpec { name: "axis", kind: AttrKind::Str, required: false, doc: "mesh axis of the parts" };
/// See [`AXIS`].
pub const RANKS: AttrSpec =
    AttrSpec { name: "ranks", kind: AttrKind::Int, required: false, doc: "ranks along it" };

/// The type of a part's number.
pub fn ty() -> TensorType {
    TensorType::new(DType::I32, vec![Dim::new("rank", 1)])
}

/// Checks operand `at` if it is there.
pub fn check(cx: &RuleCx<'_>, at: usize) -> Result<(), OpError> {
    match cx.operands.get(at) {
        Some(t) if *t != ty() => Err(OpError::new(format!("the part must be {}, not {t}", ty()))),
        _ => Ok(()),
    }
}

/// Checks operand `at` and that it is there exactly if the attributes of an op that meets others are.
pub fn check_meeting(cx: &RuleCx<'_>, at: usize) -> Result<(), OpError> {
    check(cx, at)?;
    let given = [cx.attrs.get("axis").is_some(), cx.attrs.get("ranks").is_some()];
    if given != [cx.operands.len() > at; 2] {
        return Err(OpError::new("`axis`, `ranks` and a part come together"));
    }
    Ok(())
}

/// The index of row `id` among this rank's `rows`, or none if another rank has it.
pub fn own(
    id: f64,
    rows: usize,
    part: Option<&Tensor>,
    what: &str,
) -> Result<Option<usize>, OpError> {
    let Some(part) = part else { return index(id, rows, what).map(Some) };
    let first = part.data[0] * rows as f64;
    let id = index(id, 1 << 52, what)? as f64 - first;
    Ok((id >= 0.0 && id < rows as f64).then_some(id as usize))
}
