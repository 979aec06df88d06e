//! What a class of stages does after the loop over micro-batches: its own part of the norm, and the update of
//! what it has.
//!
//! ```text
//! %n = sqrt(Σ of all parameters)    ⇒  %t = all_reduce(Σ of its own) {axis = "pipe"}   %n = sqrt(%t)
//! %w' = map(%w, …), all             ⇒  %w' = map(%w, …), its own
//! ```
//! The gradient of a tied embedding is first summed between the first stage and the last (axis `ends`); the
//! first one alone counts it.

use std::collections::{HashMap, HashSet};

use neoxc_ir::role::name_of;
use neoxc_ir::{Attr, Attrs, Builder, Function, Module, OpKind, Output, Role, ValueId};

use super::{copy, label, parameter, shrink, with_layers};
use crate::assign_stages::Class;
use crate::pass::PassError;

/// The stages that are meant.
pub struct Part<'a> {
    /// Names of the parameters that they have.
    pub held: &'a HashSet<String>,
    /// Names of those that the first stage and the last one both have.
    pub tied: &'a HashSet<String>,
    /// Their class.
    pub class: &'a Class,
    /// How many stages there are in all.
    pub stages: usize,
    /// Layers of one of them.
    pub layers: usize,
}

/// The update of one class.
pub fn cut(
    m: &Module,
    train: &Function,
    at: usize,
    carried: usize,
    p: &Part<'_>,
) -> Result<Function, PassError> {
    let mut f = Function::new("train_finish");
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    // What is on other stages.
    let mut gone: HashSet<ValueId> = HashSet::new();
    for (v, attrs) in train.params.iter().zip(&train.param_attrs) {
        let role = Role::of(attrs);
        if matches!(role, Some(Role::Batch | Role::Layers | Role::Const)) {
            continue;
        }
        let state = matches!(role, Some(Role::Parameter | Role::State));
        if state && !p.held.contains(name_of(attrs)) {
            gone.insert(*v);
            continue;
        }
        let ty = with_layers(train.ty(*v), p.layers);
        map.insert(*v, f.add_param(&label(train, *v), ty, attrs.clone()));
    }
    // Sums that another stage counts.
    let mut counted: HashSet<ValueId> = HashSet::new();
    for (n, r) in train.ops[at].results.iter().enumerate() {
        let name = if n < carried { parameter(train, n) } else { "losses" };
        let role = if n < carried { Role::Gradient } else { Role::Losses };
        if n < carried && !p.held.contains(name) {
            gone.insert(*r);
            continue;
        }
        let ty = with_layers(train.ty(*r), p.layers);
        let mut v = f.add_param(&format!("{role}{n}"), ty, role.attrs(name));
        if n < carried && p.tied.contains(name) {
            // With two stages these are all there are.
            let axis = if p.stages == 2 { "pipe" } else { "ends" };
            v = all_reduce(&mut f, v, axis, 2)?;
            if !p.class.first {
                counted.insert(*r);
            }
        }
        map.insert(*r, v);
    }
    // Sums of squares so far: partial until they are summed over the stages.
    let mut partial: HashSet<ValueId> = HashSet::new();
    for op in &train.ops[at + 1..] {
        let squares = op.kind == OpKind::SumSquares;
        let lost = |o: &&ValueId| gone.contains(*o) || squares && counted.contains(*o);
        let missing = op.operands.iter().filter(lost).count();
        let total = op.operands.iter().any(|o| partial.contains(o));
        if squares || total && op.kind == OpKind::Add {
            partial.extend(&op.results);
        }
        if missing > 0 {
            let rest = op.operands.iter().find(|o| !gone.contains(o));
            match rest.filter(|_| op.kind == OpKind::Add && missing == 1) {
                Some(rest) => {
                    map.insert(op.results[0], map[rest]);
                }
                None => gone.extend(&op.results),
            }
            continue;
        }
        if total && op.kind != OpKind::Add {
            for o in op.operands.iter().filter(|o| partial.remove(*o)) {
                let sum = all_reduce(&mut f, map[o], "pipe", p.stages)?;
                map.insert(*o, sum);
            }
        }
        copy(train, op, &mut f, &mut map, Some(m), &|a| shrink(a, p.layers))?;
    }
    let lost = || PassError::internal("@train_step does not say what its results are".into());
    let all = train.results.iter().zip(Output::all(train).ok_or_else(lost)?);
    let here = all.filter(|(r, _)| !gone.contains(r));
    let (values, what): (Vec<ValueId>, Vec<Output>) = here.map(|(r, what)| (map[r], what)).unzip();
    f.results = values;
    Output::set(&mut f, &what);
    Ok(f)
}

fn all_reduce(
    f: &mut Function,
    v: ValueId,
    axis: &str,
    ranks: usize,
) -> Result<ValueId, PassError> {
    let attrs =
        Attrs::new().with("axis", Attr::Str(axis.into())).with("ranks", Attr::Int(ranks as i64));
    Ok(Builder::new(f).one(OpKind::AllReduce, &[v], attrs)?)
}
