//! Whether a loop body only adds to what it is handed: then its iterations may be divided over ranks
//! and what they add be summed afterwards.

use neoxc_ir::{Function, Module, OpKind, ValueId};

/// Whether result `result` of `f` is its parameter number `param` plus something that does not depend
/// on that parameter.
pub fn only_adds(m: &Module, f: &Function, param: usize, result: usize) -> bool {
    f.results.get(result).and_then(|r| base(m, f, *r)) == f.params.get(param).copied()
}

/// The parameter that `v` is the sum of and other things; every value on the way is used once.
fn base(m: &Module, f: &Function, v: ValueId) -> Option<ValueId> {
    let uses = f.ops.iter().flat_map(|o| &o.operands).filter(|o| **o == v).count()
        + f.results.iter().filter(|r| **r == v).count();
    if uses != 1 {
        return None;
    }
    if f.params.contains(&v) {
        return Some(v);
    }
    let op = f.ops.iter().find(|o| o.results.contains(&v))?;
    match op.kind {
        OpKind::Add => {
            let mut sides = op.operands.iter().filter_map(|o| base(m, f, *o));
            match (sides.next(), sides.next()) {
                (Some(p), None) => Some(p),
                _ => None,
            }
        }
        OpKind::Reshape => base(m, f, op.operands[0]),
        OpKind::Repeat => {
            let at = |name: &str| op.attrs.int(name).unwrap_or(0) as usize;
            let (carried, sliced) = (at("carried"), at("sliced"));
            let body = m.function(op.attrs.symbol("callee")?)?;
            let n = op.results.iter().position(|r| *r == v)?;
            let from = if n < carried { n..n + 1 } else { carried..carried + sliced };
            let p = from.into_iter().find(|p| only_adds(m, body, *p, n))?;
            base(m, f, op.operands[p])
        }
        _ => None,
    }
}
