//! The cheapest term of each class.

use std::collections::{HashMap, HashSet};

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

/// A set of classes, by their places in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn new(classes: usize) -> Self {
        Set(vec![0; classes.div_ceil(64)])
    }

    fn insert(&mut self, class: usize) {
        self.0[class / 64] |= 1 << (class % 64);
    }

    fn has(&self, class: usize) -> bool {
        self.0[class / 64] >> (class % 64) & 1 != 0
    }

    fn extend(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn meets(&self, other: &Set) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    /// In ascending order.
    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(n, word)| {
            let bits = std::iter::successors(Some(*word), |w| Some(w & w.wrapping_sub(1)));
            bits.take_while(|w| *w != 0).map(move |w| 64 * n + w.trailing_zeros() as usize)
        })
    }
}

struct Best {
    cost: f64,
    /// Of the term itself.
    seconds: f64,
    node: SymbolLang,
    /// Classes of the term, itself included.
    set: Set,
}

/// A term of a class, with its own seconds and the classes of its children.
type Candidate = (SymbolLang, f64, Vec<usize>);

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
        let numbers: HashMap<Id, usize> =
            classes.iter().enumerate().map(|(n, (id, _))| (*id, n)).collect();
        let children = |node: &SymbolLang| {
            node.children().iter().map(|c| numbers[&self.graph.find(*c)]).collect()
        };
        let candidates: Vec<Vec<Candidate>> = classes
            .into_iter()
            .map(|(_, nodes)| {
                nodes.into_iter().map(|(n, seconds)| (n.clone(), seconds, children(&n))).collect()
            })
            .collect();
        let ids = self.graph.classes().map(|c| (numbers[&c.id], c.id));
        let ids: HashMap<usize, Id> = ids.collect();
        let best = choose(&candidates).into_iter().enumerate();
        best.filter_map(|(n, b)| Some((ids[&n], b?.node))).collect()
    }
}

/// The best term of each class that has one.
fn choose(candidates: &[Vec<Candidate>]) -> Vec<Option<Best>> {
    let mut best: Vec<Option<Best>> = candidates.iter().map(|_| None).collect();
    // Classes whose choice was another in the last sweep, and in this one.
    let (mut before, mut now) = (Set::new(best.len()), Set::new(best.len()));
    let order = upwards(candidates);
    for sweep in 0..SWEEPS {
        for class in order.iter().copied() {
            let nodes = &candidates[class];
            // What is below a class decides: where that stayed, so does the choice.
            let moved = |child: &usize| {
                best[*child].as_ref().is_some_and(|b| b.set.meets(&before) || b.set.meets(&now))
            };
            if sweep > 0 && !nodes.iter().any(|(.., children)| children.iter().any(moved)) {
                continue;
            }
            let Some(new) = cheapest(class, nodes, &best) else { continue };
            let old = best[class].as_ref();
            if old.is_none_or(|o| o.node != new.node || o.set != new.set) {
                now.insert(class);
                best[class] = Some(new);
            }
        }
        before = std::mem::replace(&mut now, Set::new(best.len()));
        if before.iter().next().is_none() {
            break;
        }
    }
    best
}

/// All classes, each after those below it as far as terms are no circle. The classes that rules add have the last ids; in the
/// order of ids a choice would move up by one op in a sweep, and a function of many layers has many.
fn upwards(candidates: &[Vec<Candidate>]) -> Vec<usize> {
    let children = |class: usize| candidates[class].iter().flat_map(|(.., c)| c.iter().copied());
    let (mut order, mut seen) = (vec![], Set::new(candidates.len()));
    for class in 0..candidates.len() {
        // The classes on the way down, with the children that are still to be looked at.
        let mut path: Vec<(usize, Vec<usize>)> = vec![];
        let mut next = Some(class);
        loop {
            if let Some(new) = next.filter(|n| !seen.has(*n)) {
                seen.insert(new);
                let mut below: Vec<usize> = children(new).collect();
                below.reverse();
                path.push((new, below));
            }
            let Some((class, below)) = path.last_mut() else { break };
            next = below.pop();
            if next.is_none() {
                order.push(*class);
                path.pop();
            }
        }
    }
    order
}

/// The cheapest term of a class, of those whose children have terms without it.
fn cheapest(class: usize, nodes: &[Candidate], best: &[Option<Best>]) -> Option<Best> {
    let with_set = |(node, seconds, children): &Candidate| {
        let mut set = Set::new(best.len());
        for child in children {
            set.extend(&best[*child].as_ref()?.set);
        }
        let fits = !set.has(class) && seconds.is_finite();
        fits.then(|| Best { cost: 0.0, seconds: *seconds, node: node.clone(), set })
    };
    let mut possible: Vec<Best> = nodes.iter().filter_map(with_set).collect();
    // Most classes have one term, and nothing to weigh: adding up all that is below each would take the most time.
    if possible.len() > 1 {
        let own = |c: usize| best[c].as_ref().map_or(0.0, |b| b.seconds);
        for b in &mut possible {
            b.cost = b.seconds + b.set.iter().map(own).sum::<f64>();
        }
    }
    let first = |b: Best, a: Best| if a.cost < b.cost * (1.0 - 1e-9) { a } else { b };
    let mut chosen = possible.into_iter().reduce(first)?;
    chosen.set.insert(class);
    Some(chosen)
}

fn canonical(graph: &Graph, node: &SymbolLang) -> SymbolLang {
    node.clone().map_children(|c| graph.find(c))
}
