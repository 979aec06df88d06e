//! `divide-state`: gradients (ZeRO stage 2) and weights (stage 3) divided over the data ranks, as the
//! optimizer's state already is (Rajbhandari et al. 2020).
//!
//! ```text
//! @block.bwd(%sum, …)  %2 = add(%sum, %g)
//!   ⇒  @block.bwd(%sum', …)  %1 = reduce_scatter(%g) {axis = "data"}   %2 = add(%sum', %1)
//! @block.fwd(%w, …)  %y = matmul(%x, %w)
//!   ⇒  @block.fwd(%w', …)  %0 = all_gather(%w') {axis = "data"}   %y = matmul(%x, %0)
//! ```
//! Sums are scattered where something is added to them, and weights gathered where a layer needs them:
//! no rank ever holds those of more than one layer whole. The collectives that stage 1 had around the
//! update are then gone.

use neoxc_ir::op::{RuleCx, ShardEffect};
use neoxc_ir::role::{is_frozen, name_of as parameter_of};
use neoxc_ir::{
    Attr, Attrs, Function, Loc, Module, Op, OpKind, Output, Role, TensorType, ValueId, keys,
};

use crate::entries::{Entry, TRAIN_STEP, class_of, entries, name_of};
use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "divide-state",
    doc: "divide gradients and weights over the data ranks",
    requires: &[Fact::OneRank],
    ensures: &[],
    run,
};

/// A parameter of the model and the dim along which its state is divided.
struct Divided {
    name: String,
    dim: String,
}

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    let ranks = cx.degrees.data;
    if cx.zero_stage < 2 || ranks == 1 {
        return Ok(PassReport::default());
    }
    let is_update = |name: &String| Entry::parse(name).is_some_and(Entry::updates);
    let updates: Vec<String> = entries(m).into_iter().filter(is_update).collect();
    let mut d = Divide { m, ranks };
    let mut notes = vec![];
    let mut count = 0;
    for update in updates {
        let (base, class) = class_of(&update);
        let f = d.get(&update)?.clone();
        let all = divided(&f);
        for p in &all {
            let done = match base {
                "train_finish" => d.sums_of_stages(p, class)?,
                _ => d.sums_of_step(p)?,
            };
            if !done {
                notes.push(format!("the gradient of {} stays whole", p.name));
            }
        }
        if cx.zero_stage >= 3 {
            for p in &all {
                d.weights(p, &update)?;
            }
        }
        count += all.len();
    }
    for f in &mut d.m.functions {
        f.remove_dead_ops();
    }
    let what = if cx.zero_stage >= 3 { "weights and gradients" } else { "gradients" };
    notes.insert(0, format!("{what} of {count} parameters divided over {ranks} ranks"));
    Ok(PassReport { notes })
}

fn unsupported(message: &str) -> PassError {
    PassError::internal(message.to_string())
}

/// The parameters of which an update has state that is divided over `data`, and the dim.
fn divided(f: &Function) -> Vec<Divided> {
    let mut out: Vec<Divided> = vec![];
    for (v, attrs) in Role::State.all(f) {
        let layout = attrs.strs(keys::LAYOUT).unwrap_or_default();
        let name = parameter_of(attrs);
        if let Some(at) = layout.iter().position(|a| *a == "data")
            && !out.iter().any(|d| d.name == name)
        {
            out.push(Divided { name: name.into(), dim: f.ty(v).dims[at].name.to_string() });
        }
    }
    out
}

/// Sets the axis of a parameter's dim.
fn set_layout(ty: &TensorType, attrs: &mut Attrs, key: &str, base: &[String], dim: &str) {
    let mut layout: Vec<String> =
        ty.dims.iter().enumerate().map(|(i, _)| base.get(i).cloned().unwrap_or_default()).collect();
    if let Some(at) = ty.position(dim) {
        layout[at] = "data".into();
    }
    attrs.set(key, Attr::strs(&layout));
}

fn layout_of(attrs: &Attrs) -> Vec<String> {
    attrs.strs(keys::LAYOUT).unwrap_or_default().into_iter().map(str::to_string).collect()
}

struct Divide<'m> {
    m: &'m mut Module,
    ranks: usize,
}

impl Divide<'_> {
    fn get(&mut self, name: &str) -> Result<&mut Function, PassError> {
        self.m.function_mut(name).ok_or_else(|| PassError::internal(format!("no @{name}")))
    }

    fn smaller(&self, ty: &TensorType, dim: &str) -> Result<TensorType, PassError> {
        let mut ty = ty.clone();
        let at = ty.position(dim).ok_or_else(|| unsupported("a divided dim is lost"))?;
        ty.dims[at].size /= self.ranks;
        Ok(ty)
    }

    /// Makes a value smaller along `dim`.
    fn shrink(&mut self, f: &str, v: ValueId, dim: &str) -> Result<(), PassError> {
        let ty = self.get(f)?.ty(v).clone();
        let ty = self.smaller(&ty, dim)?;
        self.get(f)?.values[v.index()].ty = ty;
        Ok(())
    }

    /// Adds a collective of `x` in front of op `at`; `ty` is what it gives.
    fn collective(
        &mut self,
        f: &str,
        at: usize,
        kind: OpKind,
        x: ValueId,
        ty: TensorType,
        dim: &str,
    ) -> Result<ValueId, PassError> {
        let ranks = self.ranks as i64;
        let f = self.get(f)?;
        let result = f.add_value(ty);
        let attrs = Attrs::new()
            .with("axis", Attr::Str("data".into()))
            .with("dim", Attr::Str(dim.into()))
            .with("ranks", Attr::Int(ranks));
        let loc: Loc = f.ops[at].loc.clone();
        f.ops.insert(at, Op { kind, operands: vec![x], results: vec![result], attrs, loc });
        Ok(result)
    }

    /// The callee of an op, made its own if others call it too.
    fn callee(&mut self, f: &str, at: usize) -> Result<String, PassError> {
        let name = self.get(f)?.ops[at].attrs.symbol("callee").unwrap_or_default().to_string();
        let ops = self.m.functions.iter().flat_map(|f| &f.ops);
        if ops.filter(|op| op.attrs.symbol("callee") == Some(&name)).count() < 2 {
            return Ok(name);
        }
        let mut copy = self.get(&name)?.clone();
        let fresh = self.m.fresh_name(&name);
        copy.name.clone_from(&fresh);
        self.m.insert(copy);
        self.get(f)?.ops[at].attrs.set("callee", Attr::Symbol(fresh.clone()));
        Ok(fresh)
    }

    /// Divides a sum that comes in as value `v`: scatters whatever is added to it, and follows it to the
    /// result that hands it on, whose number is given back.
    fn sum(&mut self, f: &str, v: ValueId, dim: &str) -> Result<usize, PassError> {
        self.shrink(f, v, dim)?;
        let mut now = v;
        let mut dim = dim.to_string();
        loop {
            let g = self.get(f)?;
            let Some(at) = g.ops.iter().position(|op| op.operands.contains(&now)) else {
                let end = g.results.iter().position(|r| *r == now);
                return end.ok_or_else(|| unsupported("a sum is handed on by no result"));
            };
            let op = g.ops[at].clone();
            let slot = op.operands.iter().position(|o| *o == now).unwrap_or(0);
            match op.kind {
                OpKind::Add => {
                    let other = op.operands[1 - slot];
                    let ty = self.get(f)?.ty(other).clone();
                    let ty = self.smaller(&ty, &dim)?;
                    let part = self.collective(f, at, OpKind::ReduceScatter, other, ty, &dim)?;
                    self.get(f)?.ops[at + 1].operands[1 - slot] = part;
                    now = op.results[0];
                }
                OpKind::Reshape => {
                    let Some(kept) = self.through(f, at, &dim)? else {
                        self.add_whole(f, at, &dim)?;
                        continue;
                    };
                    dim = kept;
                    self.resize(f, at, &dim)?;
                    now = op.results[0];
                }
                OpKind::Repeat => {
                    let callee = self.callee(f, at)?;
                    let inner = self.get(&callee)?.params[slot];
                    let end = self.sum(&callee, inner, &dim)?;
                    now = op.results[end];
                }
                other => {
                    return Err(PassError::internal_at(
                        format!("a gradient's sum is used by {other}"),
                        &op.loc,
                    ));
                }
            }
            self.shrink(f, now, &dim)?;
        }
    }

    /// Adds to a sum with its own dims what is added to its view, the reshape at `at`.
    fn add_whole(&mut self, f: &str, at: usize, dim: &str) -> Result<(), PassError> {
        let ranks = self.ranks;
        let g = self.get(f)?;
        let (view, sum) = (g.ops[at].results[0], g.ops[at].operands[0]);
        let user = |g: &Function, v: ValueId, kind: OpKind| {
            let at = g.ops.iter().position(|op| op.operands.contains(&v));
            at.filter(|i| g.ops[*i].kind == kind)
                .ok_or_else(|| PassError::internal(format!("the view of a sum is not for {kind}")))
        };
        let add = user(g, view, OpKind::Add)?;
        let back = user(g, g.ops[add].results[0], OpKind::Reshape)?;
        let slot = usize::from(g.ops[add].operands[0] == view);
        let other = g.ops[add].operands[slot];
        let mut ty = g.ty(sum).clone();
        if let Some(i) = ty.position(dim) {
            ty.dims[i].size *= ranks;
        }
        let whole = g.add_value(ty.clone());
        let sizes = neoxc_ir::build::dims_attrs(&ty.dims);
        let (old_add, old_view) = (g.ops[add].clone(), g.ops[at].clone());
        let result = g.ops[back].results.clone();
        g.ops[add] = Op { operands: vec![other], results: vec![whole], attrs: sizes, ..old_view };
        g.ops[back] = Op { operands: vec![sum, whole], results: result, ..old_add };
        g.ops.remove(at);
        Ok(())
    }

    /// What the reshape at `at`, whose operand is smaller along `dim` already, calls that dim; `None` where
    /// its result cannot be divided alike.
    fn through(&mut self, f: &str, at: usize, dim: &str) -> Result<Option<String>, PassError> {
        let ranks = self.ranks;
        let g = self.get(f)?;
        let op = &g.ops[at];
        let (mut from, to) = (g.ty(op.operands[0]).clone(), g.ty(op.results[0]).clone());
        if let Some(i) = from.position(dim) {
            from.dims[i].size *= ranks;
        }
        let (operands, results) = ([from], [to]);
        let cx = RuleCx { operands: &operands, results: &results, attrs: &op.attrs, module: None };
        let rule = op.kind.def().sharding(&cx);
        let target = rule.target(dim);
        let divides = results[0].size(target).is_some_and(|n| n.is_multiple_of(ranks));
        let fits = divides && rule.effect(dim) == Some(ShardEffect::Parallel);
        Ok(fits.then(|| target.to_string()))
    }

    /// Corrects the sizes of a reshape for a smaller dim.
    fn resize(&mut self, f: &str, at: usize, dim: &str) -> Result<(), PassError> {
        let ranks = self.ranks as i64;
        let op = &mut self.get(f)?.ops[at];
        let dims = op.attrs.strs("dims").unwrap_or_default();
        let sizes = op.attrs.ints("sizes").unwrap_or_default();
        let size = |(d, s): (&&str, &i64)| if *d == dim { s / ranks } else { *s };
        let sizes: Vec<i64> = dims.iter().zip(&sizes).map(size).collect();
        op.attrs.set("sizes", Attr::ints(&sizes));
        Ok(())
    }

    /// Replaces every use of the result of the collective at `at` by `v`.
    fn bypass(&mut self, f: &str, at: usize, v: ValueId) -> Result<(), PassError> {
        let g = self.get(f)?;
        let old = g.ops[at].results[0];
        for op in &mut g.ops {
            op.operands.iter_mut().filter(|o| **o == old).for_each(|o| *o = v);
        }
        g.results.iter_mut().filter(|r| **r == old).for_each(|r| *r = v);
        Ok(())
    }

    /// The one reduce-scatter over the data ranks that takes `v`, if nothing else does.
    fn only_scatter(&mut self, f: &str, v: ValueId) -> Result<Option<usize>, PassError> {
        let g = self.get(f)?;
        let users: Vec<usize> =
            (0..g.ops.len()).filter(|i| g.ops[*i].operands.contains(&v)).collect();
        let [at] = users[..] else { return Ok(None) };
        let op = &g.ops[at];
        let fits = op.kind == OpKind::ReduceScatter && op.attrs.str("axis") == Some("data");
        Ok(fits.then_some(at))
    }

    /// The gradient of one parameter, in a step with a loop over micro-batches.
    fn sums_of_step(&mut self, p: &Divided) -> Result<bool, PassError> {
        let f = self.get(TRAIN_STEP)?;
        let trained = |(_, a): &(ValueId, &Attrs)| !is_frozen(a);
        let n = Role::Parameter.all(f).filter(trained).position(|(_, a)| parameter_of(a) == p.name);
        let micro = |op: &Op| op.attrs.str("dim") == Some("micro");
        let (Some(n), Some(at)) = (n, f.ops.iter().position(micro)) else { return Ok(false) };
        let sum = f.ops[at].results[n];
        let Some(scatter) = self.only_scatter(TRAIN_STEP, sum)? else { return Ok(false) };
        let callee = self.callee(TRAIN_STEP, at)?;
        let inner = self.get(&callee)?.params[n];
        self.sum(&callee, inner, &p.dim)?;
        self.bypass(TRAIN_STEP, scatter, sum)?;
        self.shrink(TRAIN_STEP, sum, &p.dim)?;
        // It starts from zeros, of which fewer are needed.
        let f = self.get(TRAIN_STEP)?;
        let zero = f.ops[at].operands[n];
        let made = f.ops.iter().position(|op| op.results.contains(&zero));
        let fill = f.ops[made.ok_or_else(|| unsupported("a sum starts from a parameter"))?].clone();
        let ty = f.ty(zero).clone();
        let ty = self.smaller(&ty, &p.dim)?;
        let sizes: Vec<i64> = ty.dims.iter().map(|d| d.size as i64).collect();
        let f = self.get(TRAIN_STEP)?;
        let fresh = f.add_value(ty.clone());
        let attrs = fill.attrs.clone().with("sizes", Attr::ints(&sizes));
        f.ops.insert(at, Op { operands: vec![], results: vec![fresh], attrs, ..fill });
        f.ops[at + 1].operands[n] = fresh;
        for (v, attrs) in f.params.iter().zip(&mut f.param_attrs) {
            if attrs.str(keys::PARAM) == Some(&p.name) {
                let base = layout_of(attrs);
                set_layout(&f.values[v.index()].ty, attrs, keys::GRADIENT_LAYOUT, &base, &p.dim);
            }
        }
        Ok(true)
    }

    /// The gradient of one parameter, in the programs of a pipeline's stages.
    fn sums_of_stages(&mut self, p: &Divided, class: usize) -> Result<bool, PassError> {
        let is_sum = |a: &Attrs| Role::Gradient.is(a) && parameter_of(a) == p.name;
        let finish = &name_of("train_finish", class);
        let f = self.get(finish)?;
        let Some(k) = f.param_attrs.iter().position(is_sum) else { return Ok(false) };
        let sum = f.params[k];
        let Some(scatter) = self.only_scatter(finish, sum)? else { return Ok(false) };
        self.bypass(finish, scatter, sum)?;
        self.shrink(finish, sum, &p.dim)?;
        let f = self.get(finish)?;
        let ty = f.ty(sum).clone();
        let base = layout_of(&f.param_attrs[k]);
        set_layout(&ty, &mut f.param_attrs[k], keys::LAYOUT, &base, &p.dim);
        for entry in ["train_head", "train_backward", "train_weights", "train_leave"] {
            let entry = &name_of(entry, class);
            let Some(f) = self.m.function(entry) else { continue };
            let Some(k) = f.param_attrs.iter().position(is_sum) else { continue };
            let v = f.params[k];
            if f.ops.iter().any(|op| op.operands.contains(&v)) {
                self.sum(entry, v, &p.dim)?;
            } else {
                self.shrink(entry, v, &p.dim)?;
            }
        }
        let wanted = Output::Gradient(p.name.clone());
        let start = &name_of("train_start", class);
        let f = self.get(start)?;
        let results = Output::all(f).unwrap_or_default();
        if let Some(at) = results.iter().position(|r| *r == wanted) {
            let v = f.results[at];
            self.shrink(start, v, &p.dim)?;
            let f = self.get(start)?;
            let sizes: Vec<i64> = f.ty(v).dims.iter().map(|d| d.size as i64).collect();
            if let Some(op) = f.ops.iter_mut().find(|op| op.results.contains(&v)) {
                op.attrs.set("sizes", Attr::ints(&sizes));
            }
        }
        Ok(true)
    }

    /// One parameter's weights, in every program of the class that `update` is of.
    fn weights(&mut self, p: &Divided, update: &str) -> Result<(), PassError> {
        for entry in &entries(self.m) {
            if class_of(entry).1 != class_of(update).1 {
                continue;
            }
            let Some(f) = self.m.function(entry) else { continue };
            let named = |a: &Attrs| a.str(keys::PARAM) == Some(&p.name);
            let Some(k) = f.param_attrs.iter().position(named) else { continue };
            let v = f.params[k];
            self.shrink(entry, v, &p.dim)?;
            self.weight(entry, v, &p.dim)?;
            let f = self.get(entry)?;
            let ty = f.ty(v).clone();
            let base = layout_of(&f.param_attrs[k]);
            set_layout(&ty, &mut f.param_attrs[k], keys::LAYOUT, &base, &p.dim);
            let new = Output::Parameter(p.name.clone());
            let results = Output::all(f).unwrap_or_default();
            if let Some(k) = results.iter().position(|r| *r == new && entry == update) {
                self.keep_divided(entry, k, &p.dim)?;
            }
        }
        Ok(())
    }

    /// Takes the gather over data ranks away from what makes result `k`: the new weights stay divided.
    fn keep_divided(&mut self, f: &str, k: usize, dim: &str) -> Result<(), PassError> {
        let lost = || unsupported("new weights are not gathered");
        // Gathers over other axes may follow it; they then have less to gather.
        let mut later = vec![];
        let mut v = self.get(f)?.results[k];
        loop {
            let g = self.get(f)?;
            let at = g.ops.iter().position(|op| op.results.contains(&v)).ok_or_else(lost)?;
            let op = &g.ops[at];
            if op.kind != OpKind::AllGather {
                return Err(lost());
            }
            let part = op.operands[0];
            if op.attrs.str("axis") == Some("data") {
                match later.last().copied() {
                    None => g.results[k] = part,
                    Some(next) => {
                        let at = g.ops.iter().position(|op| op.results.contains(&next));
                        g.ops[at.ok_or_else(lost)?].operands[0] = part;
                    }
                }
                break;
            }
            later.push(v);
            v = part;
        }
        later.into_iter().try_for_each(|v| self.shrink(f, v, dim))
    }

    /// Gathers a divided weight in front of its first use, or lets a callee do it.
    fn weight(&mut self, f: &str, v: ValueId, dim: &str) -> Result<(), PassError> {
        let mut whole = None;
        // What took its part of the weight now has it; its users are not to be given the whole.
        let mut parts = vec![];
        let mut at = 0;
        while at < self.get(f)?.ops.len() {
            let op = self.get(f)?.ops[at].clone();
            for slot in (0..op.operands.len()).filter(|s| op.operands[*s] == v) {
                let view = match op.kind == OpKind::Reshape {
                    true => self.through(f, at, dim)?,
                    false => None,
                };
                match op.kind {
                    OpKind::TakePart if op.attrs.str("axis") == Some("data") => {
                        parts.push(op.results[0]);
                    }
                    OpKind::Reshape if view.is_some() => {
                        let dim = view.unwrap_or_default();
                        self.resize(f, at, &dim)?;
                        self.shrink(f, op.results[0], &dim)?;
                        self.weight(f, op.results[0], &dim)?;
                    }
                    OpKind::Repeat => {
                        let callee = self.callee(f, at)?;
                        let inner = self.get(&callee)?.params[slot];
                        self.shrink(&callee, inner, dim)?;
                        self.weight(&callee, inner, dim)?;
                    }
                    _ => {
                        let gathered = match whole {
                            Some(g) => g,
                            None => {
                                let mut ty = self.get(f)?.ty(v).clone();
                                if let Some(i) = ty.position(dim) {
                                    ty.dims[i].size *= self.ranks;
                                }
                                let g = self.collective(f, at, OpKind::AllGather, v, ty, dim)?;
                                at += 1;
                                whole = Some(g);
                                g
                            }
                        };
                        self.get(f)?.ops[at].operands[slot] = gathered;
                    }
                }
            }
            at += 1;
        }
        for part in parts {
            let at = self.get(f)?.ops.iter().position(|op| op.results.contains(&part));
            self.bypass(f, at.ok_or_else(|| unsupported("a part is lost"))?, v)?;
        }
        Ok(())
    }
}
