//! Which elements of a parameter a rank holds.

use serde::{Deserialize, Serialize};

use crate::{Parameter, Plan, Port};

/// Where one kind of a parameter's values lies on a rank, and how it is divided over the ranks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// Offset in the segment, bytes, on the stages of each class; none where they do not have it. Layers
    /// follow each other.
    pub offsets: Vec<Option<u64>>,
    /// For each of [`Parameter::dims`] the mesh axis that it is divided over, or nothing; empty where
    /// every rank has all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub axes: Vec<String>,
}

/// Elements that follow each other in the whole tensor and on a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First element in the whole tensor.
    pub whole: usize,
    /// First element on the rank.
    pub local: usize,
    /// How many.
    pub elements: usize,
}

/// A part of a tensor: a range of each of its dims.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Block {
    /// First element along each dim.
    pub start: Vec<u64>,
    /// Elements along each dim.
    pub size: Vec<u64>,
}

impl Block {
    /// Elements in it.
    pub fn elements(&self) -> u64 {
        self.size.iter().product()
    }

    /// Where its elements, row by row, lie in the whole tensor of sizes `dims`, which must hold it.
    pub fn runs(&self, dims: &[u64]) -> Vec<Run> {
        let to = |sizes: &[u64]| sizes.iter().map(|n| *n as usize).collect::<Vec<_>>();
        let (whole, start, size) = (to(dims), to(&self.start), to(&self.size));
        // Behind the last dim that is not whole everything lies together.
        let last = (0..size.len()).rev().find(|i| size[*i] != whole[*i]);
        let Some(last) = last else {
            let elements = whole.iter().product();
            return vec![Run { whole: 0, local: 0, elements }];
        };
        let inner: usize = whole[last + 1..].iter().product();
        let elements = size[last] * inner;
        let count: usize = size[..last].iter().product();
        (0..count)
            .map(|n| {
                // Where the n-th run lies in the whole tensor, dim by dim from the innermost.
                let (mut rest, mut stride) = (n, inner * whole[last]);
                let mut at = start[last] * inner;
                for i in (0..last).rev() {
                    at += (start[i] + rest % size[i]) * stride;
                    rest /= size[i];
                    stride *= whole[i];
                }
                Run { whole: at, local: n * elements, elements }
            })
            .collect()
    }
}

impl Held {
    /// The offset on the stages of a class, if they have it.
    pub fn offset(&self, class: usize) -> Option<u64> {
        self.offsets.get(class).copied().flatten()
    }
}

impl Plan {
    /// Sizes of the whole value that a port has one rank's part of.
    pub fn whole_dims(&self, port: &Port) -> Vec<u64> {
        let ranks = |i: usize| port.axes.get(i).map_or(1, |axis| self.along(axis, 0).0);
        port.shape.iter().enumerate().map(|(i, d)| d * ranks(i)).collect()
    }

    /// Sizes of one layer's tensor on a rank.
    fn local_dims(&self, dims: &[u64], axes: &[String]) -> Vec<u64> {
        let ranks = |i: usize| axes.get(i).map_or(1, |axis| self.along(axis, 0).0);
        dims.iter().enumerate().map(|(i, d)| d / ranks(i)).collect()
    }

    /// Elements of one layer's tensor on a rank.
    pub fn local_elements(&self, p: &Parameter, held: &Held) -> u64 {
        self.local_dims(&p.dims, &held.axes).iter().product()
    }

    /// The elements of one layer's tensor that `rank` has.
    pub fn runs(&self, p: &Parameter, held: &Held, rank: u64) -> Vec<Run> {
        self.runs_of(&p.dims, &held.axes, rank)
    }

    /// The elements that `rank` has of a value of sizes `dims`, each divided over one of `axes` or none.
    pub fn runs_of(&self, dims: &[u64], axes: &[String], rank: u64) -> Vec<Run> {
        self.block_of(dims, axes, rank).runs(dims)
    }

    /// The part that `rank` has of a value of sizes `dims`, each divided over one of `axes` or none.
    pub fn block_of(&self, dims: &[u64], axes: &[String], rank: u64) -> Block {
        let size = self.local_dims(dims, axes);
        let place = |i: usize| axes.get(i).map_or(0, |axis| self.along(axis, rank).1);
        let start = size.iter().enumerate().map(|(i, n)| place(i) * n).collect();
        Block { start, size }
    }

    /// The stage that has a layer of a parameter, and the layer's number on that stage; of several that
    /// have it, the first. The only place that knows which layers a stage has.
    pub fn stage_of(&self, p: &Parameter, layer: u64) -> (u64, u64) {
        if p.layer_axis.is_none() {
            return (self.stages_with(&p.weights).first().copied().unwrap_or(0), layer);
        }
        for (stage, runs) in self.tables.stage_layers.iter().enumerate() {
            let mut before = 0;
            for (first, count) in runs {
                if (*first..first + count).contains(&layer) {
                    return (stage as u64, before + layer - first);
                }
                before += count;
            }
        }
        (0, layer)
    }

    /// Stages that have values of a parameter, in order.
    pub fn stages_with(&self, held: &Held) -> Vec<u64> {
        let stages = self.along("pipe", 0).0;
        (0..stages).filter(|s| held.offset(self.class_of(*s)).is_some()).collect()
    }

    /// Layers that a stage has of a stack that is divided over stages.
    pub fn layer_count(&self, stage: u64) -> u64 {
        let runs = self.tables.stage_layers.get(stage as usize);
        runs.map_or(0, |runs| runs.iter().fold(0, |a, (_, n)| a.saturating_add(*n)))
    }

    /// The layers that `rank` has, by their numbers there.
    pub fn layers_of(&self, rank: u64) -> Vec<u64> {
        let Some(p) = self.tables.parameters.iter().find(|p| p.layers.is_some()) else {
            return vec![];
        };
        let stage = p.layer_axis.as_ref().map_or(0, |axis| self.along(axis, rank).1);
        let mut own: Vec<(u64, u64)> = (0..p.layers.unwrap_or(0))
            .map(|layer| (self.stage_of(p, layer), layer))
            .filter(|((of, _), _)| *of == stage)
            .map(|((_, number), layer)| (number, layer))
            .collect();
        own.sort_unstable();
        own.into_iter().map(|(_, layer)| layer).collect()
    }

    /// Ranks that together have every element once, for values divided as `held` says.
    pub fn owners(&self, held: &Held) -> Vec<u64> {
        let idle = |axis: &str| !held.axes.iter().any(|a| a == axis);
        (0..self.ranks())
            .filter(|r| {
                let mesh = &self.tables.mesh;
                mesh.iter().all(|(axis, _)| !idle(axis) || self.along(axis, *r).1 == 0)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, State};

    #[test]
    fn every_layer_is_on_one_stage() {
        let mut plan = Plan::default();
        assert_eq!(plan.layers_of(0), [0; 0]);
        plan.tables.mesh = vec![("pipe".into(), 3), ("tensor".into(), 2)];
        let held = Held::default();
        plan.tables.parameters = vec![Parameter {
            name: "w.{layer}".into(),
            layers: Some(6),
            layer_axis: Some("pipe".into()),
            shape: vec![5],
            dims: vec![5],
            init: Init::Number(0.0),
            before_layers: false,
            weights: held.clone(),
            gradient: Some(held.clone()),
            state: vec![State { slot: "mean".into(), held }],
        }];
        plan.tables.stage_layers = vec![vec![(0, 2)], vec![(2, 2)], vec![(4, 2)]];
        assert_eq!(plan.layers_of(0), [0, 1]);
        assert_eq!(plan.layers_of(1), [0, 1]);
        assert_eq!(plan.layers_of(4), [4, 5]);
        // Interleaved: two chunks of one layer on each stage.
        plan.tables.stage_layers = (0..3).map(|s| vec![(s, 1), (s + 3, 1)]).collect();
        assert_eq!(plan.layers_of(0), [0, 3]);
        assert_eq!(plan.layers_of(4), [2, 5]);
        plan.tables.parameters[0].layer_axis = None;
        assert_eq!(plan.layers_of(4), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn ranks_have_every_element_once() {
        let mut plan = Plan::default();
        plan.tables.mesh = vec![("data".into(), 2), ("tensor".into(), 3)];
        let axes = |a: &[&str]| a.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        for (dims, axes) in [
            (vec![6, 4, 5], axes(&["tensor", "data", ""])),
            (vec![6, 4, 5], axes(&["", "data", ""])),
            (vec![2, 5, 3], axes(&["data", "", "tensor"])),
            (vec![7], axes(&[])),
        ] {
            let held = Held { offsets: vec![Some(0)], axes };
            let p = Parameter {
                name: "w".into(),
                layers: None,
                layer_axis: None,
                shape: vec![dims.iter().product()],
                dims: dims.clone(),
                init: Init::Number(0.0),
                before_layers: false,
                weights: held.clone(),
                gradient: None,
                state: vec![],
            };
            let mut seen = vec![0; p.elements() as usize];
            for rank in plan.owners(&held) {
                let mut next = 0;
                for run in plan.runs(&p, &held, rank) {
                    assert_eq!(run.local, next);
                    next += run.elements;
                    seen[run.whole..run.whole + run.elements].iter_mut().for_each(|n| *n += 1);
                }
                assert_eq!(next as u64, plan.local_elements(&p, &held));
            }
            assert!(seen.iter().all(|n| *n == 1), "{dims:?} {held:?}");
        }
    }
}
