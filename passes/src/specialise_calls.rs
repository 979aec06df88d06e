//! `specialise-calls`: a copy of each callee per call site, so that every function has one place in
//! time and its values can get fixed addresses.
//!
//! ```text
//! @train_step calls @block.fwd, @eval_step calls @block  ⇒  @train_step…, @eval_step.block
//! ```
//! Nothing is unrolled: the number of copies is that of call sites in the text.

use neoxc_ir::{Attr, Function, Module, keys};

use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "specialise-calls",
    doc: "give every call site a callee of its own",
    requires: &[Fact::HasTrainStep],
    ensures: &[Fact::OneCallSite],
    run,
};

/// Entry functions: what a plan has programs for.
///
/// A program of one rank runs a step at once; that of a pipeline's stages is cut into parts.
pub const ENTRIES: [&str; 21] = [
    "train_step",
    "eval_step",
    "logits",
    "decode",
    "round_weights",
    "train_start",
    "train_enter",
    "train_forward",
    "train_head",
    "train_backward",
    "train_backward_last",
    "train_weights",
    "train_weights_last",
    "train_leave",
    "train_finish",
    "eval_enter",
    "eval_forward",
    "eval_head",
    "logits_enter",
    "logits_forward",
    "logits_head",
];

/// The name of an entry for the stages of a class: those of the first class have no number.
pub fn name_of(base: &str, class: usize) -> String {
    if class == 0 { base.to_string() } else { format!("{base}_{class}") }
}

/// An entry's name without its class, and the class.
pub fn class_of(name: &str) -> (&str, usize) {
    let numbered = name.rsplit_once('_').and_then(|(base, n)| Some((base, n.parse().ok()?)));
    numbered.unwrap_or((name, 0))
}

/// The entries that a module has, in the order of [`ENTRIES`], of each class in turn.
pub fn entries(m: &Module) -> Vec<String> {
    let classes = m.attrs.strs(keys::CLASSES).map_or(1, |c| c.len());
    let named = |base: &'static str| (0..classes).map(move |class| name_of(base, class));
    ENTRIES.into_iter().flat_map(named).filter(|name| m.function(name).is_some()).collect()
}

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let old = std::mem::take(&mut m.functions);
    let source = Module { attrs: m.attrs.clone(), functions: old };
    let entries = entries(&source);
    for f in &source.functions {
        if entries.contains(&f.name) {
            clone_into(m, &source, f, &f.name)?;
        }
    }
    if let Some(setup) = source.function("setup") {
        m.functions.push(setup.clone());
    }
    Ok(PassReport::default())
}

/// Copies `f` as `name` into `m`, callees first.
fn clone_into(m: &mut Module, source: &Module, f: &Function, name: &str) -> Result<(), PassError> {
    let entry = name.split('.').next().unwrap_or(name).to_string();
    let mut copy = f.clone();
    copy.name = name.to_string();
    for op in &mut copy.ops {
        let Some(callee) = op.attrs.symbol("callee").map(str::to_string) else { continue };
        let g = source
            .function(&callee)
            .ok_or_else(|| PassError::internal(format!("there is no @{callee}")))?;
        let short = callee.strip_prefix(&format!("{entry}.")).unwrap_or(&callee);
        let fresh = m.fresh_name(&format!("{entry}.{short}"));
        clone_into(m, source, g, &fresh)?;
        op.attrs.set("callee", Attr::Symbol(fresh));
    }
    m.functions.push(copy);
    Ok(())
}
