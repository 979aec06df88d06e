//! `specialise-calls`: a copy of each callee per call site, so that every function has one place in
//! time and its values can get fixed addresses.
//!
//! ```text
//! @train_step calls @block.fwd, @eval_step calls @block  ⇒  @train_step…, @eval_step.block
//! ```
//! Nothing is unrolled: the number of copies is that of call sites in the text.

use neoxc_ir::{Attr, Function, Module};

use crate::entries::entries;
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
