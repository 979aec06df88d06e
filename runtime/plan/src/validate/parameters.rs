//! The parameters of a plan: each has its weights, gradient and state inside their segments on every stage.

use crate::{Held, Parameter, Plan, PlanError, Values};

use super::{bytes_of, invalid};

/// Every layer of the parameter is on one stage, its values are where they may be, and its state is what the optimizer keeps.
pub fn check(plan: &Plan, classes: usize, p: &Parameter) -> Result<(), PlanError> {
    let t = &plan.tables;
    let stages = plan.along("pipe", 0).0;
    let layers = p.layers.unwrap_or(1);
    let once = |axis: &String| axis == "pipe" && once_each(&t.stage_layers, stages, layers);
    if p.layer_axis.as_ref().is_some_and(|axis| !once(axis)) {
        return invalid(format!("not every layer of {} is on one stage", p.name));
    }
    if !p.values().into_iter().all(|values| fits(plan, classes, p, &values)) {
        return invalid(format!("parameter {} leaves its segment", p.name));
    }
    // A parameter is trained, with state of the optimizer's, or has neither gradient nor state. (An optimizer may keep
    // one thing of matrices and another of the rest.)
    let slots: Vec<&str> = p.state.iter().map(|s| s.slot.as_str()).collect();
    let wanted = if p.gradient.is_some() { plan.slots() } else { vec![] };
    let mut rest = wanted.iter();
    let in_order = slots.iter().all(|slot| rest.any(|w| w == slot));
    if !in_order || slots.is_empty() != wanted.is_empty() {
        return invalid(format!("parameter {} has the state {slots:?}, not of {wanted:?}", p.name));
    }
    Ok(())
}

/// Whether values of a parameter are divided as the mesh allows, and lie inside a segment of their kind on the stages of every
/// class that has the parameter.
fn fits(plan: &Plan, classes: usize, p: &Parameter, values: &Values) -> bool {
    let (Some(held), segment) = (p.held(values), values.segment()) else { return false };
    let kind = plan.tables.segments.iter().find(|s| s.name == segment).map(|s| s.kind);
    let end = |class: usize, offset: u64| {
        let size = plan.local_elements(p, held).checked_mul(layers_of(plan, class, p))?;
        size.checked_mul(4)?.checked_add(offset)
    };
    let inside = |class: usize| match held.offset(class) {
        Some(offset) => end(class, offset).is_some_and(|e| e <= bytes_of(plan, &segment, class)),
        None => p.layer_axis.is_none(),
    };
    let same = |class: usize| held.offset(class).is_some() == p.weights.offset(class).is_some();
    let some = (0..classes).any(|class| held.offset(class).is_some());
    let meant = kind == Some(values.kind());
    divides(plan, p, held)
        && some
        && meant
        && (0..classes).all(|class| inside(class) && same(class))
}

/// Whether each named axis is one of the mesh, divides one dim, and divides it evenly; all elements can be counted.
fn divides(plan: &Plan, p: &Parameter, held: &Held) -> bool {
    let count = |sizes: &[u64]| sizes.iter().try_fold(1u64, |a, s| a.checked_mul(*s));
    let all = count(&p.shape).filter(|n| *n > 0 && count(&p.dims) == Some(*n));
    let bytes = all.and_then(|n| n.checked_mul(p.layers.unwrap_or(1))?.checked_mul(4));
    let named: Vec<&String> = held.axes.iter().filter(|a| !a.is_empty()).collect();
    let known = named.iter().all(|a| plan.tables.mesh.iter().any(|(n, _)| n == *a));
    let once = (1..named.len()).all(|i| !named[..i].contains(&named[i]));
    let even = held.axes.iter().zip(&p.dims).all(|(a, d)| d.is_multiple_of(plan.along(a, 0).0));
    held.axes.len() <= p.dims.len() && known && once && even && bytes.is_some()
}

/// The most layers of the parameter that a stage of the class has.
fn layers_of(plan: &Plan, class: usize, p: &Parameter) -> u64 {
    if p.layer_axis.is_none() {
        return p.layers.unwrap_or(1);
    }
    let own = (0..plan.along("pipe", 0).0).filter(|s| plan.class_of(*s) == class);
    own.map(|s| plan.layer_count(s)).max().unwrap_or(0)
}

/// Whether the runs of all stages together are `layers` layers, each once.
fn once_each(stages: &[Vec<(u64, u64)>], count: u64, layers: u64) -> bool {
    let mut all: Vec<(u64, u64)> = stages.iter().flatten().copied().collect();
    all.sort_unstable();
    let end = all.iter().try_fold(0u64, |at, (first, n)| {
        (*first == at && *n > 0).then(|| at.checked_add(*n)).flatten()
    });
    stages.len() as u64 == count && end == Some(layers)
}
