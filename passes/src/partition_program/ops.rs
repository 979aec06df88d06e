//! One op: layouts of its operands → its layout, by its sharding rule.

use std::collections::BTreeSet;
use std::sync::Arc;

use neoxc_ir::op::{RuleCx, ShardEffect, ShardRule, Sums};
use neoxc_ir::{Attr, Builder, Function, Op, OpKind, TensorType, ValueId};

use super::choose::{Divided, Uses};
use super::layout::{Axes, Axis, Layout, ranks};
use super::{Body, Val};
use crate::pass::PassError;

/// The sharding rule of one op of a function.
pub fn rule(f: &Function, op: &Op) -> ShardRule {
    let types =
        |ids: &[ValueId]| -> Vec<TensorType> { ids.iter().map(|v| f.ty(*v).clone()).collect() };
    let (operands, results) = (types(&op.operands), types(&op.results));
    let cx = RuleCx { operands: &operands, results: &results, attrs: &op.attrs, module: None };
    op.kind.def().sharding(&cx)
}

/// Adds one rank's version of `op` to the body.
pub fn step(b: &mut Body<'_>, op: &Op) -> Result<(), PassError> {
    let types =
        |ids: &[ValueId]| -> Vec<TensorType> { ids.iter().map(|v| b.f.ty(*v).clone()).collect() };
    let (operands, results) = (types(&op.operands), types(&op.results));
    let rule = rule(b.f, op);
    let refuse =
        |what: String| PassError::internal_at(format!("{}: {what}", op.kind.full_name()), &op.loc);

    let partial = partial_sums(b, op, rule.sums)?;
    let uses = Uses { op, rule: &rule, operands: &operands, results: &results };
    let (divided, scattered) = divide(b, &uses);
    for (dim, axes) in &divided {
        let shared =
            |(other, of): (&Arc<str>, &Axes)| other != dim && of.iter().any(|a| axes.contains(a));
        if divided.iter().any(shared) {
            return Err(refuse(format!(
                "`{dim}` and another dim are divided over {}",
                axes.join("+")
            )));
        }
    }

    let mut locals = vec![];
    for (i, (o, ty)) in op.operands.iter().zip(&operands).enumerate() {
        let layout = Layout {
            dims: ty
                .dims
                .iter()
                .map(|d| divided.get(&d.name).cloned().unwrap_or_default())
                .collect(),
            partial: if partial.on[i] { partial.axes.clone() } else { BTreeSet::new() },
        };
        locals.push(b.bring(*o, Some(&layout))?.0);
    }
    let mut attrs = op.attrs.clone();
    let own = |dim: &str| rule.effect(dim) == Some(ShardEffect::Own);
    if let Some((_, axes)) = divided.iter().find(|(dim, axes)| own(dim) && !axes.is_empty()) {
        locals.push(b.part(axes, &op.loc)?);
        if !rule.settled.is_empty() {
            attrs.set("axis", Attr::Str(axes[0].to_string()));
            attrs.set("ranks", Attr::Int(b.degrees.of(&axes[0]) as i64));
        }
    }
    // Of a dim of the results.
    let axes_of =
        |dim: &str| rule.source(dim).and_then(|d| divided.get(d)).cloned().unwrap_or_default();
    if let (Some(dims), Some(sizes)) = (op.attrs.strs("dims"), op.attrs.ints("sizes")) {
        let sizes: Vec<i64> =
            dims.iter().zip(sizes).map(|(d, s)| s / ranks(&axes_of(d), b.degrees) as i64).collect();
        attrs.set("sizes", Attr::ints(&sizes));
    }
    if let (Some(dim), Some(size)) = (op.attrs.str("dim"), op.attrs.int("size")) {
        attrs.set("size", Attr::Int(size / ranks(&axes_of(dim), b.degrees) as i64));
    }
    let mut builder = Builder::new(&mut b.g);
    builder.at(&op.loc);
    let made = builder.op(op.kind, &locals, attrs)?;

    for (n, ((r, ty), v)) in op.results.iter().zip(&results).zip(made).enumerate() {
        let dims: Vec<Axes> = ty.dims.iter().map(|d| axes_of(&d.name)).collect();
        // A result without a dim that is divided is each rank's part of a sum over it.
        let mut sums = partial.axes.clone();
        let settled = |dim: &str| own(dim) && rule.settled.contains(&n);
        let lost = divided
            .iter()
            .filter(|(dim, _)| ty.position(rule.target(dim)).is_none() && !settled(dim));
        sums.extend(lost.flat_map(|(_, axes)| axes.iter().cloned()));
        let layout = Layout { dims, partial: sums };
        if layout.local(ty, b.degrees).dims != b.g.ty(v).dims {
            return Err(refuse(format!("{} is not one rank's part of {ty}", b.g.ty(v))));
        }
        let mut wanted = layout.clone();
        for (d, slot) in ty.dims.iter().zip(&mut wanted.dims) {
            let Some(axes) = scattered.get(&d.name) else { continue };
            slot.clone_from(axes);
            wanted.partial.retain(|a| !axes.contains(a));
        }
        b.values.insert(*r, Val::Known(v, layout));
        let (local, layout) = b.bring(*r, Some(&wanted))?;
        b.values.insert(*r, Val::Known(local, layout));
    }
    Ok(())
}

/// Which dims are divided, by the operands that are; and the dims of results that are scattered once the
/// op has made them.
fn divide(b: &Body<'_>, uses: &Uses<'_>) -> (Divided, Divided) {
    let Uses { op, rule, operands, results } = *uses;
    let (context, heads) = ("context", "heads");
    let mut divided = Divided::new();
    for (o, ty) in op.operands.iter().zip(operands) {
        let Some(layout) = b.layout(*o) else { continue };
        for (dim, axes) in ty.dims.iter().zip(&layout.dims).filter(|(_, axes)| !axes.is_empty()) {
            let mut axes = axes.clone();
            // An op that needs the dim whole gets it whole, and so does a view that cannot divide it.
            let ranks = ranks(&axes, b.degrees);
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
            if let Some(at) = axes.iter().position(|a| &**a == context)
                && &*dim.name == heads
                && seq.is_some()
            {
                divided.entry("seq".into()).or_insert_with(|| vec![axes[at].clone()]);
                axes.remove(at);
            }
            // Divided in two ways, it will be as a parameter is, which cannot choose, or as finely as
            // any operand.
            let slot = divided.entry(dim.name.clone()).or_default();
            if axes.starts_with(slot) || b.f.params.contains(o) {
                *slot = axes;
            }
        }
    }
    // What needs the whole sequence, but not all heads, has the heads divided by the ranks that divided
    // the sequence.
    let of_seq = op.operands.iter().zip(operands).any(|(o, ty)| {
        b.layout(*o).is_some_and(|l| l.axes(ty, "seq").iter().any(|a| &**a == context))
    });
    if of_seq
        && rule.effect("seq") == Some(ShardEffect::Whole)
        && rule.effect(heads) == Some(ShardEffect::Parallel)
    {
        let mut axes = divided.get(heads).cloned().unwrap_or_default();
        if axes.iter().all(|a| &**a != context) {
            axes.push(context.into());
        }
        let size = operands.iter().find_map(|ty| ty.size(heads)).unwrap_or(1);
        if size.is_multiple_of(ranks(&axes, b.degrees)) {
            divided.insert(heads.into(), axes);
        }
    }
    uses.look_up_whole(b, &mut divided);
    // A dim that the op makes is divided as that of a parameter: whoever adds to a gradient has the rows
    // of the weight.
    let own = |dim: &str| rule.effect(dim) == Some(ShardEffect::Own);
    let mut scattered = Divided::new();
    for d in results.iter().flat_map(|ty| &ty.dims).filter(|d| own(&d.name)) {
        if !operands.iter().any(|o| o.has(&d.name)) {
            let axes = b.axes_of_parameter(d);
            let later = uses.scatters(b, &divided, &d.name, &axes);
            let into = if later { &mut scattered } else { &mut divided };
            into.insert(d.name.clone(), axes);
        }
    }
    // Where weights are divided over ranks that divide the sequence, or the groups of sequences, these
    // give way: they are put together, or redistributed into the other division.
    for dim in ["group", "seq"] {
        if let Some(mut axes) = divided.remove(dim) {
            axes.retain(|a| divided.values().all(|others| !others.contains(a)));
            divided.insert(dim.into(), axes);
        }
    }
    // An op that meets the others itself meets those along one axis.
    if !rule.settled.is_empty() {
        let met = divided.iter_mut().filter(|(dim, _)| own(dim));
        met.for_each(|(_, axes)| axes.truncate(1));
    }
    (divided, scattered)
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
    // A matmul is cheaper, and its result more useful, once the sum is made.
    let each = sums == Sums::Each && count == 1 && op.kind != OpKind::Matmul;
    // What is divided over the same ranks in another operand cannot meet a part of a sum: it is scattered there.
    let divided = |o: &ValueId| {
        b.layout(*o).is_some_and(|l| l.dims.iter().flatten().any(|a| axes.contains(a)))
    };
    if each && op.operands.iter().any(divided) {
        return Ok(Partial { axes: BTreeSet::new(), on });
    }
    if each {
        for (slot, o) in on.iter_mut().zip(&op.operands) {
            *slot = !of(b, o).is_empty();
        }
        return Ok(Partial { axes, on });
    }
    if sums == Sums::Together {
        // Parts of sums over different ranks have in common what all are parts over.
        let parts: Vec<BTreeSet<Axis>> =
            op.operands.iter().map(|o| of(b, o)).filter(|p| !p.is_empty()).collect();
        let common = parts[1..].iter().fold(parts[0].clone(), |all, p| &all & p);
        if !common.is_empty() {
            for o in &op.operands {
                let Some(have) = b.layout(*o).filter(|l| l.partial.is_superset(&common)) else {
                    continue;
                };
                let wanted = Layout { partial: common.clone(), ..have };
                let (local, layout) = b.bring(*o, Some(&wanted))?;
                b.values.insert(*o, Val::Known(local, layout));
            }
        }
        let axes = if common.is_empty() { axes } else { common };
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

/// A scalar that ranks have in common, as parts of a sum: so that a chain of sums needs one collective.
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
