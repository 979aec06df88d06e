//! Ops as terms: attributes as numbered leaves, types as the analysis of each class.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use egg::{Analysis, DidMerge, EGraph, Id, Language, Symbol, SymbolLang};
use neoxc_ir::op::RuleCx;
use neoxc_ir::{Attrs, Module, TensorType, ops};

pub type Graph = EGraph<SymbolLang, Types>;

/// Attributes by leaf number, shared by rules and analysis.
pub type Table = Arc<Mutex<Vec<Attrs>>>;

/// The leaf that stands for `attrs`.
pub fn intern(table: &Table, attrs: &Attrs) -> Symbol {
    let mut t = table.lock().expect("no thread panics while it holds the table");
    let n = t.iter().position(|a| a == attrs).unwrap_or_else(|| {
        t.push(attrs.clone());
        t.len() - 1
    });
    Symbol::from(format!("@{n}"))
}

/// The attributes that `leaf` stands for.
pub fn lookup(table: &Table, leaf: Symbol) -> Option<Attrs> {
    let n: usize = leaf.as_str().strip_prefix('@')?.parse().ok()?;
    table.lock().expect("no thread panics while it holds the table").get(n).cloned()
}

/// Each class knows the types of its value (several for an op with several results).
#[derive(Clone)]
pub struct Types {
    pub table: Table,
    pub leaves: HashMap<Symbol, TensorType>,
    pub module: Arc<Module>,
    /// Two types that some rule made equal: a mistake in the rule.
    pub conflict: Option<String>,
}

impl Types {
    /// Types of the results of `node`.
    pub fn infer(&self, graph: &Graph, node: &SymbolLang) -> Option<Vec<TensorType>> {
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
        kind.def().infer(&cx).ok()
    }
}

/// `i` of a term `ri`.
pub fn result_number(name: &str) -> Option<usize> {
    name.strip_prefix('r')?.parse().ok()
}

/// The attribute class and the operand classes of an op's term.
pub fn split(node: &SymbolLang) -> Option<(Id, &[Id])> {
    node.children.split_last().map(|(a, o)| (*a, o))
}

/// The attribute leaf of a class.
pub fn leaf(graph: &Graph, class: Id) -> Option<Symbol> {
    graph[class].nodes.iter().map(|n| n.op).find(|op| op.as_str().starts_with('@'))
}

impl Analysis<SymbolLang> for Types {
    type Data = Option<Vec<TensorType>>;

    fn make(graph: &mut Graph, node: &SymbolLang, _id: Id) -> Self::Data {
        graph.analysis.infer(graph, node)
    }

    fn merge(&mut self, a: &mut Self::Data, b: Self::Data) -> DidMerge {
        match (&a, b) {
            (None, Some(b)) => {
                *a = Some(b);
                DidMerge(true, false)
            }
            (Some(_), None) => DidMerge(false, true),
            (Some(x), Some(y)) if *x != y => {
                self.conflict = Some(format!("{x:?} and {y:?}"));
                DidMerge(false, false)
            }
            _ => DidMerge(false, false),
        }
    }
}
