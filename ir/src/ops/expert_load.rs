//! `neox.expert_load`: how choices are shared out among experts.

use super::prelude::*;
use super::routing::{CHOICES, by_group, whole_numbers};
use super::rows::index;

/// The op of this file.
pub struct ExpertLoad;

impl OpDef for ExpertLoad {
    frame! {
        expert_load(indices) -> (load),
        "The fraction of a group's choices that name each expert: i32 [group, token, choice] gives f32 [group, experts].",
        class Special,
        precision EXACT,
        attrs &[required("experts", AttrKind::Int, "number of experts")],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let x = &cx.operands[0];
        whole_numbers(x, &CHOICES)?;
        let dims = vec![x.dims[0].clone(), Dim::new("experts", cx.size("experts")?)];
        Ok(vec![TensorType::new(DType::F32, dims)])
    }
    fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        Ok(Gradient::Operands(vec![None]))
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        by_group(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, cx.operands[0].elements() as f64)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.operands[0];
        let mut out = Tensor::fill(cx.rule.results[0].clone(), 0.0);
        let experts = cx.rule.size("experts")?;
        let choices = x.ty.elements() / x.ty.dims[0].size;
        for (n, i) in x.data.iter().enumerate() {
            let at = n / choices * experts + index(*i, experts, "expert")?;
            out.data[at] += 1.0 / choices as f64;
        }
        Ok(vec![out])
    }
    primitive!();
}
