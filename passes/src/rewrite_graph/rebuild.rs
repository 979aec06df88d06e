//! Terms back into ops, each at the lines of what it replaces.

use std::collections::{HashMap, HashSet};

use egg::{Id, Symbol, SymbolLang};
use neoxc_ir::{Builder, Function, Loc, Module, OpKind, ValueId, ops};

use super::extract::{Costs, Extracted};
use super::terms::{Graph, leaf, lookup, result_number, split};
use super::{Choice, Written};
use crate::pass::PassError;
use crate::rules;

/// What a function is rebuilt from.
pub struct Source<'a> {
    pub f: &'a Function,
    pub module: &'a Module,
    pub graph: &'a Graph,
    pub extracted: &'a Extracted,
    pub roots: &'a [Id],
    pub written: &'a [Written],
    /// Rules and the classes they added to.
    pub made: &'a [(&'static str, Id)],
    pub costs: &'a Costs<'a>,
}

/// A rebuilt function.
pub struct Rebuilt {
    pub function: Function,
    /// Roofline seconds of its ops.
    pub seconds: f64,
    pub choices: Vec<Choice>,
}

impl Source<'_> {
    /// The written op whose result `class` is.
    fn writer(&self, class: Id) -> Option<&Written> {
        self.written.iter().find(|w| w.classes.iter().any(|c| self.graph.find(*c) == class))
    }

    /// The written ops that compute `class` from the operands of `node`: what `node` replaces.
    fn replaced(&self, class: Id, node: &SymbolLang) -> Vec<&Written> {
        let stop: HashSet<Id> = node.children.iter().map(|c| self.graph.find(*c)).collect();
        let mut found: Vec<&Written> = vec![];
        let mut todo = vec![class];
        while let Some(c) = todo.pop() {
            let Some(w) = self.writer(c) else { continue };
            if found.iter().any(|f| std::ptr::eq(*f, w)) {
                continue;
            }
            found.push(w);
            let operands = w.node.children.iter().map(|c| self.graph.find(*c));
            todo.extend(operands.filter(|c| !stop.contains(c)));
        }
        found.sort_by_key(|w| w.classes[0]);
        found
    }

    fn choice(&self, class: Id, node: &SymbolLang, replaced: &[&Written]) -> Choice {
        let mut rules: Vec<String> = vec![];
        for (name, id) in self.made {
            let Some(rule) = rules::all().find(|r| r.name == *name) else { continue };
            let text = format!("{name}, {}", rule.numerics.name());
            // Rules that only turn the class's other terms around did not make this one.
            if !rule.right.contains(&format!("({} ", node.op)) {
                continue;
            }
            if self.graph.find(*id) == class && !rules.contains(&text) {
                rules.push(text);
            }
        }
        let computed: Vec<&&Written> =
            replaced.iter().filter(|w| w.op.kind != OpKind::Fill).collect();
        Choice {
            op: node.op.to_string(),
            loc: Loc::fuse(computed.iter().map(|w| &w.op.loc)),
            rules,
            replaced: computed.iter().map(|w| w.op.kind.name().to_string()).collect(),
            seconds: (
                computed.iter().map(|w| self.costs.seconds(&w.node)).sum(),
                self.costs.seconds(node),
            ),
        }
    }
}

/// A class on its way into the function.
struct Visit {
    id: Id,
    /// Its operands are there.
    ready: bool,
    /// The class that a result is taken of stands for it in reports.
    of: Id,
    loc: Loc,
}

/// Builds the function of the extracted terms.
pub fn rebuild(s: &Source<'_>) -> Result<Rebuilt, PassError> {
    let mut out = Function::new(&s.f.name);
    out.attrs = s.f.attrs.clone();
    let mut values: HashMap<Id, Vec<ValueId>> = HashMap::new();
    let mut leaves: HashMap<Symbol, ValueId> = HashMap::new();
    for (p, attrs) in s.f.params.iter().zip(&s.f.param_attrs) {
        let name = s.f.values[p.index()].name.clone();
        let v = out.add_param(name.as_deref().unwrap_or(""), s.f.ty(*p).clone(), attrs.clone());
        out.values[v.index()].name = name;
        leaves.insert(Symbol::from(format!("p{}", p.0)), v);
    }
    let (mut seconds, mut choices) = (0.0, vec![]);
    let mut open: HashSet<Id> = HashSet::new();
    let start = |id: &Id| Visit { id: *id, ready: false, of: *id, loc: Loc::Unknown };
    let mut stack: Vec<Visit> = s.roots.iter().rev().map(start).collect();
    while let Some(Visit { id, ready, of, loc }) = stack.pop() {
        if values.contains_key(&id) {
            continue;
        }
        let lost = || PassError::internal("extraction left a value out".into());
        let node = s.extracted.get(&id).ok_or_else(lost)?;
        let name = node.op.as_str();
        if let Some(v) = leaves.get(&node.op) {
            values.insert(id, vec![*v]);
            continue;
        }
        if name.starts_with('@') {
            values.insert(id, vec![]);
            continue;
        }
        let loc = s.writer(id).map_or(loc, |w| w.op.loc.clone());
        if !ready {
            if !open.insert(id) {
                return Err(PassError::internal("extraction chose a term of itself".into()));
            }
            let of = if result_number(name).is_some() { id } else { of };
            stack.push(Visit { id, ready: true, of, loc: loc.clone() });
            for c in node.children.iter().rev() {
                let id = s.graph.find(*c);
                let of = if result_number(name).is_some() { of } else { id };
                stack.push(Visit { id, ready: false, of, loc: loc.clone() });
            }
            continue;
        }
        open.remove(&id);
        if let Some(i) = result_number(name) {
            let all = &values[&s.graph.find(node.children[0])];
            let v = *all
                .get(i)
                .ok_or_else(|| PassError::internal(format!("term {node:?} has no result {i}")))?;
            values.insert(id, vec![v]);
            continue;
        }
        let Some((attrs, operands)) = split(node) else {
            return Err(PassError::internal(format!("term {node:?} has no attributes")));
        };
        let attrs = leaf(s.graph, attrs)
            .and_then(|l| lookup(&s.graph.analysis.table, l))
            .ok_or_else(|| PassError::internal("attributes were lost".into()))?;
        let operands: Vec<ValueId> =
            operands.iter().filter_map(|o| values[&s.graph.find(*o)].first().copied()).collect();
        let mut b = Builder::with_module(&mut out, s.module);
        b.at(&loc);
        if !s.costs.was_written(node) {
            let replaced = s.replaced(of, node);
            if replaced.iter().any(|w| w.op.kind != OpKind::Fill) {
                let choice = s.choice(of, node, &replaced);
                b.at(&choice.loc);
                choices.push(choice);
            }
        }
        let results = b.named(name, &operands, attrs)?;
        if ops::find(name).is_some() {
            seconds += s.costs.seconds(node);
        }
        values.insert(id, results);
    }
    out.results =
        s.roots.iter().filter_map(|r| values.get(r).and_then(|v| v.first().copied())).collect();
    Ok(Rebuilt { function: out, seconds, choices })
}
