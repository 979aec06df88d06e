//! `keep-weights`: weights that every token would round are rounded once, before the first.
//!
//! ```text
//! @decode(%w): %h = cast(%w) {bf16}; …   ⇒   @decode_weights(%w) -> cast(%w) {bf16}
//!                                            @decode(%w, %h {neox.role = "cache"}): …
//! ```
//! `@decode_weights` is run where weights have changed; its results lie where `@decode` has these caches, which are
//! its last parameters. They are the plan's: what it takes of memory is known before, and nothing else knows of them.

use neoxc_ir::{Attr, Attrs, DType, Function, Module, Op, ValueId};

use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "keep-weights",
    doc: "round the weights of @decode once for all tokens",
    requires: &[],
    ensures: &[],
    run,
};

/// The entry that reads the rounded weights.
pub const READER: &str = "decode";

/// The entry that makes them.
pub const MAKER: &str = "decode_weights";

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let Some(old) = m.function(READER).cloned() else { return Ok(PassReport::default()) };
    let is_weight = |a: &Attrs| a.get("neox.param").is_some();
    let all = old.params.iter().copied().zip(&old.param_attrs);
    let weights: Vec<ValueId> = all.filter(|(_, a)| is_weight(a)).map(|(p, _)| p).collect();
    let (casts, others): (Vec<Op>, Vec<Op>) = old.ops.iter().cloned().partition(|op| {
        op.kind.is("cast")
            && weights.contains(&op.operands[0])
            && old.ty(op.results[0]).dtype != DType::F32
    });
    if casts.is_empty() {
        return Ok(PassReport::default());
    }
    let mut reader = Function { ops: others, ..old.clone() };
    for op in &casts {
        reader.params.push(op.results[0]);
        // Without a name: nobody else fills it.
        reader.param_attrs.push(Attrs::new().with("neox.role", Attr::Str("cache".into())));
    }
    reader.renumber();
    let results: Vec<ValueId> = casts.iter().map(|op| op.results[0]).collect();
    let note = format!("{} weights are rounded before the first token", results.len());
    // With all parameters, so that each lies where the other entries have it.
    let mut maker = Function { name: MAKER.into(), ops: casts, results, ..old.clone() };
    maker.params = weights;
    maker.param_attrs.retain(is_weight);
    maker.renumber();
    m.insert(reader);
    m.insert(maker);
    Ok(PassReport { notes: vec![note] })
}
