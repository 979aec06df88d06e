//! `rewrite-graph`: equality saturation (egg) over each function, then extraction by roofline time.
//!
//! ```text
//! %s = matmul(%q, %k); …; softmax; matmul; transpose   ⇒   %a:2 = attention(%q, %k, %v)
//! ```
//! Every value of a function becomes a class; rules add equal terms; the extraction picks, counting
//! shared terms once, the cheapest set of terms that computes the results.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use egg::{
    Analysis, DidMerge, EGraph, Id, Language, Pattern, Rewrite, Runner, Subst, Symbol, SymbolLang,
    Var,
};
use neoxc_ir::op::RuleCx;
use neoxc_ir::target::Target;
use neoxc_ir::{Attrs, Builder, Function, Loc, Module, TensorType, ValueId, ops};

use crate::pass::{Pass, PassCx, PassError, PassReport};
use crate::rules::RULES;

/// The pass.
pub const PASS: Pass = Pass {
    name: "rewrite-graph",
    doc: "find fused forms by equality saturation and keep the fastest",
    requires: &[],
    ensures: &[],
    run,
};

/// Terms after which saturation stops.
const NODE_LIMIT: usize = 20_000;
/// Rounds after which saturation stops.
const ROUND_LIMIT: usize = 12;

type Graph = EGraph<SymbolLang, Types>;

/// Attributes by leaf number, shared by rules and analysis.
type Table = Arc<Mutex<Vec<Attrs>>>;

fn intern(table: &Table, attrs: &Attrs) -> Symbol {
    let mut t = table.lock().expect("no thread panics while it holds the table");
    let n = t.iter().position(|a| a == attrs).unwrap_or_else(|| {
        t.push(attrs.clone());
        t.len() - 1
    });
    Symbol::from(format!("@{n}"))
}

fn lookup(table: &Table, leaf: Symbol) -> Option<Attrs> {
    let n: usize = leaf.as_str().strip_prefix('@')?.parse().ok()?;
    table.lock().expect("no thread panics while it holds the table").get(n).cloned()
}

/// Each class knows the types of its value (several for an op with several results).
#[derive(Clone)]
struct Types {
    table: Table,
    leaves: HashMap<Symbol, TensorType>,
    module: Arc<Module>,
}

impl Types {
    fn infer(&self, graph: &Graph, node: &SymbolLang) -> Option<Vec<TensorType>> {
        let name = node.op.as_str();
        if let Some(ty) = self.leaves.get(&node.op) {
            return Some(vec![ty.clone()]);
        }
        if let Some(i) = result_number(name) {
            let all = graph[*node.children().first()?].data.as_ref()?;
            return Some(vec![all.get(i)?.clone()]);
        }
        let kind = ops::find(name)?;
        let (attrs, operands) = split(node)?;
        let attrs = lookup(&self.table, leaf(graph, attrs)?)?;
        let operands: Vec<TensorType> = operands
            .iter()
            .map(|o| graph[*o].data.as_ref().and_then(|t| t.first().cloned()))
            .collect::<Option<_>>()?;
        let cx =
            RuleCx { operands: &operands, results: &[], attrs: &attrs, module: Some(&self.module) };
        kind.0.infer(&cx).ok()
    }
}

fn result_number(name: &str) -> Option<usize> {
    name.strip_prefix('r')?.parse().ok()
}

fn split(node: &SymbolLang) -> Option<(Id, &[Id])> {
    node.children.split_last().map(|(a, o)| (*a, o))
}

/// The attribute leaf of a class.
fn leaf(graph: &Graph, class: Id) -> Option<Symbol> {
    graph[class].nodes.iter().map(|n| n.op).find(|op| op.as_str().starts_with('@'))
}

impl Analysis<SymbolLang> for Types {
    type Data = Option<Vec<TensorType>>;

    fn make(graph: &mut Graph, node: &SymbolLang, _id: Id) -> Self::Data {
        graph.analysis.infer(graph, node)
    }

    fn merge(&mut self, a: &mut Self::Data, b: Self::Data) -> DidMerge {
        let took = a.is_none() && b.is_some();
        let kept = a.is_some() && b.is_none();
        if took {
            *a = b;
        }
        DidMerge(took, kept)
    }
}

/// Applies a rule's right side with its computed attributes, if types agree.
struct Apply {
    rule: usize,
    right: Pattern<SymbolLang>,
    counts: Arc<Mutex<Vec<usize>>>,
}

impl egg::Applier<SymbolLang, Types> for Apply {
    fn apply_one(
        &self,
        graph: &mut Graph,
        class: Id,
        subst: &Subst,
        _searcher: Option<&egg::PatternAst<SymbolLang>>,
        _name: Symbol,
    ) -> Vec<Id> {
        let rule = &RULES[self.rule];
        let table = graph.analysis.table.clone();
        let bound: HashMap<&str, Attrs> = rule
            .looks_at
            .iter()
            .filter_map(|v| {
                let var: Var = v.parse().ok()?;
                Some((*v, lookup(&table, leaf(graph, *subst.get(var)?)?)?))
            })
            .collect();
        let get = |v: &str| bound.get(v).cloned().unwrap_or_default();
        let Some(mut attrs) = (rule.attrs)(&get) else { return vec![] };
        // A count that a rule read off a constant must be the size of the dim it speaks of.
        if let Some(neoxc_ir::Attr::Int(count)) = attrs.0.remove("neox.count") {
            let x = "?x".parse().ok().and_then(|v: Var| subst.get(v).copied());
            let size = x.and_then(|x| {
                graph[x].data.as_ref()?.first()?.size(attrs.str("dim")?).map(|s| s as i64)
            });
            if size != Some(count) {
                return vec![];
            }
        }
        let mut subst = subst.clone();
        if let Ok(new) = "?new".parse::<Var>() {
            let id = graph.add(SymbolLang::leaf(intern(&table, &attrs)));
            subst.insert(new, id);
        }
        let before = graph[class].data.clone();
        let Some(new) = instantiate(graph, &self.right, &subst) else { return vec![] };
        let types = graph[new].data.clone();
        if before.is_some() && types != before {
            return vec![];
        }
        if graph.union(class, new) {
            let mut counts = self.counts.lock().expect("no thread panics while it counts");
            counts[self.rule] += 1;
            return vec![new];
        }
        vec![]
    }
}

/// The right side as a term, not yet joined to the class that it may replace.
fn instantiate(graph: &mut Graph, pattern: &Pattern<SymbolLang>, subst: &Subst) -> Option<Id> {
    let mut ids: Vec<Id> = vec![];
    for node in pattern.ast.as_ref() {
        let id = match node {
            egg::ENodeOrVar::Var(v) => *subst.get(*v)?,
            egg::ENodeOrVar::ENode(n) => graph.add(n.clone().map_children(|c| ids[usize::from(c)])),
        };
        ids.push(id);
    }
    ids.last().copied()
}

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    let mut report = PassReport::default();
    let module = Arc::new(m.clone());
    for f in &mut m.functions {
        let new = rewrite(f, &module, cx.target, &mut report)?;
        *f = new;
    }
    Ok(report)
}

fn rewrite(
    f: &Function,
    module: &Arc<Module>,
    target: Target,
    report: &mut PassReport,
) -> Result<Function, PassError> {
    let table: Table = Arc::default();
    let mut leaves = HashMap::new();
    for p in &f.params {
        leaves.insert(Symbol::from(format!("p{}", p.0)), f.ty(*p).clone());
    }
    let analysis = Types { table: table.clone(), leaves, module: module.clone() };
    let mut graph = Graph::new(analysis);
    let mut class: HashMap<ValueId, Id> = HashMap::new();
    for p in &f.params {
        class.insert(*p, graph.add(SymbolLang::leaf(format!("p{}", p.0))));
    }
    let mut locs: Vec<(Id, Loc)> = vec![];
    for op in &f.ops {
        let mut children: Vec<Id> = op.operands.iter().map(|o| class[o]).collect();
        children.push(graph.add(SymbolLang::leaf(intern(&table, &op.attrs))));
        let id = graph.add(SymbolLang::new(op.kind.name(), children));
        locs.push((id, op.loc.clone()));
        match &op.results[..] {
            [only] => {
                class.insert(*only, id);
            }
            many => {
                for (i, r) in many.iter().enumerate() {
                    let part = graph.add(SymbolLang::new(format!("r{i}"), vec![id]));
                    locs.push((part, op.loc.clone()));
                    class.insert(*r, part);
                }
            }
        }
    }
    let counts = Arc::new(Mutex::new(vec![0; RULES.len()]));
    let mut rewrites = vec![];
    for (i, rule) in RULES.iter().enumerate() {
        let parse = |text: &str| -> Result<Pattern<SymbolLang>, PassError> {
            text.parse().map_err(|e| PassError::Unsupported(format!("rule {}: {e}", rule.name)))
        };
        let apply = Apply { rule: i, right: parse(rule.right)?, counts: counts.clone() };
        let rewrite = Rewrite::new(rule.name, parse(rule.left)?, apply)
            .map_err(|e| PassError::Unsupported(format!("rule {}: {e}", rule.name)))?;
        rewrites.push(rewrite);
    }
    let runner = Runner::<SymbolLang, Types, ()>::new(graph.analysis.clone())
        .with_egraph(graph)
        .with_node_limit(NODE_LIMIT)
        .with_iter_limit(ROUND_LIMIT)
        // Saturation must not depend on how busy the machine is.
        .with_time_limit(std::time::Duration::from_secs(600))
        .with_scheduler(egg::SimpleScheduler)
        .run(&rewrites);
    let graph = runner.egraph;
    for (rule, n) in RULES.iter().zip(counts.lock().expect("saturation is over").iter()) {
        if *n > 0 {
            report.notes.push(format!("@{}: {} × {n}", f.name, rule.name));
        }
    }
    let roots: Vec<Id> = f.results.iter().map(|r| graph.find(class[r])).collect();
    let costs = Costs { graph: &graph, target };
    let choice = costs.extract();
    rebuild(f, module, &graph, &choice, &roots, &locs)
}

/// Which term stands for each class.
type Choice = HashMap<Id, SymbolLang>;

struct Costs<'a> {
    graph: &'a Graph,
    target: Target,
}

impl Costs<'_> {
    /// Seconds of one term on the target's roofline.
    fn seconds(&self, node: &SymbolLang) -> f64 {
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
        let cost = kind.0.cost(&RuleCx {
            operands: &operands,
            results: &results,
            attrs: &attrs,
            module: Some(&analysis.module),
        });
        if cost == neoxc_ir::op::Cost::free() {
            return 0.0;
        }
        let r = self.target.rates();
        (cost.flops / r.f32_flops).max(cost.bytes / r.memory_bytes) + r.launch_seconds
    }

    /// The cheapest term of each class, where a term's cost is that of the *set* of terms below it:
    /// what is shared counts once. Repeated until nothing gets cheaper.
    fn extract(&self) -> Choice {
        let mut best: HashMap<Id, (f64, SymbolLang, BTreeSet<Id>)> = HashMap::new();
        let own: HashMap<(Id, SymbolLang), f64> = self
            .graph
            .classes()
            .flat_map(|c| c.nodes.iter().map(move |n| (c.id, n.clone())))
            .map(|(id, n)| {
                let s = self.seconds(&n);
                ((id, n), s)
            })
            .collect();
        let mut classes: Vec<Id> = self.graph.classes().map(|c| c.id).collect();
        classes.sort();
        loop {
            let mut changed = false;
            for id in &classes {
                for node in &self.graph[*id].nodes {
                    let Some(parts) = node
                        .children
                        .iter()
                        .map(|c| best.get(&self.graph.find(*c)))
                        .collect::<Option<Vec<_>>>()
                    else {
                        continue;
                    };
                    let mut below: BTreeSet<Id> =
                        parts.iter().flat_map(|p| &p.2).copied().collect();
                    if below.contains(id) {
                        continue;
                    }
                    let mut cost = own[&(*id, node.clone())];
                    for c in &below {
                        let chosen = &best[c].1;
                        cost += own[&(*c, chosen.clone())];
                    }
                    below.insert(*id);
                    let better = best.get(id).is_none_or(|b| cost < b.0 * (1.0 - 1e-9));
                    if better && cost.is_finite() {
                        best.insert(*id, (cost, node.clone(), below));
                        changed = true;
                    }
                }
            }
            if !changed {
                return best.into_iter().map(|(id, (_, node, _))| (id, node)).collect();
            }
        }
    }
}

fn rebuild(
    f: &Function,
    module: &Module,
    graph: &Graph,
    choice: &Choice,
    roots: &[Id],
    locs: &[(Id, Loc)],
) -> Result<Function, PassError> {
    let mut out = Function::new(&f.name);
    out.attrs = f.attrs.clone();
    let mut values: HashMap<Id, Vec<ValueId>> = HashMap::new();
    let mut leaves: HashMap<Symbol, ValueId> = HashMap::new();
    for (p, attrs) in f.params.iter().zip(&f.param_attrs) {
        let name = f.values[p.index()].name.clone();
        let v = out.add_param(name.as_deref().unwrap_or(""), f.ty(*p).clone(), attrs.clone());
        out.values[v.index()].name = name;
        leaves.insert(Symbol::from(format!("p{}", p.0)), v);
    }
    let mut at: HashMap<Id, Loc> = HashMap::new();
    for (id, loc) in locs {
        at.entry(graph.find(*id)).or_insert_with(|| loc.clone());
    }
    let mut stack: Vec<(Id, bool, Loc)> = vec![];
    for root in roots.iter().rev() {
        stack.push((*root, false, Loc::Unknown));
    }
    while let Some((id, ready, from)) = stack.pop() {
        if values.contains_key(&id) {
            continue;
        }
        let node = choice
            .get(&id)
            .ok_or_else(|| PassError::Unsupported("extraction left a value out".into()))?;
        let name = node.op.as_str();
        if let Some(v) = leaves.get(&node.op) {
            values.insert(id, vec![*v]);
            continue;
        }
        if name.starts_with('@') {
            values.insert(id, vec![]);
            continue;
        }
        let loc = at.get(&id).cloned().unwrap_or(from);
        if !ready {
            stack.push((id, true, loc.clone()));
            for c in node.children.iter().rev() {
                stack.push((graph.find(*c), false, loc.clone()));
            }
            continue;
        }
        if let Some(i) = result_number(name) {
            let all = &values[&graph.find(node.children[0])];
            let v = *all.get(i).ok_or_else(|| {
                PassError::Unsupported(format!("term {node:?} has no result {i}"))
            })?;
            values.insert(id, vec![v]);
            continue;
        }
        let Some((attrs, operands)) = split(node) else {
            return Err(PassError::Unsupported(format!("term {node:?} has no attributes")));
        };
        let attrs = leaf(graph, attrs)
            .and_then(|l| lookup(&graph.analysis.table, l))
            .ok_or_else(|| PassError::Unsupported("attributes were lost".into()))?;
        let operands: Vec<ValueId> =
            operands.iter().filter_map(|o| values[&graph.find(*o)].first().copied()).collect();
        let mut b = Builder::with_module(&mut out, module);
        b.at(&loc);
        let results = b.named(name, &operands, attrs)?;
        values.insert(id, results);
    }
    out.results =
        roots.iter().filter_map(|r| values.get(r).and_then(|v| v.first().copied())).collect();
    Ok(out)
}
