//! `drop-zero-sums`: what is added once, to zeros, is stored.
//!
//! ```text
//! %z = fill 0                                    %g = repeat(@backward, %x) 12
//! %g = repeat(@backward, %x, %z) 12        ⇒
//! @backward: %s = add(%z, %dw); return %s        @backward: return %dw
//! ```
//! Gradients are sums over micro-batches. A step that has one of them would fill them with zeros, and read these
//! again to add each layer's: two sweeps over all gradients for nothing. Each iteration of the loop over layers sees a
//! slice of its own, so that one addition is all that ever happens to it. A sum over several micro-batches, or over
//! several chunks of logits, stays.
//!
//! Invariant: 0 + x is x, but for the sign of a zero.

use neoxc_ir::ops::repeat::{set_totals, totals};
use neoxc_ir::{Attr, Builder, Dim, Function, Module, Op, OpKind, ValueId};

use crate::entries::entries;
use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "drop-zero-sums",
    doc: "store what would be added to zeros once",
    requires: &[Fact::OneCallSite],
    ensures: &[Fact::OneCallSite],
    run,
};

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let mut notes = vec![];
    for entry in entries(m) {
        let Some(mut f) = m.function(&entry).cloned() else { continue };
        let zeros = f.ops.iter().filter(|op| is_zeros(op));
        let zeros: Vec<ValueId> = zeros.map(|op| op.results[0]).collect();
        let mut dropped = 0;
        for v in zeros {
            if f.ops.iter().any(|op| is_loop(op) && op.operands.contains(&v)) && vanishes(m, &f, v)
            {
                erase(m, &mut f, v)?;
                dropped += 1;
            }
        }
        if dropped > 0 {
            notes.push(format!("@{entry}: {dropped} sums over one micro-batch are stored"));
            f.remove_dead_ops();
            m.insert(f);
        }
    }
    Ok(PassReport { notes })
}

fn is_zeros(op: &Op) -> bool {
    op.kind == OpKind::Fill && op.attrs.float("value") == Some(0.0)
}

fn is_loop(op: &Op) -> bool {
    op.kind == OpKind::Repeat
}

/// How many operands of a loop are carried, and how many sliced.
fn counts(op: &Op) -> (usize, usize) {
    let int = |name| op.attrs.int(name).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    (int("carried"), int("sliced"))
}

/// Whether a loop's body sees a part of operand `k` once and never again.
fn seen_once(op: &Op, k: usize) -> bool {
    let (carried, sliced) = counts(op);
    let next = op.attrs.ints("next").is_some_and(|n| n.contains(&(k as i64)));
    if k < carried { op.attrs.int("count") == Some(1) } else { k < carried + sliced && !next }
}

/// The other operand of a sum with `v` that is as good as the sum.
fn other(f: &Function, op: &Op, v: ValueId) -> Option<ValueId> {
    let other = match op.operands[..] {
        [a, b] if a == v && b != v => b,
        [a, b] if b == v && a != v => a,
        _ => return None,
    };
    let made = f.ops.iter().any(|o| o.results.contains(&other));
    // A value has one place: what the function returns already cannot be returned again.
    let free = made && !f.results.contains(&other);
    (free && f.ty(other) == f.ty(op.results[0])).then_some(other)
}

/// Whether every use of `v`, which is zero, is a sum that can do without it, here or in a loop's body.
fn vanishes(m: &Module, f: &Function, v: ValueId) -> bool {
    let mut users = f.ops.iter().filter(|op| op.operands.contains(&v));
    let fits = |op: &Op| {
        if op.kind == OpKind::Add {
            return other(f, op, v).is_some();
        }
        if op.kind == OpKind::Reshape {
            return vanishes(m, f, op.results[0]);
        }
        let body = op.attrs.symbol("callee").and_then(|name| m.function(name));
        let Some(body) = body.filter(|_| is_loop(op)) else { return false };
        let mut at = (0..op.operands.len()).filter(|k| op.operands[*k] == v);
        // One operand at a time, so that what one leaves is looked at before the next goes.
        let (Some(k), None) = (at.next(), at.next()) else { return false };
        seen_once(op, k) && vanishes(m, body, body.params[k])
    };
    !f.results.contains(&v) && users.next().is_some_and(fits) && users.next().is_none()
}

/// Takes `v`, of which [`vanishes`] holds, out of `f`.
fn erase(m: &mut Module, f: &mut Function, v: ValueId) -> Result<(), PassError> {
    let gone = || PassError::internal("a zero has no use".into());
    let at = f.ops.iter().position(|op| op.operands.contains(&v)).ok_or_else(gone)?;
    let op = &f.ops[at];
    if op.kind == OpKind::Reshape {
        let view = op.results[0];
        erase(m, f, view)?;
        f.ops.retain(|op| op.results != [view]);
        return Ok(());
    }
    if op.kind == OpKind::Add {
        let (sum, kept) = (op.results[0], other(f, op, v).ok_or_else(gone)?);
        f.ops.remove(at);
        let uses = f.ops.iter_mut().flat_map(|op| &mut op.operands).chain(&mut f.results);
        uses.filter(|o| **o == sum).for_each(|o| *o = kept);
        return Ok(());
    }
    let k = op.operands.iter().position(|o| *o == v).ok_or_else(gone)?;
    let name = op.attrs.symbol("callee").unwrap_or_default();
    let mut body = m.function(name).cloned().ok_or_else(gone)?;
    let param = body.params[k];
    erase(m, &mut body, param)?;
    body.params.remove(k);
    body.param_attrs.remove(k);
    drop_operand(f, at, k, &mut body)?;
    body.renumber();
    m.insert(body);
    Ok(())
}

/// Takes operand `k` from the loop at `at`; of a carried one, the result becomes one of those that are stacked.
fn drop_operand(
    f: &mut Function,
    at: usize,
    k: usize,
    body: &mut Function,
) -> Result<(), PassError> {
    let op = &mut f.ops[at];
    let (carried, sliced) = counts(op);
    op.operands.remove(k);
    let fewer = if k < carried { "carried" } else { "sliced" };
    let left = if k < carried { carried } else { sliced } - 1;
    let list = totals(op);
    op.attrs.set(fewer, Attr::Int(left as i64));
    if k >= carried {
        return Ok(());
    }
    // Results behind the one that goes move up, and it comes last.
    let last = op.results.len() - 1;
    let moved = |n: usize| if n == k { last } else { n - usize::from(n > k) };
    set_totals(op, &list.into_iter().map(moved).collect::<Vec<_>>());
    let made = body.results.remove(k);
    body.results.push(made);
    let (result, loc) = (op.results.remove(k), op.loc.clone());
    let dim = op.attrs.str("dim").unwrap_or_default().to_string();
    let ty = f.ty(result).clone();
    let stacked = f.add_value(ty.stacked(Dim::new(&dim, 1)));
    f.ops[at].results.push(stacked);
    let mut b = Builder::new(f);
    b.at(&loc).reshape(stacked, &ty.dims)?;
    // The view is the value that the loop handed on, and stands behind it.
    if let Some(view) = f.ops.last_mut() {
        view.results = vec![result];
    }
    f.ops[at + 1..].rotate_right(1);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use neoxc_ir::eval::{Tensor, run as evaluate};
    use neoxc_ir::target::Target;
    use neoxc_ir::{text, verify};

    use super::*;

    /// A step of `steps` micro-batches: each adds twice its number and each layer's weights to the layer's
    /// gradients, and its number to a gradient of all layers. `%kept` is a sum that is handed out as well.
    fn step(steps: usize) -> Module {
        let w = "tensor<3x2xf32, {dims = [\"layer\", \"embed\"]}>";
        let e = "tensor<2xf32, {dims = [\"embed\"]}>";
        let s = "tensor<f32>";
        let x = format!("tensor<{steps}xf32, {{dims = [\"micro\"]}}>");
        let zeros = "\"neox.fill\"() {dims = [\"layer\", \"embed\"], dtype = \"f32\", sizes = [3, 2], value = 0.0}";
        let t = format!(
            r#"module {{
  func.func @layer(%w: {e}, %g: {e}, %k: {e}, %x: {s}) -> ({e}, {e}) {{
    %0 = "neox.mul"(%w, %x) : ({e}, {s}) -> {e}
    %1 = "neox.add"(%0, %w) : ({e}, {e}) -> {e}
    %2 = "neox.add"(%g, %1) : ({e}, {e}) -> {e}
    %3 = "neox.mul"(%k, %w) : ({e}, {e}) -> {e}
    return %2, %3 : {e}, {e}
  }}
  func.func @micro(%a: {s}, %g: {w}, %k: {w}, %x: {s}, %w: {w}) -> ({s}, {w}, {w}, {s}) {{
    %0:2 = "neox_loop.repeat"(%w, %g, %k, %x) {{callee = @layer, carried = 0, count = 3, dim = "layer", sliced = 3}} : ({w}, {w}, {w}, {s}) -> ({w}, {w})
    %1 = "neox.mul"(%x, %x) : ({s}, {s}) -> {s}
    %2 = "neox.add"(%1, %a) : ({s}, {s}) -> {s}
    return %2, %0#0, %0#1, %x : {s}, {w}, {w}, {s}
  }}
  func.func @train_step(%w: {w}, %x: {x}) -> ({s}, {w}, {w}, {x}) {{
    %z = "neox.fill"() {{dims = [], dtype = "f32", sizes = [], value = 0.0}} : () -> {s}
    %g = {zeros} : () -> {w}
    %k = {zeros} : () -> {w}
    %0:4 = "neox_loop.repeat"(%z, %g, %k, %x, %w) {{callee = @micro, carried = 3, count = {steps}, dim = "micro", sliced = 1}} : ({s}, {w}, {w}, {x}, {w}) -> ({s}, {w}, {w}, {x})
    return %0#0, %0#1, %0#2, %0#3 : {s}, {w}, {w}, {x}
  }}
}}"#
        );
        let m = text::parse(&t).unwrap();
        verify(&m).unwrap();
        m
    }

    #[test]
    fn what_is_added_to_zeros_once_is_stored_and_nothing_else() {
        for (steps, zeros) in [(1, 1), (2, 3)] {
            let mut m = step(steps);
            let f = m.function("train_step").unwrap();
            let inputs: Vec<Tensor> = f
                .params
                .iter()
                .map(|p| f.ty(*p).clone())
                .collect::<Vec<_>>()
                .into_iter()
                .map(|ty| Tensor::from_fn(ty, |i| i.iter().fold(2.5, |n, i| n * 3.0 + *i as f64)))
                .collect();
            let want = evaluate(&m, "train_step", &inputs).unwrap();
            run(&mut m, &PassCx::new(Target::X86V4)).unwrap();
            verify(&m).unwrap();
            let got = evaluate(&m, "train_step", &inputs).unwrap();
            for (a, b) in want.iter().zip(&got) {
                assert_eq!((&a.ty, &a.data), (&b.ty, &b.data), "{steps} micro-batches");
            }
            // What is not only added to stays zero first.
            let f = m.function("train_step").unwrap();
            assert_eq!(f.ops.iter().filter(|op| is_zeros(op)).count(), zeros);
            let adds = m.functions.iter().flat_map(|f| &f.ops).filter(|op| op.kind == OpKind::Add);
            assert_eq!(adds.count(), zeros);
        }
    }
}
