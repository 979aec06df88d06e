//! `neox.expert_slots`: places in experts of limited capacity.

use super::prelude::*;
use super::routing::{CHOICES, by_group, whole_numbers};
use super::rows::index;

/// The op of this file.
pub struct ExpertSlots;

impl OpDef for ExpertSlots {
    frame! {
        expert_slots(indices) -> (position, source),
        "Gives choices places in their experts, first come first served: all first choices in the order of tokens, then all second ones, …; an expert takes `capacity` of each group. `position` [group, token, choice] is expert · capacity + slot, -1 where dropped; `source` [experts, group, capacity] is token · choices + choice, -1 where empty.",
        class Special,
        precision EXACT,
        attrs &[
            required("experts", AttrKind::Int, "number of experts"),
            required("capacity", AttrKind::Int, "slots of an expert and group"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let x = &cx.operands[0];
        whole_numbers(x, &CHOICES)?;
        let dims = vec![
            Dim::new("experts", cx.size("experts")?),
            x.dims[0].clone(),
            Dim::new("capacity", cx.size("capacity")?),
        ];
        Ok(vec![x.clone(), TensorType::new(DType::I32, dims)])
    }
    no_gradient!("places are whole numbers");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        by_group(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        Cost::streaming(cx, 0.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.operands[0];
        let [groups, tokens, choices] = [0, 1, 2].map(|i: usize| x.ty.dims[i].size);
        let (experts, capacity) = (cx.rule.size("experts")?, cx.rule.size("capacity")?);
        let mut position = Tensor::fill(cx.rule.results[0].clone(), -1.0);
        let mut source = Tensor::fill(cx.rule.results[1].clone(), -1.0);
        for g in 0..groups {
            let mut taken = vec![0; experts];
            for c in 0..choices {
                for t in 0..tokens {
                    let at = (g * tokens + t) * choices + c;
                    let e = index(x.data[at], experts, "expert")?;
                    if taken[e] < capacity {
                        position.data[at] = (e * capacity + taken[e]) as f64;
                        let slot = (e * groups + g) * capacity + taken[e];
                        source.data[slot] = (t * choices + c) as f64;
                        taken[e] += 1;
                    }
                }
            }
        }
        Ok(vec![position, source])
    }
    primitive!();
}
