//! One op: layouts of its operands → its layout, by its sharding rule.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use neoxc_ir::op::{RuleCx, ShardEffect, ShardRule, Sums};
use neoxc_ir::{Attr, Builder, Function, Op, TensorType, ValueId};

use super::layout::{Axis, Layout};
use super::{Body, Val};
use crate::pass::PassError;

/// The sharding rule of one op of a function.
pub fn rule(f: &Function, op: &Op) -> ShardRule {
    let types =
        |ids: &[ValueId]| -> Vec<TensorType> { ids.iter().map(|v| f.ty(*v).clone()).collect() };
    let (operands, results) = (types(&op.operands), types(&op.results));
    let cx = RuleCx { operands: &operands, results: &results, attrs: &op.attrs, module: None };
    op.kind.0.sharding(&cx)
}

/// Adds one rank's version of `op` to the body.
pub fn step(b: &mut Body<'_>, op: &Op) -> Result<(), PassError> {
    let types =
        |ids: &[ValueId]| -> Vec<TensorType> { ids.iter().map(|v| b.f.ty(*v).clone()).collect() };
    let (operands, results) = (types(&op.operands), types(&op.results));
    let rule = rule(b.f, op);
    let refuse = |what: String| {
        PassError::Unsupported(format!("{} at {}: {what}", op.kind.full_name(), op.loc))
    };

    let partial = partial_sums(b, op, rule.sums)?;

    let (context, heads) = ("context", "heads");
    // Which dims are divided, by the operands that are.
    let mut divided: BTreeMap<Arc<str>, Axis> = BTreeMap::new();
    for (o, ty) in op.operands.iter().zip(&operands) {
        let Some(layout) = b.layout(*o) else { continue };
        for (dim, axis) in ty.dims.iter().zip(&layout.dims) {
            let Some(axis) = axis else { continue };
            // An op that needs the dim whole gets it whole, and so does a view that cannot divide it.
            let ranks = b.degrees.of(axis);
            let target = rule.target(&dim.name);
            let uneven =
                |ty: &TensorType| ty.size(target).is_some_and(|n| !n.is_multiple_of(ranks));
            if rule.effect(&dim.name) == Some(ShardEffect::Whole)
                || target != &*dim.name && results.iter().any(uneven)
            {
                continue;
            }
            // Heads were divided only because the sequence had to be whole.
            let seq = rule.effect("seq").filter(|e| *e != ShardEffect::Whole && ty.has("seq"));
            if &**axis == context && &*dim.name == heads && seq.is_some() {
                divided.insert("seq".into(), axis.clone());
                continue;
            }
            // Divided in two ways, it will be as a parameter is, which cannot choose.
            if !divided.contains_key(&dim.name) || b.f.params.contains(o) {
                divided.insert(dim.name.clone(), axis.clone());
            }
        }
    }
    // What needs the whole sequence, but not all heads, has the heads divided by the ranks that divided
    // the sequence.
    let of_seq = op.operands.iter().zip(&operands).any(|(o, ty)| {
        let axis = b.layout(*o).and_then(|l| l.axis(ty, "seq").cloned());
        axis.is_some_and(|a| &*a == context)
    });
    let size = operands.iter().find_map(|ty| ty.size(heads)).unwrap_or(1);
    if of_seq
        && rule.effect("seq") == Some(ShardEffect::Whole)
        && rule.effect(heads) == Some(ShardEffect::Parallel)
        && !divided.contains_key(heads)
        && size.is_multiple_of(b.degrees.of(context))
    {
        divided.insert(heads.into(), context.into());
    }
    // Where weights are divided over the ranks that divide the sequence, the sequence is put together.
    if let Some(axis) = divided.get("seq").cloned()
        && divided.iter().any(|(dim, a)| *a == axis && &**dim != "seq")
    {
        divided.remove("seq");
    }
    for (dim, axis) in &divided {
        if divided.iter().any(|(other, a)| a == axis && other != dim) {
            return Err(refuse(format!("two dims are divided over {axis}")));
        }
    }

    let mut locals = vec![];
    for (i, (o, ty)) in op.operands.iter().zip(&operands).enumerate() {
        let layout = Layout {
            dims: ty.dims.iter().map(|d| divided.get(&d.name).cloned()).collect(),
            partial: if partial.on[i] { partial.axes.clone() } else { BTreeSet::new() },
        };
        locals.push(b.bring(*o, Some(&layout))?.0);
    }
    let mut attrs = op.attrs.clone();
    // Of a dim of the results.
    let axis_of = |dim: &str| divided.get(rule.source(dim)?).cloned();
    let ranks = |dim: &str| axis_of(dim).map_or(1, |a| b.degrees.of(&a) as i64);
    if let (Some(dims), Some(sizes)) = (op.attrs.strs("dims"), op.attrs.ints("sizes")) {
        let sizes: Vec<i64> = dims.iter().zip(sizes).map(|(d, s)| s / ranks(d)).collect();
        attrs.set("sizes", Attr::ints(&sizes));
    }
    let mut builder = Builder::new(&mut b.g);
    builder.at(&op.loc);
    let made = builder.named(op.kind.name(), &locals, attrs)?;

    for ((r, ty), v) in op.results.iter().zip(&results).zip(made) {
        let dims: Vec<Option<Axis>> = ty.dims.iter().map(|d| axis_of(&d.name)).collect();
        // A result without a dim that is divided is each rank's part of a sum over it.
        let mut sums = partial.axes.clone();
        let lost = divided.iter().filter(|(dim, _)| ty.position(rule.target(dim)).is_none());
        sums.extend(lost.map(|(_, axis)| axis.clone()));
        let layout = Layout { dims, partial: sums };
        if layout.local(ty, b.degrees).dims != b.g.ty(v).dims {
            return Err(refuse(format!("{} is not one rank's part of {ty}", b.g.ty(v))));
        }
        b.values.insert(*r, Val::Known(v, layout));
    }
    Ok(())
}

/// Partial sums that an op passes on, and which operands are ones.
struct Partial {
    axes: BTreeSet<Axis>,
    on: Vec<bool>,
}

/// Decides which partial sums the op may take as they are, and reduces the others.
fn partial_sums(b: &mut Body<'_>, op: &Op, sums: Sums) -> Result<Partial, PassError> {
    let of = |b: &Body<'_>, o: &ValueId| b.layout(*o).map(|l| l.partial).unwrap_or_default();
    let axes: BTreeSet<Axis> = op.operands.iter().flat_map(|o| of(b, o)).collect();
    let mut on = vec![false; op.operands.len()];
    if axes.is_empty() {
        return Ok(Partial { axes, on });
    }
    let count = op.operands.iter().filter(|o| !of(b, o).is_empty()).count();
    // A product of matrices is cheaper, and its result more useful, once the sum is made.
    let each = sums == Sums::Each && count == 1 && !op.kind.is("matmul");
    if each {
        for (slot, o) in on.iter_mut().zip(&op.operands) {
            *slot = !of(b, o).is_empty();
        }
        return Ok(Partial { axes, on });
    }
    if sums == Sums::Together {
        let fits = |b: &Body<'_>, o: &ValueId| match &b.values[o] {
            Val::Constant(value, _) => *value == 0.0,
            Val::Open(..) | Val::View(_) => true,
            Val::Known(_, l) => l.partial == axes || small(b, *o),
        };
        if op.operands.iter().all(|o| fits(b, o)) {
            for o in &op.operands {
                share(b, *o, &axes)?;
            }
            return Ok(Partial { axes, on: vec![true; op.operands.len()] });
        }
    }
    for o in &op.operands {
        b.reduce(*o)?;
    }
    Ok(Partial { axes: BTreeSet::new(), on })
}

fn small(b: &Body<'_>, v: ValueId) -> bool {
    b.f.ty(v).dims.is_empty()
}

/// A scalar that ranks have in common, as parts of a sum: so that a chain of sums needs one exchange.
fn share(b: &mut Body<'_>, v: ValueId, axes: &BTreeSet<Axis>) -> Result<(), PassError> {
    let Some(Val::Known(local, layout)) = b.values.get(&v).cloned() else { return Ok(()) };
    if layout.partial == *axes {
        return Ok(());
    }
    let ranks: usize = axes.difference(&layout.partial).map(|a| b.degrees.of(a)).product();
    let mut builder = Builder::new(&mut b.g);
    let part = builder.scalar(1.0 / ranks as f64)?;
    let local = builder.mul(local, part)?;
    let layout = Layout { partial: axes.clone(), ..layout };
    b.values.insert(v, Val::Known(local, layout));
    Ok(())
}
