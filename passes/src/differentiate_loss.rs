//! `differentiate-loss`: reverse mode, driven only by the ops' own gradient rules.
//!
//! ```text
//! @loss(params, tokens, …) -> loss        @micro_step(grads, tokens, …, params, …) -> (grads', loss)
//!   %x = repeat @block                  ⇒   %x, saved… = repeat @block.fwd
//!                                           …, grads' = repeat @block.bwd, reversed
//! ```
//! A gradient *starts* as its accumulator, so every contribution is an `add` that later phases do
//! in place. `@block.fwd` returns what `@block.bwd` needs; views, constants and what is pointwise in the rest of it (an
//! activation of a sum that its gradient needs as well, a norm by its statistics) are recomputed.
//! In fp16 the gradients are those of the scaled loss: the seed is multiplied by the input `loss_scale`, and twins whose
//! bodies start gradients of their own are handed it.
//! With `neox.checkpoint` only the layer's input is kept and the backward twin runs the layer again.

mod keep;

use std::collections::{HashMap, HashSet};

use neoxc_ir::build::dims_attrs;
use neoxc_ir::op::{GradCx, Gradient, OpError, RuleCx};
use neoxc_ir::ops::repeat;
use neoxc_ir::role::is_frozen;
use neoxc_ir::{
    Attr, Attrs, Builder, DType, Function, Module, Op, OpKind, Role, TensorType, ValueId, keys,
};

use crate::entries::EVAL_STEP;
use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};
use keep::Kept;

/// The pass.
pub const PASS: Pass = Pass {
    name: "differentiate-loss",
    doc: "build @micro_step and @eval_step from @loss",
    requires: &[Fact::HasLoss, Fact::CheckpointsSingle],
    ensures: &[Fact::HasMicroStep],
    run,
};

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let loss = m
        .function("loss")
        .cloned()
        .ok_or_else(|| PassError::internal("there is no @loss".into()))?;
    let scaled = scales_loss(m);
    let mut d = Differentiator { module: m, scaled };
    let step = d.micro_step(&loss)?;
    m.insert(step);
    if m.function(EVAL_STEP).is_some() {
        // The model evaluates otherwise than it trains.
        m.functions.retain(|f| f.name != "loss");
    } else if let Some(f) = m.function_mut("loss") {
        f.name = EVAL_STEP.into();
    }
    Ok(PassReport::default())
}

/// Parameters of `f` that `is` says, and what only shows them with other dims.
fn with_views(f: &Function, is: impl Fn(usize, &Attrs) -> bool) -> HashSet<ValueId> {
    let all = f.params.iter().zip(&f.param_attrs).enumerate();
    let mut out: HashSet<ValueId> =
        all.filter(|(n, (_, attrs))| is(*n, attrs)).map(|(_, (p, _))| *p).collect();
    for op in f.ops.iter().filter(|op| op.kind == OpKind::Reshape) {
        if out.contains(&op.operands[0]) {
            out.extend(&op.results);
        }
    }
    out
}

/// The twins of a loop body.
struct Twin {
    forward: String,
    backward: String,
    saved: Vec<TensorType>,
    /// Which sliced operands the backward twin reads.
    reads: Vec<bool>,
    /// Which sliced operands have a gradient.
    grads: Vec<bool>,
    /// Whether the backward twin takes the loss scale, as its last operand.
    scaled: bool,
}

struct Differentiator<'m> {
    module: &'m mut Module,
    /// Whether gradients are those of the scaled loss.
    scaled: bool,
}

type Cotangents = HashMap<ValueId, ValueId>;

impl Differentiator<'_> {
    fn micro_step(&mut self, loss: &Function) -> Result<Function, PassError> {
        let frozen = with_views(loss, |_, attrs| Role::Parameter.is(attrs) && is_frozen(attrs));
        let (mut f, twins) = self.with_forward_twins(loss, "micro_step", &frozen)?;
        let accum = loss.attrs.int(keys::GRAD_ACCUM).unwrap_or(1).max(1);
        let forward = f.ops.len();
        let mut cotangents = Cotangents::new();
        let mut carried = vec![];
        let params: Vec<(ValueId, Attrs)> =
            f.params.iter().copied().zip(f.param_attrs.clone()).collect();
        for (p, attrs) in &params {
            if Role::Parameter.is(attrs) && !is_frozen(attrs) {
                let name = format!("grad_{}", f.values[p.index()].name.as_deref().unwrap_or("p"));
                let g = f.add_param(&name, f.ty(*p).clone(), Attrs::new());
                cotangents.insert(*p, g);
                carried.push(*p);
            }
        }
        let grads = f.params[params.len()..].to_vec();
        let result = f.results[0];
        let mut b = Builder::with_module(&mut f, self.module);
        let mut seed = b.scalar(1.0 / accum as f64)?;
        let scale = self.scaled.then(|| loss_scale(&mut f));
        if let Some(scale) = scale {
            seed = Builder::new(&mut f).mul(seed, scale)?;
        }
        cotangents.insert(result, seed);
        self.reverse(&mut f, forward, (&twins, &frozen), scale, &mut cotangents)?;
        // Carried first, then what each micro-batch slices, then what all share.
        let of = |want: Role| -> Vec<(ValueId, Attrs)> {
            params.iter().filter(|(_, a)| want.is(a)).cloned().collect()
        };
        let mut order: Vec<(ValueId, Attrs)> = grads.iter().map(|g| (*g, Attrs::new())).collect();
        order.extend(of(Role::Batch));
        order.extend(of(Role::Parameter));
        order.extend(scale.map(|v| (v, Role::Scalar.attrs(LOSS_SCALE))));
        order.extend(of(Role::Layers));
        order.extend(of(Role::Const));
        (f.params, f.param_attrs) = order.into_iter().unzip();
        f.attrs.0.remove(keys::RESULTS);
        f.results = carried.iter().map(|p| cotangents[p]).chain([result]).collect();
        f.remove_dead_ops();
        Ok(f)
    }

    /// A copy of `f` whose loops call forward twins; the twins by index of their op. Nothing of `frozen` has a gradient.
    fn with_forward_twins(
        &mut self,
        f: &Function,
        name: &str,
        frozen: &HashSet<ValueId>,
    ) -> Result<(Function, HashMap<usize, Twin>), PassError> {
        let mut out = f.clone();
        out.name = name.to_string();
        let mut twins = HashMap::new();
        for (i, op) in out.ops.clone().into_iter().enumerate() {
            if op.kind == OpKind::Call {
                return Err(PassError::internal_at(
                    "calls inside @loss have no gradient".into(),
                    &op.loc,
                ));
            }
            if op.kind != OpKind::Repeat {
                continue;
            }
            let twin = self.twin(&out, &op, frozen)?;
            let count = op.attrs.int("count").unwrap_or(1) as usize;
            let dim = op.attrs.str("dim").unwrap_or_default().to_string();
            for ty in &twin.saved {
                let v = out.add_value(ty.stacked(neoxc_ir::Dim::new(&dim, count)));
                out.ops[i].results.push(v);
            }
            out.ops[i].attrs.set("callee", Attr::Symbol(twin.forward.clone()));
            out.ops[i].attrs.0.remove(keys::CHECKPOINT);
            twins.insert(i, twin);
        }
        Ok((out, twins))
    }

    /// Builds the forward and backward twins of a loop's body.
    fn twin(
        &mut self,
        f: &Function,
        op: &Op,
        frozen: &HashSet<ValueId>,
    ) -> Result<Twin, PassError> {
        let name = op.attrs.symbol("callee").unwrap_or_default().to_string();
        let body = self
            .module
            .function(&name)
            .cloned()
            .ok_or_else(|| PassError::internal(format!("there is no @{name}")))?;
        let operands: Vec<TensorType> = op.operands.iter().map(|o| f.ty(*o).clone()).collect();
        let cx = RuleCx {
            operands: &operands,
            results: &[],
            attrs: &op.attrs,
            module: Some(self.module),
        };
        let shape = repeat::shape(&cx)?;
        if body.results.len() != shape.carried {
            return Err(PassError::internal(format!("@{name} returns per-step values")));
        }
        let still =
            with_views(&body, |n, _| n >= shape.carried && frozen.contains(&op.operands[n]));
        let (mut joint, inner) = self.with_forward_twins(&body, &format!("{name}.bwd"), &still)?;
        let forward_ops = joint.ops.len();
        let checkpoint = op.attrs.int(keys::CHECKPOINT).is_some();
        // A recomputed body runs forward as it is: inner loops keep nothing for later.
        let plain = if checkpoint { body.clone() } else { joint.clone() };
        let forward_fn = Function { name: format!("{name}.fwd"), ..plain };
        let params = joint.params.clone();
        let (carried, rest) = params.split_at(shape.carried);
        let (sliced, invariant) = rest.split_at(shape.sliced);

        let mut cotangents = Cotangents::new();
        let dy = add_result_gradients(&mut joint, &mut cotangents);
        let accumulators = add_accumulators(&mut joint, sliced, &still, &mut cotangents);
        let scale = self.scaled.then(|| loss_scale(&mut joint));
        self.reverse(&mut joint, forward_ops, (&inner, &still), scale, &mut cotangents)?;
        // Most bodies start no gradient of their own.
        let scale = scale.filter(|v| joint.ops.iter().any(|op| op.operands.contains(v)));
        if let Some(v) = invariant.iter().find(|v| cotangents.contains_key(v)) {
            let name = joint.values[v.index()].name.as_deref().unwrap_or("?");
            return Err(PassError::internal(format!(
                "@{} needs the gradient of %{name}, which all iterations share",
                body.name
            )));
        }

        let mut out = gradients_of_carried(&mut joint, carried, &cotangents)?;
        out.extend(sliced.iter().filter_map(|p| cotangents.get(p)));
        let given: Vec<ValueId> = sliced.iter().chain(invariant).copied().chain(scale).collect();
        let kept = match op.attrs.int(keys::CHECKPOINT) {
            Some(_) => Kept { saved: carried.to_vec(), recomputed: (0..forward_ops).collect() },
            None => keep::what_backward_needs(&mut joint, forward_ops, carried, &given, &out)?,
        };

        let mut fwd = forward_fn;
        fwd.results.extend(&kept.saved);
        let saved: Vec<TensorType> = kept.saved.iter().map(|v| joint.ty(*v).clone()).collect();
        let mut bwd = joint;
        kept.leave_backward(&mut bwd, forward_ops);
        bwd.results = out;
        let read: HashSet<ValueId> = bwd.ops.iter().flat_map(|o| &o.operands).copied().collect();
        let reads: Vec<bool> = sliced.iter().map(|p| read.contains(p)).collect();
        let grads: Vec<bool> = accumulators.iter().map(Option::is_some).collect();
        bwd.params = [
            dy,
            sliced.iter().filter(|p| read.contains(p)).copied().collect(),
            kept.saved,
            accumulators.into_iter().flatten().collect(),
            invariant.to_vec(),
            Vec::from_iter(scale),
        ]
        .concat();
        bwd.param_attrs = vec![Attrs::new(); bwd.params.len()];
        bwd.remove_dead_ops();
        fwd.remove_dead_ops();
        let (forward, backward) = (fwd.name.clone(), bwd.name.clone());
        self.module.insert(fwd);
        self.module.insert(bwd);
        Ok(Twin { forward, backward, saved, reads, grads, scaled: scale.is_some() })
    }

    /// Appends the backward ops of the first `forward` ops of `f`.
    fn reverse(
        &mut self,
        f: &mut Function,
        forward: usize,
        (twins, frozen): (&HashMap<usize, Twin>, &HashSet<ValueId>),
        scale: Option<ValueId>,
        cotangents: &mut Cotangents,
    ) -> Result<(), PassError> {
        for i in (0..forward).rev() {
            let op = f.ops[i].clone();
            let d: Vec<Option<ValueId>> =
                op.results.iter().map(|r| cotangents.get(r).copied()).collect();
            if d.iter().all(Option::is_none) {
                continue;
            }
            if let Some(twin) = twins.get(&i) {
                self.reverse_loop(f, &op, (twin, scale), cotangents)?;
                continue;
            }
            let mut b = Builder::with_module(f, self.module);
            b.at(&op.loc);
            let cx = &mut GradCx { op: &op, cotangents: &d, scale, b: &mut b };
            let rule = op.kind.def().gradient(cx)?;
            let grads = match rule {
                Gradient::Operands(grads) => grads,
                Gradient::None(why) => {
                    return Err(PassError::internal_at(
                        format!("{} has no gradient: {why}", op.kind.full_name()),
                        &op.loc,
                    ));
                }
            };
            for (o, g) in op.operands.iter().zip(grads).filter(|(o, _)| !frozen.contains(o)) {
                if let Some(g) = g {
                    match op.kind == OpKind::Reshape {
                        true => accumulate_view(&mut b, cotangents, *o, g, &op.results[0])?,
                        false => accumulate(&mut b, cotangents, *o, g)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn reverse_loop(
        &mut self,
        f: &mut Function,
        op: &Op,
        (twin, scale): (&Twin, Option<ValueId>),
        cotangents: &mut Cotangents,
    ) -> Result<(), PassError> {
        let at = |name: &str| op.attrs.int(name).unwrap_or(0) as usize;
        let (carried, sliced) = (at("carried"), at("sliced"));
        let body = self
            .module
            .function(&twin.backward)
            .ok_or_else(|| OpError::new("the backward twin is missing"))?
            .clone();
        let views: Vec<Op> = f.ops.iter().filter(|o| o.kind == OpKind::Reshape).cloned().collect();
        let mut b = Builder::with_module(f, self.module);
        b.at(&op.loc);
        let mut operands = vec![];
        for r in &op.results[..carried] {
            operands.push(match cotangents.get(r) {
                Some(d) => *d,
                None => {
                    let ty = b.ty(*r).clone();
                    b.fill(0.0, &ty)?
                }
            });
        }
        let slices = &op.operands[carried..carried + sliced];
        operands.extend(slices.iter().zip(&twin.reads).filter(|(_, r)| **r).map(|(p, _)| *p));
        operands.extend(&op.results[carried..]);
        let with_grad: Vec<ValueId> =
            slices.iter().zip(&twin.grads).filter(|(_, g)| **g).map(|(p, _)| *p).collect();
        for (n, p) in with_grad.iter().enumerate() {
            if with_grad[..n].contains(p) {
                return Err(PassError::internal_at(
                    "a loop takes one stacked value twice".into(),
                    &op.loc,
                ));
            }
            operands.push(accumulator(&mut b, &views, cotangents, *p)?);
        }
        let sliced = operands.len() - carried;
        operands.extend(&op.operands[carried + slices.len()..]);
        operands.extend(scale.filter(|_| twin.scaled));
        if operands.len() != body.params.len() {
            return Err(OpError::new("the backward twin takes other operands").into());
        }
        let mut attrs = op.attrs.clone();
        attrs.set("callee", Attr::Symbol(twin.backward.clone()));
        attrs.set("sliced", Attr::Int(sliced as i64));
        attrs.set("reverse", Attr::Bool(!op.attrs.flag("reverse")));
        let out = b.op(OpKind::Repeat, &operands, attrs)?;
        for (o, d) in op.operands[..carried].iter().zip(&out) {
            accumulate(&mut b, cotangents, *o, *d)?;
        }
        for (p, g) in with_grad.iter().zip(&out[carried..]) {
            cotangents.insert(*p, *g);
        }
        Ok(())
    }
}

/// The name of the number that the loss is multiplied by.
pub(crate) const LOSS_SCALE: &str = "loss_scale";

/// Whether gradients are those of the scaled loss: in fp16, whose smallest numbers they would fall below.
pub(crate) fn scales_loss(m: &Module) -> bool {
    m.attrs.str(keys::PRECISION) == Some(DType::F16.name())
}

/// The loss scale as an input of `f`.
fn loss_scale(f: &mut Function) -> ValueId {
    f.add_param(LOSS_SCALE, TensorType::scalar(DType::F32), Attrs::new())
}

/// Adds a parameter for the gradient of each result, which backward starts from.
fn add_result_gradients(f: &mut Function, cotangents: &mut Cotangents) -> Vec<ValueId> {
    let mut dy = vec![];
    for (i, r) in f.results.clone().into_iter().enumerate() {
        let d = f.add_param(&format!("d{i}"), f.ty(r).clone(), Attrs::new());
        cotangents.insert(r, d);
        dy.push(d);
    }
    dy
}

/// Adds a parameter for the sum of gradients of each sliced value that has one: floats that are not `still`.
fn add_accumulators(
    f: &mut Function,
    sliced: &[ValueId],
    still: &HashSet<ValueId>,
    cotangents: &mut Cotangents,
) -> Vec<Option<ValueId>> {
    let one = |p: &ValueId| {
        let ty = f.ty(*p).clone();
        if !ty.dtype.is_float() || still.contains(p) {
            return None;
        }
        let name = f.values[p.index()].name.clone().unwrap_or_default();
        let g = f.add_param(&format!("grad_{name}"), ty, Attrs::new());
        cotangents.insert(*p, g);
        Some(g)
    };
    sliced.iter().map(one).collect()
}

/// The gradients of the carried values; zeros where nothing depends on one.
fn gradients_of_carried(
    f: &mut Function,
    carried: &[ValueId],
    cotangents: &Cotangents,
) -> Result<Vec<ValueId>, PassError> {
    let mut out = vec![];
    for c in carried {
        let ty = f.ty(*c).clone();
        out.push(match cotangents.get(c) {
            Some(d) => *d,
            None => Builder::new(f).fill(0.0, &ty)?,
        });
    }
    Ok(out)
}

/// Where the gradient of `v` is summed up: what there is of it already. The sum of a reshaped value is
/// taken over from the value that it shows, which gets it back when the reshape's turn comes.
fn accumulator(
    b: &mut Builder<'_>,
    views: &[Op],
    cotangents: &mut Cotangents,
    v: ValueId,
) -> Result<ValueId, PassError> {
    if let Some(g) = cotangents.get(&v) {
        return Ok(*g);
    }
    let ty = b.ty(v).clone();
    if let Some(view) = views.iter().find(|o| o.results[0] == v)
        && let Some(whole) = cotangents.remove(&view.operands[0])
    {
        return Ok(b.one(OpKind::Reshape, &[whole], dims_attrs(&ty.dims))?);
    }
    Ok(b.fill(0.0, &ty)?)
}

/// Adds the gradient `g` of `v`, made by reshaping that of the view `of`. The sum is taken with the view's
/// dims, so that it stands next to what makes the gradient and can be done in place there.
fn accumulate_view(
    b: &mut Builder<'_>,
    cotangents: &mut Cotangents,
    v: ValueId,
    g: ValueId,
    of: &ValueId,
) -> Result<(), PassError> {
    let (Some(old), Some(made)) = (cotangents.get(&v).copied(), cotangents.get(of).copied()) else {
        return accumulate(b, cotangents, v, g);
    };
    let (whole, view) = (b.ty(v).dims.clone(), b.ty(made).dims.clone());
    let old = b.reshape(old, &view)?;
    let sum = b.add(old, made)?;
    let sum = b.reshape(sum, &whole)?;
    cotangents.insert(v, sum);
    Ok(())
}

fn accumulate(
    b: &mut Builder<'_>,
    cotangents: &mut Cotangents,
    v: ValueId,
    g: ValueId,
) -> Result<(), PassError> {
    let sum = match cotangents.get(&v) {
        Some(old) => b.add(*old, g)?,
        None => g,
    };
    cotangents.insert(v, sum);
    Ok(())
}
