//! `neox.all_reduce`: the sum of a value over the ranks of a mesh axis.

use super::prelude::*;

/// The op of this file.
pub struct AllReduce;

impl OpDef for AllReduce {
    fn name(&self) -> &'static str {
        "all_reduce"
    }
    fn doc(&self) -> &'static str {
        "The sum of `x` over the `ranks` ranks that differ only along the mesh axis `axis`, in the order of the ranks; each of them gets it."
    }
    fn signature(&self) -> Signature {
        Signature {
            operands: &[("x", Arity::One)],
            results: &[("y", Arity::One)],
            attrs: const {
                &[
                    required("axis", AttrKind::Str, "mesh axis"),
                    required("ranks", AttrKind::Int, "ranks along it"),
                ]
            },
        }
    }
    fn class(&self) -> Class {
        Class::Collective
    }
    fn precision(&self) -> Precision {
        // Summed in f32 over all ranks, and rounded once.
        Precision::WIDE
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        cx.str("axis")?;
        cx.size("ranks")?;
        Ok(vec![cx.operands[0].clone()])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::None("collectives are inserted after differentiation"))
    }
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
