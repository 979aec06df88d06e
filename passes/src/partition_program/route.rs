//! The cheapest collectives that lead from one layout to another.
//!
//! ```text
//! [seq: context+tensor]  →  [heads: context]      of 4 × 8 ranks
//!   ⇒  all_gather seq tensor, all_to_all seq → heads context
//! ```
//! A search over layouts by time on the links (Dijkstra 1959). Every step leads towards the wanted layout: it divides
//! a dim as is wanted, finishes a sum, or puts together what is not wanted divided so. There are few such
//! layouts, as a mesh has few axes; of routes that take as long, the first in the order of `steps` is taken.

use neoxc_ir::OpKind;
use neoxc_ir::TensorType;

use super::layout::{Axis, Layout};
use crate::links::Links;
use crate::pass::Degrees;

/// One collective on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The op.
    pub kind: OpKind,
    /// Along which ranks.
    pub axis: Axis,
    /// The dim that is divided afterwards, or was before.
    pub dim: Option<usize>,
    /// The other dim that was divided before.
    pub from: Option<usize>,
}

/// A layout that can be had.
struct Place {
    layout: Layout,
    seconds: f64,
    done: bool,
    /// Where from, and how.
    before: Option<(usize, Step)>,
}

/// The collectives from `have` to `wanted` for a value of the whole type `ty`, and the seconds they take; nothing
/// where none lead there.
pub fn cheapest(
    ty: &TensorType,
    have: &Layout,
    wanted: &Layout,
    links: &Links,
    degrees: Degrees,
) -> Option<(Vec<Step>, f64)> {
    let start = Place { layout: have.clone(), seconds: 0.0, done: false, before: None };
    let mut places = vec![start];
    loop {
        let open = (0..places.len()).filter(|n| !places[*n].done);
        let here = open.reduce(|a, b| if places[b].seconds < places[a].seconds { b } else { a })?;
        places[here].done = true;
        let (layout, seconds) = (places[here].layout.clone(), places[here].seconds);
        if layout == *wanted {
            return Some((way(&places, here), seconds));
        }
        for (step, next) in steps(&layout, wanted) {
            let bytes = |l: &Layout| l.local(ty, degrees).bytes();
            let larger = bytes(&layout).max(bytes(&next));
            let seconds = seconds + links.seconds(step.kind, &step.axis, larger);
            let before = Some((here, step));
            match places.iter_mut().find(|p| p.layout == next) {
                None => places.push(Place { layout: next, seconds, done: false, before }),
                // Sums in another order differ in their last bits: no reason to take another route.
                Some(p) if !p.done && seconds < p.seconds * (1.0 - 1e-9) => {
                    (p.seconds, p.before) = (seconds, before);
                }
                Some(_) => {}
            }
        }
    }
}

fn way(places: &[Place], mut at: usize) -> Vec<Step> {
    let mut out = vec![];
    while let Some((before, step)) = &places[at].before {
        out.push(step.clone());
        at = *before;
    }
    out.reverse();
    out
}

/// Every collective of a value laid out as `now` that leads towards `wanted`, and the layout that it makes.
fn steps(now: &Layout, wanted: &Layout) -> Vec<(Step, Layout)> {
    let mut out = vec![];
    let towards = |i: usize| wanted.dims[i].starts_with(&now.dims[i]);
    for i in (0..now.dims.len()).filter(|i| towards(*i)) {
        let Some(axis) = wanted.dims[i].get(now.dims[i].len()) else { continue };
        let mut next = now.clone();
        next.dims[i].push(axis.clone());
        let (kind, from) = match now.dims.iter().position(|axes| axes.contains(axis)) {
            None if !now.partial.contains(axis) => (OpKind::TakePart, None),
            None if wanted.partial.contains(axis) => continue,
            None => {
                next.partial.remove(axis);
                (OpKind::ReduceScatter, None)
            }
            // Only the innermost division of a dim can be changed for another, and only if it is not wanted
            // where it is.
            Some(from) if now.dims[from].last() == Some(axis) && !towards(from) => {
                next.dims[from].pop();
                (OpKind::AllToAll, Some(from))
            }
            Some(_) => continue,
        };
        out.push((Step { kind, axis: axis.clone(), dim: Some(i), from }, next));
    }
    for axis in now.partial.difference(&wanted.partial) {
        let mut next = now.clone();
        next.partial.remove(axis);
        out.push((
            Step { kind: OpKind::AllReduce, axis: axis.clone(), dim: None, from: None },
            next,
        ));
    }
    for i in (0..now.dims.len()).filter(|i| !towards(*i)) {
        let mut next = now.clone();
        let Some(axis) = next.dims[i].pop() else { continue };
        out.push((Step { kind: OpKind::AllGather, axis, dim: Some(i), from: None }, next));
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use neoxc_ir::cluster::Machine;
    use neoxc_ir::target::Target;
    use neoxc_ir::{DType, Dim};

    use super::*;
    use crate::pass::PassCx;

    /// Eight ranks to a node, which `tensor` and `context` divide; links between nodes are slow.
    fn cx() -> PassCx {
        let mut machine = Machine::of(Target::X86V4);
        machine.ranks_per_node = 8;
        machine.between.bandwidth = machine.within.bandwidth / 10.0;
        let degrees = Degrees { data: 4, context: 2, tensor: 4, ..Degrees::ONE };
        PassCx { machine, degrees, ..PassCx::new(Target::X86V4) }
    }

    fn layout(dims: &str, partial: &str) -> Layout {
        let partial = partial.split(',').filter(|a| !a.is_empty()).map(Axis::from).collect();
        Layout { partial, ..Layout::parse(dims) }
    }

    fn route(have: (&str, &str), wanted: (&str, &str)) -> String {
        let ty = TensorType::new(DType::F32, vec![Dim::new("a", 64), Dim::new("b", 4096)]);
        let (have, wanted) = (layout(have.0, have.1), layout(wanted.0, wanted.1));
        let cx = cx();
        let Some((steps, _)) = cheapest(&ty, &have, &wanted, &Links::new(&cx), cx.degrees) else {
            return "none".into();
        };
        let word = |s: &Step| {
            let dims = [s.from, s.dim].into_iter().flatten();
            let dims: String = dims.map(|i| ["a", "b"][i]).collect();
            format!("{} {} {dims}", s.kind, s.axis).trim_end().to_string()
        };
        steps.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn sums_are_scattered_where_they_are_wanted_divided() {
        assert_eq!(route((",", "tensor"), (",", "")), "all_reduce tensor");
        assert_eq!(route((",", "tensor"), (",tensor", "")), "reduce_scatter tensor b");
        assert_eq!(route((",", "tensor"), (",", "tensor")), "");
        // What makes the value smaller comes first.
        assert_eq!(route((",", "data"), ("tensor,", "")), "take_part tensor a, all_reduce data");
    }

    #[test]
    fn the_slow_link_carries_the_smaller_part() {
        assert_eq!(route(("data,tensor", ""), (",", "")), "all_gather data a, all_gather tensor b");
        assert_eq!(route(("tensor,data", ""), (",", "")), "all_gather data b, all_gather tensor a");
        assert_eq!(
            route(("data+tensor,", ""), (",", "")),
            "all_gather tensor a, all_gather data a"
        );
    }

    #[test]
    fn ranks_change_their_parts() {
        assert_eq!(route(("tensor,", ""), (",tensor", "")), "all_to_all tensor ab");
        let away = route(("context+tensor,", ""), (",context", ""));
        assert_eq!(away, "all_gather tensor a, all_to_all context ab");
        // Two axes that change places: putting together what two ranks have moves less than what four have.
        let swap = route(("context,tensor", ""), ("tensor,context", ""));
        assert_eq!(swap, "all_gather context a, all_to_all tensor ba, take_part context b");
    }

    #[test]
    fn a_whole_value_is_no_sum() {
        assert_eq!(route((",", ""), (",", "tensor")), "none");
    }

    /// From every layout of two dims over three axes to every other without sums: never slower than to make all
    /// sums, put everything together, and take parts.
    #[test]
    fn every_layout_can_be_had() {
        let axes = ["data", "context", "tensor"];
        let layouts = |places: usize| {
            (0..places.pow(3)).map(move |n| {
                let mut layout = layout(",", "");
                for (i, axis) in axes.into_iter().enumerate() {
                    match n / places.pow(i as u32) % places {
                        0 => {}
                        3 => drop(layout.partial.insert(axis.into())),
                        at => layout.dims[at - 1].push(axis.into()),
                    }
                }
                layout
            })
        };
        let ty = TensorType::new(DType::F32, vec![Dim::new("a", 64), Dim::new("b", 4096)]);
        let (cx, whole) = (cx(), Layout::whole(&ty));
        let links = Links::new(&cx);
        let seconds = |have: &Layout, wanted: &Layout| {
            let (steps, seconds) = cheapest(&ty, have, wanted, &links, cx.degrees).unwrap();
            assert!(steps.len() <= 6, "{have} to {wanted}: {steps:?}");
            seconds
        };
        for have in layouts(4) {
            for wanted in layouts(3) {
                let direct = seconds(&have, &wanted);
                let around = seconds(&have, &whole) + seconds(&whole, &wanted);
                assert!(direct <= around * (1.0 + 1e-9), "{have} to {wanted}");
            }
        }
    }
}
