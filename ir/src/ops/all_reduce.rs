//! `neox.all_reduce`: the sum of a value over the ranks of a mesh axis.

use super::prelude::*;

/// The op of this file.
pub struct AllReduce;

impl OpDef for AllReduce {
    frame! {
        all_reduce(x) -> (y),
        "The sum of `x` over the `ranks` ranks that differ only along the mesh axis `axis`, in the order of the ranks; each of them gets it.",
        class Collective,
        // Summed in f32 over all ranks, and rounded once.
        precision WIDE,
        attrs &[
            required("axis", AttrKind::Str, "mesh axis"),
            required("ranks", AttrKind::Int, "ranks along it"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        cx.str("axis")?;
        cx.size("ranks")?;
        Ok(vec![cx.operands[0].clone()])
    }
    no_gradient!("collectives are inserted after differentiation");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        super::collective::alone(cx)
    }
    primitive!();
}
