//! Applies a rule's right side with its computed attributes, if types agree.

use std::sync::{Arc, Mutex};

use egg::{Id, Language, Pattern, Subst, Symbol, SymbolLang, Var};
use neoxc_ir::{Attrs, TensorType};

use super::terms::{Graph, Types, intern, leaf, lookup};
use crate::rules::{Match, Rule};

/// What was added: the rule, and the class of its right side.
pub type Log = Arc<Mutex<Vec<(&'static str, Id)>>>;

pub struct Apply {
    pub rule: &'static Rule,
    pub right: Pattern<SymbolLang>,
    pub log: Log,
}

/// A match, as a rule's condition sees it.
struct Bound<'a> {
    graph: &'a Graph,
    subst: &'a Subst,
}

impl Bound<'_> {
    fn class(&self, var: &str) -> Option<Id> {
        self.subst.get(var.parse::<Var>().ok()?).copied()
    }
}

impl Match for Bound<'_> {
    fn attrs(&self, var: &str) -> Option<Attrs> {
        lookup(&self.graph.analysis.table, leaf(self.graph, self.class(var)?)?)
    }

    fn ty(&self, var: &str) -> Option<TensorType> {
        self.graph[self.class(var)?].data.as_ref()?.first().cloned()
    }
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
        let Some(attrs) = (self.rule.attrs)(&Bound { graph, subst }) else { return vec![] };
        let mut subst = subst.clone();
        if let Ok(new) = "?new".parse::<Var>() {
            let leaf = intern(&graph.analysis.table, &attrs);
            let id = graph.add(SymbolLang::leaf(leaf));
            subst.insert(new, id);
        }
        let before = graph[class].data.clone();
        let Some(new) = instantiate(graph, &self.right, &subst) else { return vec![] };
        if before.is_some() && graph[new].data != before {
            return vec![];
        }
        if !graph.union(class, new) {
            return vec![];
        }
        let mut log = self.log.lock().expect("no thread panics while it holds the log");
        log.push((self.rule.name, new));
        vec![new]
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
