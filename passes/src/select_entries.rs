//! `select-entries`: which entries a plan has.
//!
//! ```text
//! @train_step, @eval_step, @logits, @decode   on several ranks   ⇒   without @decode
//! ```
//! `@decode` makes tokens one by one, where ranks would mostly wait for each other; on several ranks text is made
//! by `@logits`.

use neoxc_ir::Module;

use crate::entries::{Entry, Part, Program};
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
    if cx.degrees.ranks() == 1 {
        return Ok(PassReport::default());
    }
    let mut left_out = vec![Entry::new(Program::Decode, Part::Whole).to_string()];
    while let Some(name) = left_out.pop() {
        let Some(at) = m.functions.iter().position(|f| f.name == name) else { continue };
        let gone = m.functions.remove(at);
        // What nobody else calls goes with it.
        let called = |name: &str| {
            let mut ops = m.functions.iter().flat_map(|f| &f.ops);
            ops.any(|op| op.attrs.symbol("callee") == Some(name))
        };
        let callees = gone.ops.iter().filter_map(|op| op.attrs.symbol("callee"));
        left_out.extend(callees.filter(|c| !called(c)).map(str::to_string));
    }
    Ok(PassReport::default())
}
