//! How long ops take by the machine's rates.

use std::collections::HashMap;

use neoxc_ir::op::{Class, RuleCx};
use neoxc_ir::{Function, Module, Op, OpKind, TensorType, ValueId};

use crate::links::Links;
use crate::pass::PassCx;

/// Seconds of ops and functions.
pub struct Times {
    links: Links,
    /// Seconds of functions whose order is known.
    known: HashMap<String, f64>,
    /// Collectives that are on their way when a loop's body ends: by the body and the number of its result.
    late: HashMap<(String, usize), Late>,
}

/// A collective that each iteration of a loop leaves on its way.
#[derive(Debug, Clone)]
pub struct Late {
    /// Its axis.
    pub axis: String,
    /// Its seconds on the link.
    pub seconds: f64,
}

impl Times {
    /// Nothing known yet.
    pub fn new(cx: &PassCx) -> Times {
        Times { links: Links::new(cx), known: HashMap::new(), late: HashMap::new() }
    }

    /// A function takes this long from now on.
    pub fn learn(&mut self, name: &str, seconds: f64) {
        self.known.insert(name.to_string(), seconds);
    }

    /// The results of a loop's body that are on their way when it ends.
    pub fn learn_late(&mut self, f: &Function, results: &[usize]) {
        for n in results {
            let Some(op) = f.ops.iter().find(|op| op.results.contains(&f.results[*n])) else {
                continue;
            };
            let axis = op.attrs.str("axis").unwrap_or_default().to_string();
            let late = Late { axis, seconds: self.collective(f, op) };
            self.late.insert((f.name.clone(), *n), late);
        }
    }

    /// What each iteration of the loop `op` leaves on its way in result `n`.
    pub fn late(&self, op: &Op, n: usize) -> Option<&Late> {
        let callee = op.attrs.symbol("callee").filter(|_| op.kind == OpKind::Repeat)?;
        self.late.get(&(callee.to_string(), n))
    }

    /// Seconds of `entry` if every collective is waited for at once.
    pub fn blocking(&self, m: &Module, entry: &str) -> f64 {
        let Some(f) = m.function(entry) else { return 0.0 };
        let seconds =
            |op: &Op| match op.attrs.symbol("callee").filter(|_| op.kind == OpKind::Repeat) {
                Some(g) => op.attrs.int("count").unwrap_or(1) as f64 * self.blocking(m, g),
                None => self.op(m, f, op),
            };
        f.ops.iter().map(seconds).sum()
    }

    /// Whether an op is a collective that goes over a link.
    pub fn is_collective(op: &Op) -> bool {
        op.kind.def().class() == Class::Collective && op.kind != OpKind::TakePart
    }

    /// Seconds of one op of `f`.
    pub fn op(&self, m: &Module, f: &Function, op: &Op) -> f64 {
        if op.kind.def().class() == Class::View {
            return 0.0;
        }
        if Self::is_collective(op) {
            return self.collective(f, op);
        }
        let bytes = |ids: &[ValueId]| ids.iter().map(|v| f.ty(*v).bytes() as f64).sum::<f64>();
        let moved = bytes(&op.operands) + bytes(&op.results);
        let Some(g) = op.attrs.symbol("callee").and_then(|c| m.function(c)) else {
            return self.links.kernel(0.0, moved);
        };
        if op.kind == OpKind::Repeat {
            let once = match self.known.get(&g.name) {
                Some(seconds) => *seconds,
                None => g.ops.iter().map(|op| self.op(m, g, op)).sum(),
            };
            return op.attrs.int("count").unwrap_or(1) as f64 * once;
        }
        match self.known.get(&g.name) {
            Some(seconds) => *seconds,
            None => self.links.kernel(flops(m, g), moved),
        }
    }

    /// Seconds of a collective alone on its link.
    fn collective(&self, f: &Function, op: &Op) -> f64 {
        let axis = op.attrs.str("axis").unwrap_or_default();
        let (x, y) = (f.ty(op.operands[0]).bytes(), f.ty(op.results[0]).bytes());
        self.links.seconds(op.kind, axis, x.max(y))
    }
}

/// FLOPs of a kernel function.
fn flops(m: &Module, g: &Function) -> f64 {
    let types =
        |ids: &[ValueId]| -> Vec<TensorType> { ids.iter().map(|v| g.ty(*v).clone()).collect() };
    let one = |op: &Op| {
        let (operands, results) = (types(&op.operands), types(&op.results));
        let cx =
            RuleCx { operands: &operands, results: &results, attrs: &op.attrs, module: Some(m) };
        op.kind.def().cost(&cx).flops
    };
    g.ops.iter().map(one).sum()
}
