//! `select-entries`: which entries a plan has.
//!
//! ```text
//! @train_step, @eval_step, @logits, @decode   on several ranks   ⇒   without @decode
//! ```
//! `@decode` makes tokens one by one, where ranks would mostly wait for each other; on several ranks text is made
//! by `@logits`.

use neoxc_ir::Module;

use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "select-entries",
    doc: "leave out the entries that plans of several ranks do not have",
    requires: &[],
    ensures: &[],
    run,
};

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    if cx.degrees.ranks() > 1 {
        m.functions.retain(|f| !["decode", "decode.block"].contains(&f.name.as_str()));
    }
    Ok(PassReport::default())
}
