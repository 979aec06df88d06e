//! What the ops of mixture-of-experts layers share: types and addressing of routed tokens.
//!
//! Tokens come in groups, and nothing crosses groups: `indices` [group, token, choice] names the experts
//! of each token. A *bin* is what tokens are collected in: an expert of limited capacity, or an owner of
//! several experts whose rows are sorted by expert. `position` [group, token, choice] is
//! `bin · slots + slot`, or -1 where the choice was dropped; `source` [bin, group, slot] is its inverse,
//! `token · choices + choice`, or -1 where the slot is empty.

use super::prelude::*;

/// Dims of `indices` and `position`.
pub const CHOICES: [&str; 3] = ["group", "token", "choice"];

/// Refuses anything but i32 of `dims`, by name.
pub fn whole_numbers(ty: &TensorType, dims: &[&str]) -> Result<(), OpError> {
    if ty.dtype != DType::I32 || !ty.dims.iter().map(|d| &*d.name).eq(dims.iter().copied()) {
        return Err(OpError::new(format!("{ty} is not i32 of {dims:?}")));
    }
    Ok(())
}

/// Sizes of routed values.
pub struct Routed {
    /// Groups of tokens.
    pub groups: usize,
    /// Tokens of a group.
    pub tokens: usize,
    /// Experts of a token.
    pub choices: usize,
    /// Slots of a bin and group.
    pub slots: usize,
}

/// Checks `tokens` [group, token, rest..], `position` and `binned` [bin, group, slot, rest..] (or `source`,
/// without the rest) against each other.
pub fn routed(
    tokens: &TensorType,
    position: &TensorType,
    binned: &TensorType,
) -> Result<Routed, OpError> {
    whole_numbers(position, &CHOICES)?;
    if tokens.dims.len() < 2 || tokens.dims[..2] != position.dims[..2] {
        return Err(OpError::new(format!("{tokens} has other tokens than {position}")));
    }
    if binned.dims.len() < 3 || binned.dims[1] != position.dims[0] {
        return Err(OpError::new(format!("{binned} has other groups than {position}")));
    }
    let size = |i: usize| position.dims[i].size;
    let slots = binned.dims[2].size;
    Ok(Routed { groups: size(0), tokens: size(1), choices: size(2), slots })
}

/// What `binned` and `tokens` have per token.
pub fn rest(ty: &TensorType, lead: usize) -> &[Dim] {
    &ty.dims[lead..]
}

/// A number that is at least -1 and below `below`; `None` for -1.
pub fn place(x: f64, below: usize, what: &str) -> Result<Option<usize>, OpError> {
    match x == -1.0 {
        true => Ok(None),
        false => super::rows::index(x, below, what).map(Some),
    }
}

/// The row of `binned` that position `p` of group `g` means: (bin, group, slot) in one number.
pub fn row(r: &Routed, p: usize, g: usize) -> usize {
    (p / r.slots * r.groups + g) * r.slots + p % r.slots
}

/// Dims of moved tokens: groups and what a token has are independent, everything else is numbered as a
/// whole.
pub fn moves(cx: &RuleCx<'_>) -> ShardRule {
    let rest: Vec<&str> = cx.operands[0].dims.iter().skip(2).map(|d| &*d.name).collect();
    let whole = |dim: &str| CHOICES[1..].contains(&dim) || !rest.contains(&dim);
    ShardRule::by_dim(cx, |dim| match dim != "group" && whole(dim) {
        true => ShardEffect::Whole,
        false => ShardEffect::Parallel,
    })
    .sums(Sums::Each)
}

/// Only groups are independent.
pub fn by_group(cx: &RuleCx<'_>) -> ShardRule {
    ShardRule::by_dim(cx, |dim| match dim {
        "group" => ShardEffect::Parallel,
        _ => ShardEffect::Whole,
    })
}

/// Ranges of rows by expert: checks `rows` [owner, group, row, rest..] against `starts` and `counts`
/// [owner, group, local].
pub fn ranges(
    owner: &Dim,
    group: &Dim,
    starts: &TensorType,
    counts: &TensorType,
) -> Result<(), OpError> {
    for ty in [starts, counts] {
        let fits = ty.dims.len() == 3 && ty.dims[0] == *owner && ty.dims[1] == *group;
        if ty.dtype != DType::I32 || !fits {
            return Err(OpError::new(format!("{ty} does not say which rows experts have")));
        }
    }
    if starts.dims[2] != counts.dims[2] {
        return Err(OpError::new(format!("{starts} and {counts} are of other experts")));
    }
    Ok(())
}

/// Calls `f(owner, group, local, row)` for every row that an expert has, in this order.
pub fn each_row(
    starts: &Tensor,
    counts: &Tensor,
    rows: usize,
    mut f: impl FnMut(usize, usize, usize, usize),
) -> Result<(), OpError> {
    let [owners, groups, local] =
        [0, 1, 2].map(|i: usize| starts.ty.dims.get(i).map_or(1, |d| d.size));
    for at in 0..owners * groups * local {
        let (o, g, e) = (at / local / groups, at / local % groups, at % local);
        let start = super::rows::index(starts.data[at], rows + 1, "start")?;
        let count = super::rows::index(counts.data[at], rows + 1 - start, "count")?;
        (start..start + count).for_each(|r| f(o, g, e, r));
    }
    Ok(())
}
