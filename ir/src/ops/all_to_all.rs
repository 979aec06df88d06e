//! `neox.all_to_all`: a value divided along one dim, divided along another one instead.

use super::collective;
use super::prelude::*;

/// The op of this file.
pub struct AllToAll;

impl OpDef for AllToAll {
    frame! {
        all_to_all(x) -> (y),
        "`x`, which the `ranks` ranks along `axis` have divided along `from`, divided along `dim`: each rank gives every other one its part of what it has.",
        class Collective,
        precision SAME,
        attrs &[
            collective::ATTRS[0],
            collective::ATTRS[1],
            collective::ATTRS[2],
            required("from", AttrKind::Str, "dim that is divided before"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (from, ranks) = (cx.str("from")?, cx.size("ranks")?);
        if cx.str("dim")? == from {
            return Err(OpError::new(format!("`{from}` is divided before and after")));
        }
        let mut made = collective::smaller(cx)?;
        for ty in &mut made {
            let at = ty.position(from);
            let at = at.ok_or_else(|| OpError::new(format!("{ty} has no dim `{from}`")))?;
            ty.dims[at].size = ty.dims[at]
                .size
                .checked_mul(ranks)
                .ok_or_else(|| OpError::new("too many elements"))?;
        }
        Ok(made)
    }
    no_gradient!("collectives are inserted after differentiation");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        let names = ["dim", "from"].map(|name| cx.attrs.str(name).unwrap_or_default());
        ShardRule::by_dim(cx, |dim| match names.contains(&dim) {
            true => ShardEffect::Whole,
            false => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        collective::alone(cx)
    }
    primitive!();
}
