//! The update of one element as a function of numbers in the IR: `@update(w, g, state…, scalar…) -> (w', state'…)`.

use std::collections::HashMap;

use neoxc_ir::op::OpError;
use neoxc_ir::{Attrs, Builder, DType, Function, OpKind, TensorType, ValueId};

use crate::{LR, Settings};

/// An update under way: what it reads, and where its ops go.
pub struct Update<'a, 'b> {
    b: &'a mut Builder<'b>,
    settings: &'a Settings,
    weight: ValueId,
    gradient: ValueId,
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

/// The update of an optimizer as the function `name`, with the scale `clip` of the gradient as its last parameter. The
/// learning rate is `rate` times the schedule's.
///
/// # Errors
/// If the optimizer's update asks for what it has not declared, or leaves a weight or a slot without a new value.
pub fn build(name: &str, settings: &Settings, rate: f64) -> Result<Function, OpError> {
    let optimizer = settings.optimizer;
    let mut f = Function::new(name);
    let number = |f: &mut Function, name: &str| {
        f.add_param(name, TensorType::scalar(DType::F32), Attrs::new())
    };
    let (weight, raw) = (number(&mut f, "w"), number(&mut f, "g"));
    let slots = optimizer.slots(settings);
    let mut named = HashMap::new();
    for name in slots.iter().map(|s| s.name).chain(optimizer.scalars.iter().map(|s| s.name)) {
        named.insert(name, number(&mut f, name));
    }
    let clip = number(&mut f, "clip");
    let b = &mut Builder::new(&mut f);
    let gradient = b.mul(raw, clip)?;
    if let Some(lr) = named.get_mut(LR.name).filter(|_| rate != 1.0) {
        let factor = b.scalar(rate)?;
        *lr = b.mul(*lr, factor)?;
    }
    let mut update = Update { b, settings, weight, gradient, named, new: HashMap::new() };
    (optimizer.update)(&mut update)?;
    let new = update.new;
    let get = |slot: &str| {
        let lost = || OpError::new(format!("{} gives no new `{slot}`", optimizer.name()));
        new.get(slot).copied().ok_or_else(lost)
    };
    f.results =
        [""].into_iter().chain(slots.iter().map(|s| s.name)).map(get).collect::<Result<_, _>>()?;
    Ok(f)
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
            let mut m = Module::new();
            let f = build("update", &settings, 0.5).unwrap();
            let slots = o.slots(&settings).len();
            assert_eq!(f.results.len(), 1 + slots, "{}", o.name());
            assert_eq!(f.params.len(), 3 + slots + o.scalars.len(), "{}", o.name());
            m.insert(f);
            verify(&m).unwrap();
        }
    }
}
