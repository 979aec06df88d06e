//! `build-train-step`: gradients of all micro-batches, clipping, AdamW.
//!
//! ```text
//! @train_step(params…, adam_m…, adam_v…, tokens, labels, mask, lr, bc1, bc2, layers, consts…)
//!   -> (params'…, adam_m'…, adam_v'…, loss, grad_norm)
//! ```
//! Batch inputs gain a leading dim `micro`. Clipping scales by min(1, clip / (norm + 1e-6)) as
//! torch.nn.utils.clip_grad_norm_ does.

use neoxc_ir::{Attr, Attrs, Builder, DType, Dim, Function, Module, TensorType, ValueId, keys};

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

fn input(f: &mut Function, role: &str, name: &str, ty: TensorType) -> ValueId {
    let attrs = Attrs::new()
        .with(keys::ROLE, Attr::Str(role.into()))
        .with(keys::NAME, Attr::Str(name.into()));
    f.add_param(name, ty, attrs)
}

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let missing = |what: &str| PassError::internal(format!("there is no @{what}"));
    let step = m.function("micro_step").cloned().ok_or_else(|| missing("micro_step"))?;
    let eval = m.function("eval_step").ok_or_else(|| missing("eval_step"))?;
    let setting = |name: &str| {
        eval.attrs.float(name).ok_or_else(|| PassError::internal(format!("@loss has no `{name}`")))
    };
    let (beta1, beta2, eps) = (setting(keys::BETA1)?, setting(keys::BETA2)?, setting(keys::EPS)?);
    let (decay, clip) = (setting(keys::WEIGHT_DECAY)?, setting(keys::CLIP)?);
    let count = eval.attrs.int(keys::GRAD_ACCUM).unwrap_or(1).max(1) as usize;

    let mut f = Function::new("train_step");
    let of = |f: &Function, role: &str| -> Vec<(ValueId, Attrs)> {
        let named = |a: &Attrs| match a.get(keys::PARAM) {
            Some(_) => Some("param".to_string()),
            None => a.str(keys::ROLE).map(str::to_string),
        };
        let pairs = f.params.iter().copied().zip(f.param_attrs.clone());
        pairs.filter(|(_, a)| named(a).as_deref() == Some(role)).collect()
    };
    let name = |v: ValueId| step.values[v.index()].name.as_deref().unwrap_or("p").to_string();
    let params: Vec<(ValueId, Attrs)> = of(&step, "param")
        .into_iter()
        .map(|(v, a)| (f.add_param(&name(v), step.ty(v).clone(), a.clone()), a))
        .collect();
    let moments = |f: &mut Function, role: &str| -> Vec<ValueId> {
        of(&step, "param")
            .into_iter()
            .map(|(v, a)| {
                let which = a.str(keys::PARAM).unwrap_or_default().to_string();
                let id = input(f, role, &format!("{role}_{}", name(v)), step.ty(v).clone());
                if let Some(last) = f.param_attrs.last_mut() {
                    last.set(keys::NAME, Attr::Str(which));
                }
                id
            })
            .collect()
    };
    let (ms, vs) = (moments(&mut f, "adam_m"), moments(&mut f, "adam_v"));
    let micro = Dim::new("micro", count);
    let batch: Vec<ValueId> = of(&step, "batch")
        .into_iter()
        .map(|(v, a)| {
            let id = input(&mut f, "batch", &name(v), step.ty(v).stacked(micro.clone()));
            if let (Some(whole), Some(last)) = (a.get(keys::WHOLE), f.param_attrs.last_mut()) {
                last.set(keys::WHOLE, whole.clone());
            }
            id
        })
        .collect();
    let scalar = TensorType::scalar(DType::F32);
    let [lr, bc1, bc2] = ["lr", "bc1", "bc2"].map(|n| input(&mut f, "scalar", n, scalar.clone()));
    // What all micro-batches share: the numbers of the layers, if something depends on them, and constants.
    let mut shared = vec![];
    for role in ["layers", "const"] {
        for (v, _) in of(&step, role) {
            shared.push(input(&mut f, role, &name(v), step.ty(v).clone()));
        }
    }

    let b = &mut Builder::with_module(&mut f, m);
    let loc = step.ops.first().map(|o| o.loc.clone()).unwrap_or_default();
    b.at(&loc);
    let mut operands = vec![];
    for (p, _) in &params {
        let ty = b.ty(*p).clone();
        operands.push(b.fill(0.0, &ty)?);
    }
    operands.extend(&batch);
    operands.extend(params.iter().map(|(p, _)| *p));
    operands.extend(&shared);
    let attrs = Attrs::new()
        .with("callee", Attr::Symbol("micro_step".into()))
        .with("count", Attr::Int(count as i64))
        .with("carried", Attr::Int(params.len() as i64))
        .with("sliced", Attr::Int(batch.len() as i64))
        .with("dim", Attr::Str("micro".into()));
    let out = b.named("repeat", &operands, attrs)?;
    let (grads, losses) = out.split_at(params.len());
    let sum = b.reduce_sum(losses[0], &["micro"])?;
    let inverse = b.scalar(1.0 / count as f64)?;
    let loss = b.mul(sum, inverse)?;

    let mut total = None;
    for g in grads {
        let part = b.one("sum_squares", &[*g], Attrs::new())?;
        total = Some(match total {
            None => part,
            Some(t) => b.add(t, part)?,
        });
    }
    let total = total.ok_or_else(|| PassError::internal("the model has no parameters".into()))?;
    let norm = b.unary("sqrt", total)?;
    let factor = if clip > 0.0 {
        let (limit, tiny, one) = (b.scalar(clip)?, b.scalar(1e-6)?, b.scalar(1.0)?);
        let shifted = b.add(norm, tiny)?;
        let ratio = b.div(limit, shifted)?;
        b.one("minimum", &[ratio, one], Attrs::new())?
    } else {
        b.scalar(1.0)?
    };
    let (mut p_out, mut m_out, mut v_out) = (vec![], vec![], vec![]);
    for (i, (p, attrs)) in params.iter().enumerate() {
        let decays = attrs.flag(keys::DECAY);
        let rates = Attrs::new()
            .with("beta1", Attr::Float(beta1))
            .with("beta2", Attr::Float(beta2))
            .with("eps", Attr::Float(eps))
            .with("weight_decay", Attr::Float(if decays { decay } else { 0.0 }));
        let operands = [*p, grads[i], ms[i], vs[i], lr, bc1, bc2, factor];
        let new = b.named("adamw", &operands, rates)?;
        p_out.push(new[0]);
        m_out.push(new[1]);
        v_out.push(new[2]);
    }
    f.results = [p_out, m_out, v_out, vec![loss, norm]].concat();
    m.insert(f);
    Ok(PassReport::default())
}
