//! What the collectives that change a layout share: attributes, types, and their meaning on one rank.

use super::prelude::*;

/// `axis`, `dim`, `ranks`.
pub const ATTRS: &[AttrSpec] = &[
    required("axis", AttrKind::Str, "mesh axis"),
    required("dim", AttrKind::Str, "dim that is, or becomes, divided"),
    required("ranks", AttrKind::Int, "ranks along the axis"),
];

/// The type with `dim` made `ranks` times larger.
pub fn larger(cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
    resized(cx, |size, ranks| Some(size * ranks))
}

/// The type with `dim` made `ranks` times smaller.
pub fn smaller(cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
    resized(cx, |size, ranks| size.is_multiple_of(ranks).then_some(size / ranks))
}

fn resized(
    cx: &RuleCx<'_>,
    size: impl Fn(usize, usize) -> Option<usize>,
) -> Result<Vec<TensorType>, OpError> {
    cx.str("axis")?;
    let (dim, ranks) = (cx.str("dim")?, cx.size("ranks")?);
    let mut ty = cx.operands[0].clone();
    let at = ty.position(dim).ok_or_else(|| OpError::new(format!("{ty} has no dim `{dim}`")))?;
    let new = size(ty.dims[at].size, ranks)
        .ok_or_else(|| OpError::new(format!("{ranks} ranks do not divide `{dim}` of {ty}")))?;
    ty.dims[at].size = new;
    Ok(vec![ty])
}

/// On one rank nothing happens; several are `eval_ranks`' business.
pub fn alone(cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
    match cx.rule.size("ranks")? {
        1 => Ok(vec![cx.operands[0].clone()]),
        n => Err(OpError::new(format!("takes {n} ranks: use `eval_ranks::run_ranks`"))),
    }
}
