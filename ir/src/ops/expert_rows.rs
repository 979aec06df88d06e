//! `neox.expert_rows`: places in rows sorted by expert, without a limit.

use super::prelude::*;
use super::routing::{CHOICES, by_group, whole_numbers};
use super::rows::index;

/// The op of this file.
pub struct ExpertRows;

impl OpDef for ExpertRows {
    frame! {
        expert_rows(indices) -> (position, source, starts, counts),
        "Gives every choice a row among those of its expert's owner; owner o has experts o · local … (o + 1) · local - 1, local = experts / owners. Its rows of a group (as many as the group has choices, if it got all) are sorted by expert, then by token and choice, and stand at the front. `position` [group, token, choice] is owner · rows + row; `source` [owner, group, row] is token · choices + choice, -1 where empty; expert e has `counts` rows from `starts` on [owner, group, local].",
        class Special,
        precision EXACT,
        attrs &[
            required("owners", AttrKind::Int, "number of owners"),
            required("experts", AttrKind::Int, "number of experts"),
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let x = &cx.operands[0];
        whole_numbers(x, &CHOICES)?;
        let (owners, experts) = (cx.size("owners")?, cx.size("experts")?);
        if !experts.is_multiple_of(owners) {
            return Err(OpError::new(format!("{owners} owners do not divide {experts} experts")));
        }
        let front = [Dim::new("owner", owners), x.dims[0].clone()];
        let of = |last: Dim| TensorType::new(DType::I32, [&front[..], &[last]].concat());
        let rows = of(Dim::new("row", x.dims[1].size * x.dims[2].size));
        let local = of(Dim::new("local", experts / owners));
        Ok(vec![x.clone(), rows, local.clone(), local])
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
        let groups = x.ty.dims[0].size;
        let rows = x.ty.elements() / groups;
        let experts = cx.rule.size("experts")?;
        let local = experts / cx.rule.size("owners")?;
        let mut position = Tensor::fill(cx.rule.results[0].clone(), -1.0);
        let mut source = Tensor::fill(cx.rule.results[1].clone(), -1.0);
        let mut starts = Tensor::fill(cx.rule.results[2].clone(), 0.0);
        let mut counts = starts.clone();
        for g in 0..groups {
            let chosen = &x.data[g * rows..(g + 1) * rows];
            for e in 0..experts {
                let (owner, within) = (e / local, e % local);
                let at = (owner * groups + g) * local + within;
                let first = match within {
                    0 => 0.0,
                    _ => starts.data[at - 1] + counts.data[at - 1],
                };
                starts.data[at] = first;
                for (n, i) in chosen.iter().enumerate() {
                    if index(*i, experts, "expert")? == e {
                        let row = first as usize + counts.data[at] as usize;
                        position.data[g * rows + n] = (owner * rows + row) as f64;
                        source.data[(owner * groups + g) * rows + row] = n as f64;
                        counts.data[at] += 1.0;
                    }
                }
            }
        }
        Ok(vec![position, source, starts, counts])
    }
    primitive!();
}
