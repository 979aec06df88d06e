//! Choices between exchanges that come to the same: the one for which a rank sends fewer bytes.
//!
//! ```text
//! %y = gather(%table, %ids)     %table divided along its rows
//!   ⇒  gather, all_reduce(%y)   where there are many rows: each rank looks up its own
//!   or all_gather(%table), gather   where there are few
//! ```
//! Where ranks exchange as much either way, rows stay where they are. An op that computes is never made
//! whole on every rank: ranks would compute the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use neoxc_ir::op::{RuleCx, ShardEffect, ShardRule};
use neoxc_ir::{Op, TensorType};

use super::Body;
use super::layout::{Axes, ranks};

/// The axes over which dims are divided, by their names.
pub type Divided = BTreeMap<Arc<str>, Axes>;

/// One op's operands and results in the whole program.
pub struct Uses<'a> {
    pub op: &'a Op,
    pub rule: &'a ShardRule,
    pub operands: &'a [TensorType],
    pub results: &'a [TensorType],
}

/// Bytes of a rank's part where `divided` says how dims are divided and `whole` is not.
fn bytes(b: &Body<'_>, ty: &TensorType, divided: &Divided, whole: &str) -> usize {
    let part = |name: &str| match divided.get(name) {
        Some(axes) if name != whole => ranks(axes, b.degrees),
        _ => 1,
    };
    ty.dims.iter().map(|d| d.size / part(&d.name)).product::<usize>() * ty.dtype.bytes()
}

impl Uses<'_> {
    /// Takes dims whose elements are looked up out of `divided` where putting the operands together moves
    /// fewer bytes than summing the results; these are then divided as layers hand them on.
    pub fn look_up_whole(&self, b: &Body<'_>, divided: &mut Divided) {
        let cx = RuleCx {
            operands: self.operands,
            results: self.results,
            attrs: &self.op.attrs,
            module: None,
        };
        if self.op.kind.0.cost(&cx).flops > 0.0 {
            return;
        }
        let own = |dim: &Arc<str>| self.rule.effect(dim) == Some(ShardEffect::Own);
        let dims: Vec<Arc<str>> = divided.keys().filter(|d| own(d)).cloned().collect();
        for dim in dims {
            let axes = divided.get(&dim).cloned().unwrap_or_default();
            let tables = self.operands.iter().filter(|ty| ty.has(&dim));
            let gather: usize = tables.map(|ty| bytes(b, ty, divided, &dim)).sum();
            // A ring passes a sum around twice, unless each rank only wants its part of it.
            let rounds = |ty: &TensorType| {
                let stream = b.stream.layout(ty).map(|l| l.dims.concat()).unwrap_or_default();
                if axes.iter().all(|a| stream.contains(a)) { 1 } else { 2 }
            };
            let sums = self.results.iter().filter(|ty| !ty.has(&dim));
            let sum: usize = sums.map(|ty| rounds(ty) * bytes(b, ty, divided, &dim)).sum();
            if axes.is_empty() || gather >= sum {
                continue;
            }
            divided.remove(&dim);
            for ty in self.results {
                let Some(stream) = b.stream.layout(ty) else { continue };
                for (d, wanted) in ty.dims.iter().zip(stream.dims) {
                    let now = divided.get(&d.name).cloned().unwrap_or_default();
                    let others = divided.iter().filter(|(other, _)| **other != d.name);
                    let taken = others.flat_map(|(_, axes)| axes).any(|a| wanted.contains(a));
                    let given = self.operands.iter().any(|o| o.has(&d.name));
                    if given && !taken && wanted.starts_with(&now) {
                        divided.insert(d.name.clone(), wanted);
                    }
                }
            }
        }
    }

    /// For a dim that the op makes and that is wanted divided over `axes`, which divide what it sums over:
    /// whether each rank makes all of it, and the sums are scattered, because that moves fewer bytes than
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
        let updates = self.operands.iter().filter(|ty| ty.has(summed));
        let gather: usize = updates.map(|ty| bytes(b, ty, &put, dim)).sum();
        let made = self.results.iter().filter(|ty| ty.has(dim));
        let scatter: usize = made.map(|ty| bytes(b, ty, divided, dim)).sum();
        scatter < gather
    }
}
