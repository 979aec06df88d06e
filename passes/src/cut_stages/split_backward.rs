//! The backward loop in two: gradients of activations, which the stage before waits for, and gradients of
//! weights, which nobody does.
//!
//! ```text
//! %dx, %g… = repeat(%dy, %w…, %saved…, %g…) {callee = @block.bwd}
//!   ⇒  %dx, %kept… = repeat(%dy, %w…, %saved…) {callee = @block.bwd.inputs}
//!      %g… = repeat(%saved…, %kept…, %g…) {callee = @block.bwd.weights}
//! ```

use std::collections::{HashMap, HashSet};

use neoxc_ir::{Attr, Builder, Function, Module, Op, OpKind, ValueId};

use super::copy;
use crate::pass::PassError;

/// Splits the last loop of `step`, which hands on one value.
pub fn split(m: &mut Module, step: &mut Function) -> Result<(), PassError> {
    let unsupported = |what: &str| PassError::internal(format!("@{}: {what}", step.name));
    let at = step.ops.iter().rposition(|op| op.kind == OpKind::Repeat);
    let at = at.ok_or_else(|| unsupported("there is no backward loop"))?;
    let op = step.ops[at].clone();
    let int = |name: &str| op.attrs.int(name).unwrap_or(0) as usize;
    let (carried, sliced) = (int("carried"), int("sliced"));
    let callee = op.attrs.symbol("callee").unwrap_or_default();
    let body = m.function(callee).cloned().ok_or_else(|| unsupported("the loop has no body"))?;
    if carried != 1 {
        return Err(unsupported("its backward loop hands on several values"));
    }

    let Sorted { inputs, weights, kept } = Sorted::of(&body);
    let uses = |ops: &[&Op], v: &ValueId| ops.iter().any(|op| op.operands.contains(v));
    let ends: Vec<ValueId> = body.results[1..].to_vec();

    // The bodies: parameters as before, those that are used.
    let mut one = Function::new(&m.fresh_name(&format!("{callee}.inputs")));
    let mut two = Function::new(&m.fresh_name(&format!("{callee}.weights")));
    let (mut map_one, mut map_two) = (HashMap::new(), HashMap::new());
    let (mut operands_one, mut operands_two) = (vec![], vec![]);
    let (mut sliced_one, mut sliced_two) = (0, 0);
    for (n, (p, attrs)) in body.params.iter().zip(&body.param_attrs).enumerate() {
        let label = super::label(&body, *p);
        let in_slices = (carried..carried + sliced).contains(&n);
        if n == 0 || uses(&inputs, p) {
            map_one.insert(*p, one.add_param(&label, body.ty(*p).clone(), attrs.clone()));
            operands_one.push(op.operands[n]);
            sliced_one += usize::from(in_slices);
        }
        if n == carried + sliced {
            // Slices come before what all iterations have.
            add_kept(&body, &kept, &mut two, &mut map_two);
        }
        if n != 0 && (uses(&weights, p) || ends.contains(p)) {
            map_two.insert(*p, two.add_param(&label, body.ty(*p).clone(), attrs.clone()));
            operands_two.push((in_slices, op.operands[n]));
            sliced_two += usize::from(in_slices);
        }
    }
    add_kept(&body, &kept, &mut two, &mut map_two);
    for op in inputs {
        copy(&body, op, &mut one, &mut map_one, Some(m), &|a| a.clone())?;
    }
    one.results =
        std::iter::once(body.results[0]).chain(kept.clone()).map(|v| map_one[&v]).collect();
    for op in weights {
        copy(&body, op, &mut two, &mut map_two, Some(m), &|a| a.clone())?;
    }
    two.results = ends.iter().map(|v| map_two[v]).collect();

    let attrs = |f: &Function, carried: usize, sliced: usize| {
        op.attrs
            .clone()
            .with("callee", Attr::Symbol(f.name.clone()))
            .with("carried", Attr::Int(carried as i64))
            .with("sliced", Attr::Int(sliced as i64))
    };
    let attrs_one = attrs(&one, 1, sliced_one);
    let attrs_two = attrs(&two, 0, sliced_two + kept.len());
    m.insert(one);
    m.insert(two);

    // The loops are built at the end and moved to where the old one was.
    let tail = step.ops.split_off(at + 1);
    step.ops.truncate(at);
    let mut b = Builder::with_module(step, m);
    b.at(&op.loc);
    let out_one = b.op(OpKind::Repeat, &operands_one, attrs_one)?;
    let slices = operands_two.iter().filter(|(s, _)| *s).map(|(_, v)| *v);
    let rest = operands_two.iter().filter(|(s, _)| !*s).map(|(_, v)| *v);
    let operands: Vec<ValueId> = slices.chain(out_one[1..].to_vec()).chain(rest).collect();
    let out_two = b.op(OpKind::Repeat, &operands, attrs_two)?;
    step.ops.extend(tail);
    let made = std::iter::once(out_one[0]).chain(out_two);
    replace(step, at + 2, &op.results.iter().copied().zip(made).collect());
    Ok(())
}

/// Has ops from number `from` on, and the results, use what `new` has for them.
fn replace(step: &mut Function, from: usize, new: &HashMap<ValueId, ValueId>) {
    let swap = |v: &mut ValueId| *v = new.get(v).copied().unwrap_or(*v);
    step.ops[from..].iter_mut().flat_map(|op| &mut op.operands).for_each(swap);
    step.results.iter_mut().for_each(swap);
}

/// The ops of a backward loop's body, by who waits for them.
struct Sorted<'a> {
    /// What the gradient of the loop's input needs: the stage before waits for it.
    inputs: Vec<&'a Op>,
    /// The rest: gradients of weights.
    weights: Vec<&'a Op>,
    /// What the first loop makes, or is handed, and the second needs.
    kept: Vec<ValueId>,
}

impl<'a> Sorted<'a> {
    fn of(body: &'a Function) -> Sorted<'a> {
        let mut needed: HashSet<ValueId> = HashSet::from([body.results[0]]);
        let mut first = vec![false; body.ops.len()];
        for (op, first) in body.ops.iter().zip(&mut first).rev() {
            if op.results.iter().any(|r| needed.contains(r)) {
                needed.extend(&op.operands);
                *first = true;
            }
        }
        let of = |which: bool| -> Vec<&Op> {
            body.ops.iter().zip(&first).filter(|(_, f)| **f == which).map(|(op, _)| op).collect()
        };
        let (inputs, weights) = (of(true), of(false));
        let made: HashSet<ValueId> = inputs.iter().flat_map(|op| &op.results).copied().collect();
        let mut kept: Vec<ValueId> = vec![];
        let wanted = weights.iter().flat_map(|op| &op.operands).chain(&body.results[1..]);
        for v in wanted {
            let fill = inputs.iter().any(|op| op.kind == OpKind::Fill && op.results.contains(v));
            if (made.contains(v) && !fill || *v == body.params[0]) && !kept.contains(v) {
                kept.push(*v);
            }
        }
        Sorted { inputs, weights, kept }
    }
}

/// Adds a parameter for each value that the first loop kept, once.
fn add_kept(
    body: &Function,
    kept: &[ValueId],
    to: &mut Function,
    map: &mut HashMap<ValueId, ValueId>,
) {
    for (n, v) in kept.iter().enumerate() {
        if !map.contains_key(v) {
            let p = to.add_param(&format!("kept{n}"), body.ty(*v).clone(), Default::default());
            map.insert(*v, p);
        }
    }
}
