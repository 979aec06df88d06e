//! Choices between collectives that come to the same: the one that takes less time, kernels included.
//!
//! ```text
//! %y = gather(%table, %ids)     %table divided along its rows
//!   ⇒  gather, all_reduce(%y)   where there are many rows: each rank looks up its own
//!   or all_gather(%table), gather   where there are few
//! ```
//! Where it takes as long either way, rows stay where they are. Matmuls are not asked: to put a matmul's
//! weights together, ranks would compute the same, and hold activations that now are divided.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use neoxc_ir::op::{RuleCx, ShardEffect, ShardRule};
use neoxc_ir::{Dim, Op, TensorType, ValueId};

use super::Body;
use super::layout::{Axes, Layout};
use super::route::cheapest;

/// The axes over which dims are divided, by their names.
pub type Divided = BTreeMap<Arc<str>, Axes>;

/// One op's operands and results in the whole program.
pub struct Uses<'a> {
    pub op: &'a Op,
    pub rule: &'a ShardRule,
    pub operands: &'a [TensorType],
    pub results: &'a [TensorType],
}

/// How a value is laid out where `divided` says how dims are divided.
fn layout(ty: &TensorType, divided: &Divided) -> Layout {
    let axes = |d: &Dim| divided.get(&d.name).cloned().unwrap_or_default();
    Layout { dims: ty.dims.iter().map(axes).collect(), partial: BTreeSet::new() }
}

impl Uses<'_> {
    /// Takes dims whose elements are looked up out of `divided` where putting the operands together takes less
    /// time than summing the results; these are then divided as layers hand them on.
    pub fn look_up_whole(&self, b: &Body<'_>, divided: &mut Divided) {
        let cx = RuleCx {
            operands: self.operands,
            results: self.results,
            attrs: &self.op.attrs,
            module: None,
        };
        if self.op.kind.def().cost(&cx).flops > 0.0 {
            return;
        }
        let own = |dim: &Arc<str>| self.rule.effect(dim) == Some(ShardEffect::Own);
        let dims: Vec<Arc<str>> = divided.keys().filter(|d| own(d)).cloned().collect();
        for dim in dims {
            let axes = divided.get(&dim).cloned().unwrap_or_default();
            if axes.is_empty() {
                continue;
            }
            let together = self.together(b, divided, &dim);
            // Layers want the sum whole, unless each rank only wants its part of it.
            let sums = self.results.iter().filter(|ty| !ty.has(&dim)).map(|ty| {
                let whole = layout(ty, divided);
                let partial = Layout { partial: axes.iter().cloned().collect(), ..whole.clone() };
                let stream = b.stream.layout(ty).filter(|l| {
                    let all = l.dims.concat();
                    axes.iter().all(|a| all.contains(a))
                });
                seconds(b, ty, &partial, &stream.unwrap_or(whole))
            });
            let sum: f64 = sums.sum();
            if self.until_made(b, &together) < self.until_made(b, divided) + sum {
                *divided = together;
            }
        }
    }

    /// How dims are divided once `dim` is put together: the results' others as layers hand them on.
    fn together(&self, b: &Body<'_>, divided: &Divided, dim: &Arc<str>) -> Divided {
        let mut together = divided.clone();
        together.remove(dim);
        for ty in self.results {
            let Some(stream) = b.stream.layout(ty) else { continue };
            for (d, wanted) in ty.dims.iter().zip(stream.dims) {
                let now = together.get(&d.name).cloned().unwrap_or_default();
                let others = together.iter().filter(|(other, _)| **other != d.name);
                let taken = others.flat_map(|(_, axes)| axes).any(|a| wanted.contains(a));
                let given = self.operands.iter().any(|o| o.has(&d.name));
                if given && !taken && wanted.starts_with(&now) {
                    together.insert(d.name.clone(), wanted);
                }
            }
        }
        together
    }

    /// For a dim that the op makes and that is wanted divided over `axes`, which divide what it sums over:
    /// whether each rank makes all of it, and the sums are scattered, because that takes less time than
    /// putting the operands together.
    pub fn scatters(&self, b: &Body<'_>, divided: &Divided, dim: &str, axes: &Axes) -> bool {
        let shared = |d: &Arc<str>| {
            let partial = self.rule.effect(d) == Some(ShardEffect::Partial);
            partial && divided[d].iter().any(|a| axes.contains(a))
        };
        let Some(summed) = divided.keys().find(|d| shared(d)) else { return false };
        // Put together over these axes alone.
        let mut put = divided.clone();
        put.entry(summed.clone()).or_default().retain(|a| !axes.contains(a));
        let mut parts = put.clone();
        parts.insert(dim.into(), axes.clone());
        let made = self.results.iter().filter(|ty| ty.has(dim)).map(|ty| {
            let sum = layout(ty, divided);
            let partial = Layout { partial: axes.iter().cloned().collect(), ..sum.clone() };
            seconds(b, ty, &partial, &layout(ty, &parts))
        });
        let scatter: f64 = made.sum();
        self.until_made(b, divided) + scatter < self.until_made(b, &parts)
    }

    /// Seconds until the op has made its results with dims divided so: to bring its operands, and its own.
    fn until_made(&self, b: &Body<'_>, divided: &Divided) -> f64 {
        let bring = |(o, ty): (&ValueId, &TensorType)| {
            let have = Layout { partial: BTreeSet::new(), ..b.layout(*o)? };
            Some(seconds(b, ty, &have, &layout(ty, divided)))
        };
        let operands = self.op.operands.iter().zip(self.operands);
        let brought: f64 = operands.filter_map(bring).sum();
        let local = |types: &[TensorType]| -> Vec<TensorType> {
            types.iter().map(|ty| layout(ty, divided).local(ty, b.degrees)).collect()
        };
        let (operands, results) = (local(self.operands), local(self.results));
        let cx =
            RuleCx { operands: &operands, results: &results, attrs: &self.op.attrs, module: None };
        let cost = self.op.kind.def().cost(&cx);
        brought + b.links.kernel(cost.flops, cost.bytes)
    }
}

/// Seconds from one layout to another; without end where none leads there.
fn seconds(b: &Body<'_>, ty: &TensorType, have: &Layout, wanted: &Layout) -> f64 {
    cheapest(ty, have, wanted, &b.links, b.degrees).map_or(f64::INFINITY, |(_, seconds)| seconds)
}
