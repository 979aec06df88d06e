//! After a step whose loss or gradient is not finite: which tensor was the first to be so. Such a step changes no
//! weights (`Ranks::guard`), so that they can be looked at, and nothing is spent on steps that go well.

use neoxc_plan::{Parameter, Plan};

use crate::RuntimeError;
use crate::ranks::Ranks;

/// Where a tensor is used in the model: 0 before the layers, then the layer's number from 1.
fn place(p: &Parameter, layer: u64) -> u64 {
    match p.layers {
        Some(_) => layer + 1,
        None if p.name.starts_with("gpt_neox.embed_") => 0,
        None => u64::MAX,
    }
}

/// The first tensor with a number that is not finite on any rank: a weight, in the
/// order of the model; or else a gradient, in the order in which the backward pass comes to the layers. If there
/// is none, a sum was too large: the gradient with the largest number.
pub fn first_not_finite(plan: &Plan, ranks: &Ranks) -> Result<String, RuntimeError> {
    let mut all: Vec<(&Parameter, u64, String)> = vec![];
    for p in &plan.tables.parameters {
        all.extend(p.names().into_iter().enumerate().map(|(layer, name)| (p, layer as u64, name)));
    }
    all.sort_by_key(|(p, layer, _)| place(p, *layer));
    // The largest number of each part, infinite for what is not finite.
    let largest = |segment: &str, (p, layer, _): &(&Parameter, u64, String)| {
        let stages = plan.stages_with(p.held(segment));
        let has = |rank: &u64| {
            let here = plan.along("pipe", *rank).1;
            stages.contains(&here) && (p.layer_axis.is_none() || plan.stage_of(p, *layer).0 == here)
        };
        let most = |rank: u64| {
            let numbers = ranks.part(rank, segment, p, *layer).chunks_exact(4);
            let sizes = numbers.map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]).abs());
            sizes.fold(0f32, |a, x| if x.is_finite() { a.max(x) } else { f32::INFINITY })
        };
        // Of equal ones the first rank's.
        let parts = ranks.own().into_iter().rev().filter(has).map(|rank| (most(rank), rank));
        ranks.most(parts.max_by(|(a, _), (b, _)| a.total_cmp(b)).unwrap_or_default())
    };
    let told = |kind: &str, name: &str, rank: u64| match plan.ranks() {
        1 => format!("{kind} {name}"),
        _ => format!("{kind} {name}, on rank {rank}"),
    };
    for one in &all {
        let (size, rank) = largest("params", one)?;
        if size.is_infinite() {
            return Ok(told("parameter", &one.2, rank));
        }
    }
    let mut most = (0f32, "none".to_string());
    for one in all.iter().rev() {
        let (size, rank) = largest("grads", one)?;
        let name = told("gradient of", &one.2, rank);
        if size.is_infinite() {
            return Ok(name);
        }
        if size > most.0 {
            most = (size, format!("none, but {size:e} in the {name}"));
        }
    }
    Ok(most.1)
}
