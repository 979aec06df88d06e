//! The order of all passes, grouped by the phase they end in. The only place that knows it.

use neoxc_ir::{Attr, Module, keys, text, verify};

use crate::pass::{Pass, PassCx, PassError, PassReport};
use crate::{
    assign_layouts, build_train_step, cut_stages, differentiate_loss, divide_state, drop_zero_sums,
    fuse_kernels, group_checkpoints, keep_weights, lower_precision, merge_loss_gradient,
    overlap_collectives, partition_program, peel_last_step, place_memory, prefetch_gathers,
    rewrite_graph, select_entries, specialise_calls, split_cross_entropy, split_sums,
};

/// Stages of compilation whose IR can be dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// As the model file wrote it.
    Model,
    /// Fused forms found.
    Rewritten,
    /// Gradient and optimizer added.
    Grad,
    /// Layouts assigned.
    Sharded,
    /// Every op in a kernel function.
    Fused,
    /// Every value at an address.
    Scheduled,
    /// MLIR of each kernel.
    Kernels,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Phase; 7] = [
        Phase::Model,
        Phase::Rewritten,
        Phase::Grad,
        Phase::Sharded,
        Phase::Fused,
        Phase::Scheduled,
        Phase::Kernels,
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Model => "model",
            Phase::Rewritten => "rewritten",
            Phase::Grad => "grad",
            Phase::Sharded => "sharded",
            Phase::Fused => "fused",
            Phase::Scheduled => "scheduled",
            Phase::Kernels => "kernels",
        }
    }

    /// The phase called `name`.
    pub fn parse(name: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|p| p.name() == name)
    }
}

/// Passes in order, with the phase each belongs to.
pub static PASSES: &[(Phase, Pass)] = &[
    (Phase::Rewritten, rewrite_graph::PASS),
    (Phase::Grad, group_checkpoints::PASS),
    (Phase::Grad, differentiate_loss::PASS),
    (Phase::Grad, build_train_step::PASS),
    (Phase::Grad, merge_loss_gradient::PASS),
    (Phase::Sharded, select_entries::PASS),
    (Phase::Sharded, cut_stages::PASS),
    (Phase::Sharded, assign_layouts::PASS),
    (Phase::Sharded, partition_program::PASS),
    (Phase::Sharded, divide_state::PASS),
    (Phase::Sharded, lower_precision::PASS),
    (Phase::Sharded, keep_weights::PASS),
    (Phase::Sharded, peel_last_step::PASS),
    (Phase::Fused, split_cross_entropy::PASS),
    (Phase::Fused, split_sums::PASS),
    (Phase::Fused, specialise_calls::PASS),
    (Phase::Fused, drop_zero_sums::PASS),
    (Phase::Fused, fuse_kernels::PASS),
    (Phase::Scheduled, prefetch_gathers::PASS),
    (Phase::Scheduled, overlap_collectives::PASS),
    (Phase::Scheduled, place_memory::PASS),
];

/// A pass failed: which, on what, and why.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("pass {pass}: {error}")]
pub struct PipelineError {
    /// The pass.
    pub pass: &'static str,
    /// Text of the module it was given, to replay it.
    pub input: String,
    /// Why.
    pub error: Box<PassError>,
}

/// Runs one pass: checks what it requires, runs it, verifies, checks what it ensures.
pub fn run_pass(m: &mut Module, pass: &Pass, cx: &PassCx) -> Result<PassReport, PipelineError> {
    // The head of every dump: what replays the pass on it.
    cx.note(m);
    let before = m.clone();
    let run = |m: &mut Module| -> Result<PassReport, PassError> {
        for fact in pass.requires {
            fact.check(m).map_err(|found| PassError::Requires { fact: *fact, found })?;
        }
        let report = (pass.run)(m, cx)?;
        note_run(m, pass.name);
        verify(m)?;
        for fact in pass.ensures {
            fact.check(m).map_err(|found| PassError::Ensures { fact: *fact, found })?;
        }
        Ok(report)
    };
    run(m).map_err(|error| PipelineError {
        pass: pass.name,
        input: text::print(&before),
        error: Box::new(error),
    })
}

/// The number in [`PASSES`] of the first pass that has not run on `m`.
fn next(m: &Module) -> Option<usize> {
    match m.attrs.str(keys::AFTER) {
        None => Some(0),
        Some(name) => PASSES.iter().position(|(_, p)| p.name == name).map(|i| i + 1),
    }
}

/// Notes that a pass has run, unless a later one has.
fn note_run(m: &mut Module, pass: &str) {
    let number = PASSES.iter().position(|(_, p)| p.name == pass);
    if let (Some(number), Some(next)) = (number, next(m))
        && number >= next
    {
        m.attrs.set(keys::AFTER, Attr::Str(pass.into()));
    }
}

/// The passes that have not run on `m`, by phase; all of them on a model as it was built.
///
/// # Errors
/// If the module says that a pass has run that there is not.
pub fn remaining(m: &Module) -> Result<Vec<(Phase, Vec<Pass>)>, String> {
    let first = next(m).ok_or_else(|| {
        let name = m.attrs.str(keys::AFTER).unwrap_or_default();
        format!("`neox.after` is \"{name}\", which is no pass")
    })?;
    let mut out: Vec<(Phase, Vec<Pass>)> = vec![];
    for (phase, pass) in &PASSES[first..] {
        match out.last_mut() {
            Some((last, passes)) if last == phase => passes.push(*pass),
            _ => out.push((*phase, vec![*pass])),
        }
    }
    Ok(out)
}

/// Runs all passes of `phase`.
pub fn run_phase(
    m: &mut Module,
    phase: Phase,
    cx: &PassCx,
) -> Result<Vec<(&'static str, PassReport)>, PipelineError> {
    PASSES
        .iter()
        .filter(|(p, _)| *p == phase)
        .map(|(_, pass)| run_pass(m, pass, cx).map(|r| (pass.name, r)))
        .collect()
}

/// The pass called `name`.
pub fn find(name: &str) -> Option<Pass> {
    PASSES.iter().map(|(_, p)| *p).find(|p| p.name == name)
}
