//! The cheapest term of each class.

use std::collections::{BTreeSet, HashMap, HashSet};

use egg::{Id, Language, SymbolLang};
use neoxc_ir::TensorType;
use neoxc_ir::op::{Cost, RuleCx};
use neoxc_ir::ops;
use neoxc_ir::target::Rates;

use super::Written;
use super::terms::{Graph, leaf, lookup, split};

/// What extraction prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The least roofline time; between equals, what was written.
    Cheapest,
    /// What a rule made, wherever one made something: to test rules by themselves.
    Rewritten,
}

/// Which term stands for each class.
pub type Extracted = HashMap<Id, SymbolLang>;

/// Sweeps after which the choice stands even if a cheaper one might follow.
const SWEEPS: usize = 64;

pub struct Costs<'a> {
    graph: &'a Graph,
    rates: Rates,
    /// Terms of the function as written.
    written: HashSet<SymbolLang>,
}

struct Best {
    cost: f64,
    node: SymbolLang,
    /// Classes of the term, itself included.
    set: BTreeSet<Id>,
}

impl<'a> Costs<'a> {
    pub fn new(graph: &'a Graph, rates: Rates, written: &[Written]) -> Self {
        let written = written.iter().map(|w| canonical(graph, &w.node)).collect();
        Self { graph, rates, written }
    }

    /// Whether the function had this term.
    pub fn was_written(&self, node: &SymbolLang) -> bool {
        ops::find(node.op.as_str()).is_none()
            || node.op.as_str() == "fill"
            || self.written.contains(&canonical(self.graph, node))
    }

    /// Seconds of one term on the roofline of these rates.
    pub fn seconds(&self, node: &SymbolLang) -> f64 {
        let Some(kind) = ops::find(node.op.as_str()) else { return 0.0 };
        let Some((attrs, operands)) = split(node) else { return 0.0 };
        let analysis = &self.graph.analysis;
        let Some(attrs) = leaf(self.graph, attrs).and_then(|l| lookup(&analysis.table, l)) else {
            return f64::INFINITY;
        };
        let operands: Option<Vec<TensorType>> = operands
            .iter()
            .map(|o| self.graph[*o].data.as_ref().and_then(|t| t.first().cloned()))
            .collect();
        let (Some(operands), Some(results)) = (operands, analysis.infer(self.graph, node)) else {
            return f64::INFINITY;
        };
        let cost = kind.def().cost(&RuleCx {
            operands: &operands,
            results: &results,
            attrs: &attrs,
            module: Some(&analysis.module),
        });
        if cost == Cost::free() {
            return 0.0;
        }
        let r = self.rates;
        (cost.flops / r.flops).max(cost.bytes / r.memory_bytes) + r.launch_seconds
    }

    /// The cheapest term of each class, where a term's cost is that of the *set* of terms below it:
    /// what is shared counts once. Repeated until nothing changes.
    pub fn extract(&self, pick: Pick) -> Extracted {
        let mut classes: Vec<(Id, Vec<(SymbolLang, f64)>)> = self
            .graph
            .classes()
            .map(|c| {
                let made = pick == Pick::Rewritten && c.nodes.iter().any(|n| !self.was_written(n));
                let mut nodes: Vec<(SymbolLang, f64)> = c
                    .nodes
                    .iter()
                    .map(|n| {
                        let penalty = if made && self.was_written(n) { 1e3 } else { 0.0 };
                        (n.clone(), self.seconds(n) + penalty)
                    })
                    .collect();
                // Symbols are numbered by first use in the process: order by text instead.
                nodes.sort_by_key(|(n, _)| {
                    (!self.was_written(n), n.op.as_str(), n.children.clone())
                });
                (c.id, nodes)
            })
            .collect();
        classes.sort_by_key(|(id, _)| *id);
        let own: HashMap<(Id, &SymbolLang), f64> =
            classes.iter().flat_map(|(id, ns)| ns.iter().map(|(n, s)| ((*id, n), *s))).collect();
        let mut best: HashMap<Id, Best> = HashMap::new();
        for _ in 0..SWEEPS {
            let mut changed = false;
            for (id, nodes) in &classes {
                let mut chosen: Option<Best> = None;
                for (node, seconds) in nodes {
                    let Some(mut set) = self.below(node, &best) else { continue };
                    if set.contains(id) {
                        continue;
                    }
                    let cost = seconds + set.iter().map(|c| own[&(*c, &best[c].node)]).sum::<f64>();
                    set.insert(*id);
                    let better = chosen.as_ref().is_none_or(|b| cost < b.cost * (1.0 - 1e-9));
                    if better && cost.is_finite() {
                        chosen = Some(Best { cost, node: node.clone(), set });
                    }
                }
                let Some(new) = chosen else { continue };
                let old = best.get(id);
                if old.is_none_or(|o| o.node != new.node || o.set != new.set) {
                    changed = true;
                    best.insert(*id, new);
                }
            }
            if !changed {
                break;
            }
        }
        best.into_iter().map(|(id, b)| (id, b.node)).collect()
    }

    /// Classes below `node`, once all its children have a term.
    fn below(&self, node: &SymbolLang, best: &HashMap<Id, Best>) -> Option<BTreeSet<Id>> {
        let mut set = BTreeSet::new();
        for c in node.children() {
            set.extend(&best.get(&self.graph.find(*c))?.set);
        }
        Some(set)
    }
}

fn canonical(graph: &Graph, node: &SymbolLang) -> SymbolLang {
    node.clone().map_children(|c| graph.find(c))
}
