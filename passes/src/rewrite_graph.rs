//! `rewrite-graph`: equality saturation (egg) over each function, then extraction by roofline time.
//!
//! ```text
//! %s = matmul(%q, %k); …; softmax; matmul; transpose   ⇒   %a:2 = attention(%q, %k, %v)
//! ```
//! Every value of a function becomes a class; rules add equal terms; the extraction picks, counting
//! shared terms once, the cheapest set of terms that computes the results. What was chosen instead of
//! what, and the times on both sides, is kept in the function's `neox.choices`, which `neoxc explain`
//! reads.

mod apply;
mod extract;
mod rebuild;
mod terms;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use egg::{Id, Pattern, Rewrite, Runner, StopReason, Symbol, SymbolLang};
use neoxc_ir::target::Rates;
use neoxc_ir::{Attr, Function, Loc, Module, Op, ValueId, keys};

use self::apply::Apply;
use self::extract::Costs;
pub use self::extract::Pick;
use self::terms::{Graph, Table, Types, intern};
use crate::pass::{Pass, PassCx, PassError, PassReport};
use crate::rules::{self, Rule};

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

/// One op that stands in the place of others.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The op chosen.
    pub op: String,
    /// Where the ops that it replaces came from.
    pub loc: Loc,
    /// Rules that made it, with their numeric classes.
    pub rules: Vec<String>,
    /// The ops that it replaces.
    pub replaced: Vec<String>,
    /// Roofline seconds of the replaced ops, and of the chosen one.
    pub seconds: (f64, f64),
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({}) for {}: {:.2} us instead of {:.2} us, at {}",
            self.op,
            self.rules.join(", "),
            self.replaced.join(" "),
            self.seconds.1 * 1e6,
            self.seconds.0 * 1e6,
            self.loc
        )
    }
}

/// What rewriting one function gave.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// How often each rule added a term, by rule name.
    pub counts: Vec<(&'static str, usize)>,
    /// Why saturation stopped: `saturated`, or the limit that was reached.
    pub stopped: String,
    /// Rounds and terms.
    pub size: (usize, usize),
    /// Roofline seconds of the function as written, and as chosen.
    pub seconds: (f64, f64),
    /// Ops in the place of others.
    pub choices: Vec<Choice>,
}

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    let mut report = PassReport::default();
    let module = Arc::new(m.clone());
    let rules: Vec<&'static Rule> = rules::all().collect();
    for f in &mut m.functions {
        let (new, o) = rewrite(f, &module, cx.machine.rates, &rules, Pick::Cheapest)?;
        *f = new;
        report.notes.push(format!(
            "@{}: {} after {} rounds with {} terms; {:.2} us as written, {:.2} us as chosen",
            f.name,
            o.stopped,
            o.size.0,
            o.size.1,
            o.seconds.0 * 1e6,
            o.seconds.1 * 1e6
        ));
        for (rule, n) in o.counts.iter().filter(|(_, n)| *n > 0) {
            report.notes.push(format!("@{}: {rule} × {n}", f.name));
        }
        report.notes.extend(o.choices.iter().map(|c| format!("@{}: {c}", f.name)));
        if !o.choices.is_empty() {
            let texts: Vec<String> = o.choices.iter().map(Choice::to_string).collect();
            f.attrs.set(keys::CHOICES, Attr::strs(&texts));
        }
    }
    Ok(report)
}

/// Rewrites `f`, a function of `module`, with `rules`; times are on the roofline of `rates`.
pub fn rewrite(
    f: &Function,
    module: &Arc<Module>,
    rates: Rates,
    rules: &[&'static Rule],
    pick: Pick,
) -> Result<(Function, Outcome), PassError> {
    let table: Table = Arc::default();
    let mut leaves = HashMap::new();
    for p in &f.params {
        leaves.insert(Symbol::from(format!("p{}", p.0)), f.ty(*p).clone());
    }
    let analysis = Types { table: table.clone(), leaves, module: module.clone(), conflict: None };
    let mut graph = Graph::new(analysis);
    let mut class: HashMap<ValueId, Id> = HashMap::new();
    for p in &f.params {
        class.insert(*p, graph.add(SymbolLang::leaf(format!("p{}", p.0))));
    }
    let mut written: Vec<Written> = vec![];
    for op in &f.ops {
        let mut children: Vec<Id> = op.operands.iter().map(|o| class[o]).collect();
        children.push(graph.add(SymbolLang::leaf(intern(&table, &op.attrs))));
        let node = SymbolLang::new(op.kind.name(), children);
        let id = graph.add(node.clone());
        let mut classes = vec![id];
        match &op.results[..] {
            [only] => {
                class.insert(*only, id);
            }
            many => {
                for (i, r) in many.iter().enumerate() {
                    let part = graph.add(SymbolLang::new(format!("r{i}"), vec![id]));
                    classes.push(part);
                    class.insert(*r, part);
                }
            }
        }
        written.push(Written { op: op.clone(), node, classes });
    }
    let log = Arc::new(Mutex::new(vec![]));
    let mut rewrites = vec![];
    for rule in rules {
        let parse = |text: &str| -> Result<Pattern<SymbolLang>, PassError> {
            text.parse().map_err(|e| PassError::internal(format!("rule {}: {e}", rule.name)))
        };
        let apply = Apply { rule, right: parse(rule.right)?, log: log.clone() };
        let rewrite = Rewrite::new(rule.name, parse(rule.left)?, apply)
            .map_err(|e| PassError::internal(format!("rule {}: {e}", rule.name)))?;
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
    let stopped = match &runner.stop_reason {
        Some(StopReason::Saturated) | None => "saturated".to_string(),
        Some(StopReason::IterationLimit(n)) => format!("stopped at the limit of {n} rounds"),
        Some(StopReason::NodeLimit(n)) => format!("stopped at the limit of {n} terms"),
        Some(other) => format!("stopped: {other:?}"),
    };
    let size = (runner.iterations.len(), runner.egraph.total_number_of_nodes());
    let graph = runner.egraph;
    if let Some(conflict) = &graph.analysis.conflict {
        return Err(PassError::internal(format!("a rule equated {conflict}")));
    }
    let log = log.lock().expect("saturation is over").clone();
    let counts = rules
        .iter()
        .map(|r| (r.name, log.iter().filter(|(rule, _)| *rule == r.name).count()))
        .collect();
    let roots: Vec<Id> = f.results.iter().map(|r| graph.find(class[r])).collect();
    let costs = Costs::new(&graph, rates, &written);
    let extracted = costs.extract(pick);
    let as_written = written.iter().map(|w| costs.seconds(&w.node)).sum();
    let rebuilt = rebuild::rebuild(&rebuild::Source {
        f,
        module,
        graph: &graph,
        extracted: &extracted,
        roots: &roots,
        written: &written,
        made: &log,
        costs: &costs,
    })?;
    let outcome = Outcome {
        counts,
        stopped,
        size,
        seconds: (as_written, rebuilt.seconds),
        choices: rebuilt.choices,
    };
    Ok((rebuilt.function, outcome))
}

/// An op as the function had it, with its term and the classes of its results.
struct Written {
    op: Op,
    node: SymbolLang,
    classes: Vec<Id>,
}
