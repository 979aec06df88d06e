//! Facts about a module that passes rely on and leave behind.
//!
//! A pass names the facts it `requires` and `ensures`; [`crate::pipeline::run_pass`] checks both, so
//! that a module edited by hand, or passes named in another order, are refused with the broken
//! promise instead of failing somewhere inside.

use std::collections::HashSet;

use neoxc_ir::op::Class;
use neoxc_ir::{Module, OpKind, ValueId, keys};

use crate::entries::{EVAL_STEP, TRAIN_STEP, entries};

/// One checked property of a whole module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    /// There is @loss, the model's forward pass for one micro-batch.
    HasLoss,
    /// Every checkpointed loop recomputes one iteration at a time.
    CheckpointsSingle,
    /// There are @micro_step and @eval_step.
    HasMicroStep,
    /// There is @train_step.
    HasTrainStep,
    /// Every type has the sizes of one rank's part.
    OneRank,
    /// No op computes the logits of a whole micro-batch together with its loss.
    HeadInChunks,
    /// Every function but the entries has one call site.
    OneCallSite,
    /// Outside kernel functions there are only calls, loops, views and collectives.
    InKernels,
    /// What a collective under way makes is waited for before it is used.
    WaitedFor,
    /// Every value outside kernel functions has an address.
    Placed,
}

impl Fact {
    /// Every fact.
    pub const ALL: [Fact; 10] = [
        Fact::HasLoss,
        Fact::CheckpointsSingle,
        Fact::HasMicroStep,
        Fact::HasTrainStep,
        Fact::OneRank,
        Fact::HeadInChunks,
        Fact::OneCallSite,
        Fact::InKernels,
        Fact::WaitedFor,
        Fact::Placed,
    ];

    /// What holds, as a sentence for messages.
    pub fn says(self) -> &'static str {
        match self {
            Fact::HasLoss => "there is a function @loss",
            Fact::CheckpointsSingle => "every checkpointed loop recomputes one iteration at a time",
            Fact::HasMicroStep => "there are functions @micro_step and @eval_step",
            Fact::HasTrainStep => "there is a function @train_step or @train_finish",
            Fact::OneRank => "every entry is one rank's program",
            Fact::HeadInChunks => "head and loss are computed in chunks of tokens",
            Fact::OneCallSite => "every function but the entries has one call site",
            Fact::InKernels => "every computation is inside a kernel function",
            Fact::WaitedFor => "what a collective under way makes is waited for before it is used",
            Fact::Placed => "every value has an address",
        }
    }

    /// Checks the fact; the error names where it fails.
    pub fn check(self, m: &Module) -> Result<(), String> {
        let needs = |name: &str| match m.function(name) {
            Some(_) => Ok(()),
            None => Err(format!("there is no @{name}")),
        };
        let fail = |found: Option<String>| found.map_or(Ok(()), Err);
        let plain = || m.functions.iter().filter(|f| f.attrs.get(keys::KERNEL).is_none());
        match self {
            Fact::HasLoss => needs("loss"),
            Fact::HasMicroStep => needs("micro_step").and(needs(EVAL_STEP)),
            Fact::HasTrainStep => needs(TRAIN_STEP).or(needs("train_finish")),
            Fact::CheckpointsSingle => fail(plain().find_map(|f| {
                let op = f.ops.iter().find(|o| o.attrs.int(keys::CHECKPOINT) > Some(1))?;
                Some(format!("@{} at {}", f.name, op.loc))
            })),
            Fact::OneRank => match m.attrs.strs(keys::MESH) {
                Some(_) => Ok(()),
                None => Err("the module has no `neox.mesh`".into()),
            },
            Fact::HeadInChunks => fail(plain().find_map(|f| {
                let op =
                    f.ops.iter().find(|o| o.kind.name().starts_with("linear_cross_entropy"))?;
                Some(format!("@{} has {}", f.name, op.kind.full_name()))
            })),
            Fact::OneCallSite => {
                let mut seen = HashSet::new();
                let callees = plain().flat_map(|f| &f.ops).filter_map(|o| o.attrs.symbol("callee"));
                let bodies = callees
                    .filter(|c| m.function(c).is_some_and(|g| g.attrs.get(keys::KERNEL).is_none()));
                let mut twice = bodies.filter(|c| !seen.insert(c.to_string()));
                fail(twice.next().map(|c| format!("@{c} has several")))
            }
            Fact::InKernels => fail(reachable(m).into_iter().find_map(|f| {
                let op = f.ops.iter().find(|o| {
                    !matches!(o.kind.def().class(), Class::View | Class::Call | Class::Collective)
                })?;
                Some(format!("@{} has {} at {}", f.name, op.kind.full_name(), op.loc))
            })),
            Fact::WaitedFor => fail(reachable(m).into_iter().find_map(|f| {
                let uses = f.use_counts();
                let op = f.ops.iter().filter(|o| o.kind == OpKind::Wait).find(|o| {
                    let x = o.operands[0];
                    uses[x.index()] != 1 || !starts(m, f, x)
                })?;
                Some(format!("@{} at {}", f.name, op.loc))
            })),
            Fact::Placed => fail(reachable(m).into_iter().find_map(|f| {
                let params = f.param_attrs.iter().all(|a| a.strs(keys::PLACE).is_some());
                let ops = f.ops.iter().all(|o| o.attrs.strs(keys::PLACE).is_some());
                (!params || !ops).then(|| format!("@{} has a value without one", f.name))
            })),
        }
    }
}

/// Whether `x` is what a collective of `f` makes, or what the iterations of a loop leave that end with one.
fn starts(m: &Module, f: &neoxc_ir::Function, x: ValueId) -> bool {
    let Some(op) = f.ops.iter().find(|op| op.results.contains(&x)) else { return false };
    if op.kind != OpKind::Repeat {
        return op.kind.def().class() == Class::Collective && op.kind != OpKind::TakePart;
    }
    let n = op.results.iter().position(|r| *r == x).unwrap_or(0);
    let body = op.attrs.symbol("callee").and_then(|c| m.function(c));
    let stacked = n >= op.attrs.int("carried").unwrap_or(0) as usize;
    body.is_some_and(|g| {
        let inner = g.results[n];
        stacked && g.use_counts()[inner.index()] == 1 && starts(m, g, inner)
    })
}

/// Functions that an entry reaches and that are not kernels.
fn reachable(m: &Module) -> Vec<&neoxc_ir::Function> {
    let mut out: Vec<&neoxc_ir::Function> = vec![];
    let mut todo: Vec<String> = entries(m);
    while let Some(name) = todo.pop() {
        let Some(f) = m.function(&name) else { continue };
        if f.attrs.get(keys::KERNEL).is_some() || out.iter().any(|g| g.name == f.name) {
            continue;
        }
        out.push(f);
        todo.extend(f.ops.iter().filter_map(|o| o.attrs.symbol("callee")).map(str::to_string));
    }
    out
}
