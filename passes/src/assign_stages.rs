//! Which layers each stage of a pipeline has, and which stages are of one class.
//!
//! A *class* is what decides a stage's programs and memory: how many layers it has, and whether it has the
//! model's beginning (embeddings) or its end (final norm, head, loss). Stages of one class have the same
//! programs, so that what is compiled grows with classes, not with stages.

use neoxc_base::codes::undivided_layers::undivided_layers;
use neoxc_ir::op::RuleCx;
use neoxc_ir::target::Rates;
use neoxc_ir::{Function, Module, Op, TensorType, keys};

use crate::pass::{PassCx, PassError};
pub use crate::settings::Partition;

/// What decides the programs of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Layers of one of its chunks.
    pub layers: usize,
    /// Whether it has the embeddings.
    pub first: bool,
    /// Whether it has the head.
    pub last: bool,
}

/// What the parts of a model weigh, in any unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// What comes in front of the layers.
    pub before: f64,
    /// One layer.
    pub layer: f64,
    /// What comes behind them.
    pub behind: f64,
}

/// The layers of all stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stages {
    /// Layers of one chunk of each stage.
    pub layers: Vec<usize>,
    /// Chunks of each stage.
    pub chunks: usize,
}

impl Stages {
    /// Runs (first layer, how many) of a stage, in its own order.
    pub fn runs(&self, stage: usize) -> Vec<(usize, usize)> {
        let round: usize = self.layers.iter().sum();
        let before: usize = self.layers[..stage].iter().sum();
        (0..self.chunks).map(|chunk| (chunk * round + before, self.layers[stage])).collect()
    }

    /// The classes, in the order of their first stages, and the class of each stage.
    pub fn classes(&self) -> (Vec<Class>, Vec<usize>) {
        let mut classes: Vec<Class> = vec![];
        let mut of = vec![];
        for (stage, layers) in self.layers.iter().enumerate() {
            let (first, last) = (stage == 0, stage + 1 == self.layers.len());
            let class = Class { layers: *layers, first, last };
            let at = classes.iter().position(|c| *c == class);
            of.push(at.unwrap_or(classes.len()));
            if at.is_none() {
                classes.push(class);
            }
        }
        (classes, of)
    }
}

/// Divides `layers` layers over `stages` stages, each of which gets at least one. The heaviest stage weighs
/// as little as can be; of several ways the most even one is taken.
pub fn divide(layers: usize, stages: usize, w: Weights) -> Option<Vec<usize>> {
    if stages == 0 || layers < stages {
        return None;
    }
    if stages == 1 {
        return Some(vec![layers]);
    }
    let mut best: Option<((f64, usize), Vec<usize>)> = None;
    let between = stages - 2;
    for first in 1..=layers - (stages - 1) {
        for last in 1..=layers - first - between {
            let rest = layers - first - last;
            if between == 0 && rest > 0 {
                continue;
            }
            let mut counts = vec![first];
            counts.extend((0..between).map(|i| rest / between + usize::from(i < rest % between)));
            counts.push(last);
            let weight = |(i, n): (usize, &usize)| {
                let more = if i == 0 { w.before } else { 0.0 };
                let behind = if i + 1 == stages { w.behind } else { 0.0 };
                more + behind + *n as f64 * w.layer
            };
            let most = counts.iter().enumerate().map(weight).fold(0.0, f64::max);
            let squares = counts.iter().map(|n| n * n).sum();
            // Rounding is no reason to prefer an uneven way.
            let better = best.as_ref().is_none_or(|((m, s), _)| {
                let same = (most - m).abs() <= 1e-9 * m.abs();
                if same { squares < *s } else { most < *m }
            });
            if better {
                best = Some(((most, squares), counts));
            }
        }
    }
    best.map(|(_, counts)| counts)
}

/// As GPT-NeoX's pipeline counts modules: embedding and a reshape in front of the layers, a reshape, the norm
/// and the head behind them; where stages do not divide them the first ones have one more.
pub fn uniform(layers: usize, stages: usize) -> Option<Vec<usize>> {
    let (before, behind) = (2, 3);
    let all = layers + before + behind;
    let mut counts = vec![];
    for stage in 0..stages {
        let mut n = all / stages + usize::from(stage < all % stages);
        if stage == 0 {
            n = n.checked_sub(before)?;
        }
        if stage + 1 == stages {
            n = n.checked_sub(behind)?;
        }
        counts.push(n);
    }
    counts.iter().all(|n| *n > 0).then_some(counts)
}

/// The layers of every stage of a model whose micro-batch is `step`; `parts` says of each of its ops whether
/// it is in front of the layers (-1), one of their loops (0), or behind them (1).
pub fn assign(m: &Module, step: &Function, parts: &[i8], cx: &PassCx) -> Result<Stages, PassError> {
    let (method, stages, chunks) = (cx.partition, cx.degrees.pipe, cx.chunks);
    let count = step.ops.iter().zip(parts).find(|(_, p)| **p == 0);
    let layers = count.and_then(|(op, _)| op.attrs.int("count")).unwrap_or(0).max(0) as usize;
    let spans = count.map(|(op, _)| op.loc.spans()).unwrap_or_default();
    if chunks > 1 {
        if layers == 0 || !layers.is_multiple_of(stages * chunks) {
            let message =
                format!("{stages} stages of {chunks} chunks do not divide {layers} layers");
            let hint = "`pipe_parallel_size` × `virtual_pipeline_chunks` must divide `num_layers`";
            return Err(undivided_layers(&message, &spans, hint).into());
        }
        return Ok(Stages { layers: vec![layers / stages / chunks; stages], chunks });
    }
    let counts = match method {
        Partition::Uniform => uniform(layers, stages),
        Partition::Layers => {
            divide(layers, stages, Weights { before: 0.0, layer: 1.0, behind: 0.0 })
        }
        Partition::Parameters => divide(layers, stages, of_parameters(step, parts, layers)),
        Partition::Balanced => {
            divide(layers, stages, of_time(m, step, parts, cx.machine.rates, layers))
        }
    };
    let counts = counts.ok_or_else(|| {
        let message = format!("{stages} stages cannot each have some of {layers} layers");
        let hint = format!("fewer stages, or another `pipe_partition_method` than {method}");
        undivided_layers(&message, &spans, &hint)
    })?;
    Ok(Stages { layers: counts, chunks })
}

fn of_parameters(step: &Function, parts: &[i8], layers: usize) -> Weights {
    let mut w = Weights { before: 0.0, layer: 0.0, behind: 0.0 };
    for (p, attrs) in step.params.iter().zip(&step.param_attrs) {
        if attrs.get(keys::PARAM).is_none() {
            continue;
        }
        let elements = step.ty(*p).elements() as f64;
        let at = |part: i8| {
            let uses = |(op, q): (&Op, &i8)| *q == part && op.operands.contains(p);
            step.ops.iter().zip(parts).any(uses)
        };
        if at(0) {
            w.layer += elements / layers.max(1) as f64;
            continue;
        }
        // A tied embedding is on both ends.
        w.before += if at(-1) { elements } else { 0.0 };
        w.behind += if at(1) { elements } else { 0.0 };
    }
    w
}

fn of_time(m: &Module, step: &Function, parts: &[i8], rates: Rates, layers: usize) -> Weights {
    let mut w = Weights { before: 0.0, layer: 0.0, behind: 0.0 };
    for (op, part) in step.ops.iter().zip(parts) {
        let seconds = time(m, step, op, rates);
        match part {
            -1 => w.before += seconds,
            0 => w.layer += seconds / layers.max(1) as f64,
            _ => w.behind += seconds,
        }
    }
    w
}

/// Seconds of an op at the roofline, loops multiplied out.
fn time(m: &Module, f: &Function, op: &Op, rates: Rates) -> f64 {
    if let Some(g) = op.attrs.symbol("callee").and_then(|c| m.function(c)) {
        let count = op.attrs.int("count").unwrap_or(1).max(1) as f64;
        return count * g.ops.iter().map(|op| time(m, g, op, rates)).sum::<f64>();
    }
    let types = |ids: &[neoxc_ir::ValueId]| -> Vec<TensorType> {
        ids.iter().map(|v| f.ty(*v).clone()).collect()
    };
    let (operands, results) = (types(&op.operands), types(&op.results));
    let cx = RuleCx { operands: &operands, results: &results, attrs: &op.attrs, module: Some(m) };
    let cost = op.kind.def().cost(&cx);
    (cost.flops / rates.flops).max(cost.bytes / rates.memory_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to divide, by trying all: `divide` finds one with the least maximum.
    #[test]
    fn the_heaviest_stage_is_as_light_as_can_be() {
        fn all(layers: usize, stages: usize) -> Vec<Vec<usize>> {
            if stages == 1 {
                return vec![vec![layers]];
            }
            (1..=layers + 1 - stages)
                .flat_map(|n| {
                    all(layers - n, stages - 1).into_iter().map(move |mut rest| {
                        rest.insert(0, n);
                        rest
                    })
                })
                .collect()
        }
        let weights = [(0.0, 1.0, 0.0), (2.5, 1.0, 3.25), (0.1, 0.7, 9.0), (1e3, 1.0, 0.5)];
        for (before, layer, behind) in weights {
            let w = Weights { before, layer, behind };
            for layers in 2..10 {
                for stages in 2..=layers.min(5) {
                    let most = |counts: &[usize]| {
                        let mut sums: Vec<f64> = counts.iter().map(|n| *n as f64 * layer).collect();
                        sums[0] += before;
                        sums[stages - 1] += behind;
                        sums.into_iter().fold(0.0, f64::max)
                    };
                    let got = divide(layers, stages, w).unwrap();
                    assert_eq!((got.len(), got.iter().sum::<usize>()), (stages, layers));
                    let best = all(layers, stages).iter().map(|c| most(c)).fold(f64::MAX, f64::min);
                    assert!((most(&got) - best).abs() < 1e-9, "{layers} {stages} {w:?}: {got:?}");
                    let (classes, of) = Stages { layers: got, chunks: 1 }.classes();
                    assert!(classes.len() <= 4 && of.len() == stages);
                }
            }
        }
    }

    #[test]
    fn modules_are_counted_as_upstream_counts_them() {
        // 44 layers and 5 more modules: 13, 12, 12, 12.
        assert_eq!(uniform(44, 4), Some(vec![11, 12, 12, 9]));
        assert_eq!(uniform(3, 4), None);
        let runs = Stages { layers: vec![2; 3], chunks: 2 };
        assert_eq!(runs.runs(1), vec![(2, 2), (8, 2)]);
        assert_eq!(divide(2, 3, Weights { before: 0.0, layer: 1.0, behind: 0.0 }), None);
    }
}
