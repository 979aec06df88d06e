//! `build-train-step`: gradients of all micro-batches, clipping, the optimizer's update.
//!
//! ```text
//! @train_step(params…, state…, tokens, labels, mask, scalars…, layers, consts…)
//!   -> (params'…, state'…, loss, grad_norm)
//! ```
//! Which state and scalars there are, and what the update of one element is, the optimizer declares that the module's
//! `neox.optimizer` names (`neoxc_optimizers`). Each trained parameter is updated by one `map` of that function, so that
//! all of it is divided, placed and stored together. Batch inputs gain a leading dim `micro`. Clipping scales by
//! min(1, clip / (norm + 1e-6)) as torch.nn.utils.clip_grad_norm_ does; `neox.clip` of 0 means none. In fp16 the gradients are
//! those of the scaled loss, and the same factor takes the scale out.

mod updates;

use neoxc_ir::role::{self, name_of, state_attrs};
use neoxc_ir::{
    Attr, Attrs, Builder, DType, Dim, Function, Module, OpKind, Output, Role, TensorType, ValueId,
    keys,
};
use neoxc_optimizers::Settings;

use self::updates::{Chosen, Updates};
use crate::differentiate_loss::{LOSS_SCALE, scales_loss};
use crate::entries::{EVAL_STEP, TRAIN_STEP};
use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "build-train-step",
    doc: "build @train_step around @micro_step",
    requires: &[Fact::HasMicroStep],
    ensures: &[Fact::HasTrainStep],
    run,
};

fn unsupported(what: impl Into<String>) -> PassError {
    PassError::internal(what.into())
}

/// Adds a parameter for each of the micro-batch's that has the role, with the type that `ty` makes of its.
fn inputs(
    f: &mut Function,
    step: &Function,
    role: Role,
    ty: impl Fn(&TensorType) -> TensorType,
) -> Vec<ValueId> {
    let one = |(v, a): (ValueId, &Attrs)| {
        let name = label(step, v);
        let mut attrs = role.attrs(&name);
        if let Some(whole) = a.get(keys::WHOLE) {
            attrs.set(keys::WHOLE, whole.clone());
        }
        f.add_param(&name, ty(step.ty(v)), attrs)
    };
    role.all(step).map(one).collect()
}

fn label(f: &Function, v: ValueId) -> String {
    f.values[v.index()].name.as_deref().unwrap_or("p").to_string()
}

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let missing = |what: &str| unsupported(format!("there is no @{what}"));
    let step = m.function("micro_step").cloned().ok_or_else(|| missing("micro_step"))?;
    let eval = m.function(EVAL_STEP).ok_or_else(|| missing(EVAL_STEP))?;
    let count = eval.attrs.int(keys::GRAD_ACCUM).unwrap_or(1).max(1) as usize;
    let text = m.attrs.str(keys::OPTIMIZER).unwrap_or_default();
    let settings = Settings::parse(text).ok_or_else(|| {
        unsupported(format!("`{}` is `{text}`, which is no optimizer", keys::OPTIMIZER))
    })?;
    let clip = m.attrs.float(keys::CLIP).ok_or_else(|| missing(keys::CLIP))?;
    let mut updates = Updates::new(&settings);

    let mut f = Function::new(TRAIN_STEP);
    let params: Vec<(ValueId, Attrs)> = Role::Parameter
        .all(&step)
        .map(|(v, a)| (f.add_param(&label(&step, v), step.ty(v).clone(), a.clone()), a.clone()))
        .collect();
    let trained: Vec<(ValueId, Attrs)> =
        params.iter().filter(|(_, a)| !role::is_frozen(a)).cloned().collect();
    let of_each: Vec<Chosen> =
        trained.iter().map(|(v, a)| updates.of(m, f.ty(*v), a)).collect::<Result<_, _>>()?;
    let state = add_state(&mut f, &settings, &trained, &of_each);
    let micro = Dim::new("micro", count);
    let batch = inputs(&mut f, &step, Role::Batch, |ty| ty.stacked(micro.clone()));
    let mut scalars = vec![];
    for scalar in settings.optimizer.scalars {
        let formula = settings.substituted(scalar.formula);
        let attrs = Role::Scalar.attrs(scalar.name).with(keys::FORMULA, Attr::Str(formula));
        scalars.push(f.add_param(scalar.name, TensorType::scalar(DType::F32), attrs));
    }
    let scale = scales_loss(m).then(|| {
        let attrs = Role::Scalar.attrs(LOSS_SCALE);
        let attrs = attrs.with(keys::FORMULA, Attr::Str(LOSS_SCALE.into()));
        f.add_param(LOSS_SCALE, TensorType::scalar(DType::F32), attrs)
    });
    // What all micro-batches share: the loss scale, the numbers of the layers, if something depends on them, and
    // constants.
    let mut shared: Vec<ValueId> = scale.into_iter().collect();
    shared.extend(inputs(&mut f, &step, Role::Layers, TensorType::clone));
    shared.extend(inputs(&mut f, &step, Role::Const, TensorType::clone));

    let b = &mut Builder::with_module(&mut f, m);
    let loc = step.ops.first().map(|o| o.loc.clone()).unwrap_or_default();
    b.at(&loc);
    let mut operands = vec![];
    for (p, _) in &trained {
        let ty = b.ty(*p).clone();
        operands.push(b.fill(0.0, &ty)?);
    }
    operands.extend(&batch);
    operands.extend(params.iter().map(|(p, _)| *p));
    operands.extend(&shared);
    let attrs = Attrs::new()
        .with("callee", Attr::Symbol("micro_step".into()))
        .with("count", Attr::Int(count as i64))
        .with("carried", Attr::Int(trained.len() as i64))
        .with("sliced", Attr::Int(batch.len() as i64))
        .with("dim", Attr::Str("micro".into()));
    let out = b.op(OpKind::Repeat, &operands, attrs)?;
    let (grads, losses) = out.split_at(trained.len());
    let sum = b.reduce_sum(losses[0], &["micro"])?;
    let inverse = b.scalar(1.0 / count as f64)?;
    let loss = b.mul(sum, inverse)?;
    let (norm, factor) = clipped(b, grads, clip, scale)?;

    let mut made = vec![];
    for (i, (p, attrs)) in trained.iter().enumerate() {
        let state = state[i].iter().map(|(_, v)| *v);
        let rest: Vec<ValueId> = state.chain(scalars.iter().copied()).chain([factor]).collect();
        made.push(updates.emit(b, &of_each[i], (*p, attrs), grads[i], &rest)?);
    }
    let mut outputs: Vec<Output> = vec![];
    let named = || made.iter().zip(&trained).map(|(new, (_, a))| (new, name_of(a).to_string()));
    for (new, name) in named() {
        f.results.push(new[0]);
        outputs.push(Output::Parameter(name));
    }
    for (n, slot) in settings.optimizer.slots.iter().enumerate() {
        for ((new, name), of) in named().zip(&state) {
            if let Some(at) = of.iter().position(|(slot, _)| *slot == n) {
                f.results.push(new[1 + at]);
                outputs.push(Output::State(slot.name.into(), name));
            }
        }
    }
    outputs.extend([Output::Port("loss".into()), Output::Port("grad_norm".into())]);
    f.results.extend([loss, norm]);
    Output::set(&mut f, &outputs);
    m.insert(f);
    Ok(PassReport { notes: updates.notes() })
}

/// Adds the state of each trained parameter; of each value, the number that its slot has among all.
fn add_state(
    f: &mut Function,
    settings: &Settings,
    trained: &[(ValueId, Attrs)],
    of_each: &[Chosen],
) -> Vec<Vec<(usize, ValueId)>> {
    let mut state = vec![vec![]; trained.len()];
    for (n, slot) in settings.optimizer.slots.iter().enumerate() {
        for (i, (v, a)) in trained.iter().enumerate() {
            let kept = settings.optimizer.slots(settings, of_each[i].form);
            if !kept.iter().any(|s| s.name == slot.name) {
                continue;
            }
            let (name, ty) = (format!("{}_{}", slot.name, label(f, *v)), f.ty(*v).clone());
            let attrs = state_attrs(slot.name, name_of(a));
            state[i].push((n, f.add_param(&name, ty, attrs)));
        }
    }
    state
}

/// The norm of all gradients together, and the factor that brings it down to `clip`. Gradients of a scaled loss are `scale`
/// times too large: the norm is told without it, and the factor takes it out.
fn clipped(
    b: &mut Builder<'_>,
    grads: &[ValueId],
    clip: f64,
    scale: Option<ValueId>,
) -> Result<(ValueId, ValueId), PassError> {
    let mut total = None;
    for g in grads {
        let part = b.one(OpKind::SumSquares, &[*g], Attrs::new())?;
        total = Some(match total {
            None => part,
            Some(t) => b.add(t, part)?,
        });
    }
    let total = total.ok_or_else(|| unsupported("the model has no parameters to train"))?;
    let mut norm = b.unary(OpKind::Sqrt, total)?;
    if let Some(scale) = scale {
        norm = b.div(norm, scale)?;
    }
    let mut factor = b.scalar(1.0)?;
    if clip > 0.0 {
        let (limit, tiny) = (b.scalar(clip)?, b.scalar(1e-6)?);
        let shifted = b.add(norm, tiny)?;
        let ratio = b.div(limit, shifted)?;
        factor = b.one(OpKind::Minimum, &[ratio, factor], Attrs::new())?;
    }
    if let Some(scale) = scale {
        factor = b.div(factor, scale)?;
    }
    Ok((norm, factor))
}
