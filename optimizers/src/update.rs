//! The update of one element as a function of numbers in the IR: `@update(w, g, state…, scalar…) -> (w', state'…)`.

use std::collections::HashMap;

use neoxc_ir::op::OpError;
use neoxc_ir::{Attrs, Builder, DType, Function, OpKind, TensorType, ValueId};

use crate::{Form, LR, Settings};

/// An update under way: what it reads, and where its ops go.
pub struct Update<'a, 'b> {
    b: &'a mut Builder<'b>,
    settings: &'a Settings,
    weight: ValueId,
    gradient: ValueId,
    whole: Option<ValueId>,
    named: HashMap<&'static str, ValueId>,
    new: HashMap<&'static str, ValueId>,
}

impl Update<'_, '_> {
    /// The weight.
    pub fn weight(&self) -> ValueId {
        self.weight
    }

    /// Its gradient, clipped.
    pub fn gradient(&self) -> ValueId {
        self.gradient
    }

    /// Its element of what was made of the matrix.
    ///
    /// # Errors
    /// If this is not the update of a matrix.
    pub fn whole(&self) -> Result<ValueId, OpError> {
        self.whole.ok_or_else(|| OpError::new("the update is not of a matrix"))
    }

    /// The value of a hyper-parameter.
    pub fn hyper(&self, name: &str) -> f64 {
        self.settings.get(name)
    }

    /// The state in a slot that is kept, or a scalar.
    ///
    /// # Errors
    /// If the optimizer declares neither, or does not keep the slot with these settings.
    pub fn get(&self, name: &str) -> Result<ValueId, OpError> {
        let found = self.named.get(name).copied();
        found.ok_or_else(|| OpError::new(format!("the update has no `{name}`")))
    }

    /// Says what the new state in a slot is.
    pub fn set(&mut self, slot: &'static str, v: ValueId) {
        self.new.insert(slot, v);
    }

    /// Says what the new weight is.
    pub fn set_weight(&mut self, v: ValueId) {
        self.new.insert("", v);
    }

    /// A constant.
    ///
    /// # Errors
    /// This and the other methods that add ops fail where an op's own rule does.
    pub fn number(&mut self, x: f64) -> Result<ValueId, OpError> {
        self.b.scalar(x)
    }

    /// `a + b`.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.b.add(a, b)
    }

    /// `a - b`.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.b.sub(a, b)
    }

    /// `a · b`.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.b.mul(a, b)
    }

    /// `a / b`.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.b.div(a, b)
    }

    /// `k · a` for a constant `k`.
    pub fn scale(&mut self, a: ValueId, k: f64) -> Result<ValueId, OpError> {
        let k = self.number(k)?;
        self.mul(a, k)
    }

    /// The square root of `a`.
    pub fn sqrt(&mut self, a: ValueId) -> Result<ValueId, OpError> {
        self.b.unary(OpKind::Sqrt, a)
    }

    /// The cube root of `a`, which is not negative; of numbers below 1e-30 that of 1e-30.
    pub fn cube_root(&mut self, a: ValueId) -> Result<ValueId, OpError> {
        let least = self.number(1e-30)?;
        let a = self.b.one(OpKind::Maximum, &[a, least], Attrs::new())?;
        let log = self.b.unary(OpKind::Log, a)?;
        let third = self.scale(log, 1.0 / 3.0)?;
        self.b.unary(OpKind::Exp, third)
    }

    /// 1 where `a` is positive, -1 where it is negative, 0 where it is 0.
    pub fn sign(&mut self, a: ValueId) -> Result<ValueId, OpError> {
        let minus = self.b.unary(OpKind::Neg, a)?;
        let (above, below) = (self.b.unary(OpKind::Step, a)?, self.b.unary(OpKind::Step, minus)?);
        self.sub(above, below)
    }

    /// `keep · old + take · new` for constants: with `take = 1 - keep`, a decaying mean.
    pub fn blend(
        &mut self,
        old: ValueId,
        keep: f64,
        new: ValueId,
        take: f64,
    ) -> Result<ValueId, OpError> {
        let (keep, take) = (self.number(keep)?, self.number(take)?);
        let old = self.mul(old, keep)?;
        let new = self.mul(new, take)?;
        self.add(old, new)
    }
}

/// The update of an optimizer as the function `name`: `(w, g, state…, scalar…, clip)`, `clip` being the scale of the
/// gradient, and in the form of a matrix `(…, clip, whole)`. The learning rate is `rate` times the schedule's.
///
/// # Errors
/// If the optimizer's update asks for what it has not declared, or leaves a weight or a slot without a new value.
pub fn build(name: &str, settings: &Settings, form: Form, rate: f64) -> Result<Function, OpError> {
    let optimizer = settings.optimizer;
    let mut f = Function::new(name);
    let slots = optimizer.slots(settings, form);
    let mut inputs = Inputs::new(&mut f, settings, form, true);
    if form == Form::Matrix {
        inputs.whole = Some(number(&mut f, "whole"));
    }
    let b = &mut Builder::new(&mut f);
    let mut update = inputs.update(b, settings, rate)?;
    match (form, &optimizer.matrix) {
        (Form::Elements, _) => (optimizer.update)(&mut update)?,
        (Form::Matrix, Some(matrix)) => (matrix.update)(&mut update)?,
        (Form::Matrix, None) => return Err(no_matrix(settings)),
    }
    let new = update.new;
    let get = |slot: &str| {
        let lost = || OpError::new(format!("{} gives no new `{slot}`", optimizer.name()));
        new.get(slot).copied().ok_or_else(lost)
    };
    f.results =
        [""].into_iter().chain(slots.iter().map(|s| s.name)).map(get).collect::<Result<_, _>>()?;
    Ok(f)
}

/// What an element adds to the matrix that the update of a matrix looks at, as the function `name`:
/// `(g, state…, scalar…, clip)`.
///
/// # Errors
/// If the optimizer has no update of matrices, or this asks for what it has not declared.
pub fn direction(name: &str, settings: &Settings) -> Result<Function, OpError> {
    let mut f = Function::new(name);
    let inputs = Inputs::new(&mut f, settings, Form::Matrix, false);
    let b = &mut Builder::new(&mut f);
    let mut update = inputs.update(b, settings, 1.0)?;
    let matrix = settings.optimizer.matrix.as_ref().ok_or_else(|| no_matrix(settings))?;
    let direction = (matrix.direction)(&mut update)?;
    f.results = vec![direction];
    Ok(f)
}

fn no_matrix(settings: &Settings) -> OpError {
    OpError::new(format!("{} has no update of matrices", settings.optimizer.name()))
}

/// A number that a function takes.
fn number(f: &mut Function, name: &str) -> ValueId {
    f.add_param(name, TensorType::scalar(DType::F32), Attrs::new())
}

/// The numbers that an update takes.
struct Inputs {
    weight: Option<ValueId>,
    raw: ValueId,
    named: HashMap<&'static str, ValueId>,
    clip: ValueId,
    whole: Option<ValueId>,
}

impl Inputs {
    fn new(f: &mut Function, settings: &Settings, form: Form, weight: bool) -> Inputs {
        let weight = weight.then(|| number(f, "w"));
        let raw = number(f, "g");
        let slots = settings.optimizer.slots(settings, form).into_iter().map(|s| s.name);
        let names = slots.chain(settings.optimizer.scalars.iter().map(|s| s.name));
        let named = names.map(|name| (name, number(f, name))).collect();
        Inputs { weight, raw, named, clip: number(f, "clip"), whole: None }
    }

    fn update<'a, 'b>(
        mut self,
        b: &'a mut Builder<'b>,
        settings: &'a Settings,
        rate: f64,
    ) -> Result<Update<'a, 'b>, OpError> {
        let gradient = b.mul(self.raw, self.clip)?;
        if let Some(lr) = self.named.get_mut(LR.name).filter(|_| rate != 1.0) {
            let factor = b.scalar(rate)?;
            *lr = b.mul(*lr, factor)?;
        }
        let Inputs { weight, named, whole, .. } = self;
        // What has no weight does not ask for one: it gives no new one.
        let weight = weight.unwrap_or(gradient);
        Ok(Update { b, settings, weight, gradient, whole, named, new: HashMap::new() })
    }
}

#[cfg(test)]
mod tests {
    use neoxc_ir::{Module, verify};

    use super::*;
    use crate::ALL;

    #[test]
    fn every_update_is_a_function_of_numbers() {
        for o in ALL {
            let settings = Settings::new(o);
            for form in [Form::Elements, Form::Matrix] {
                let mut m = Module::new();
                let Ok(f) = build("update", &settings, form, 0.5) else {
                    assert!(form == Form::Matrix && o.matrix.is_none(), "{}", o.name());
                    continue;
                };
                let (slots, whole) = (o.slots(&settings, form).len(), form == Form::Matrix);
                assert_eq!(f.results.len(), 1 + slots, "{}", o.name());
                let inputs = 3 + slots + o.scalars.len() + usize::from(whole);
                assert_eq!(f.params.len(), inputs, "{}", o.name());
                m.insert(f);
                if whole {
                    m.insert(direction("direction", &settings).unwrap());
                }
                verify(&m).unwrap();
            }
        }
    }
}
