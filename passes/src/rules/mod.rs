//! Rewrite rules: named, declared once, each with its numeric class and an instance to test it on.
//!
//! Terms are `(op operand… attrs)`: attributes are a leaf `@n` that names an entry of the graph's
//! table, so one pattern matches any attributes and a condition looks at them. Results of an op with
//! several results are `(r0 op)`, `(r1 op)`, ….

use neoxc_ir::op::OpError;
use neoxc_ir::{Attr, Attrs, DType, Dim, Function, TensorType, ValueId};

mod algebra;
mod attention;
mod cross_entropy;
mod norm;

/// What a rule may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numerics {
    /// The same rounding.
    Exact,
    /// The same function over the reals, other rounding.
    Reassociating,
}

impl Numerics {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Numerics::Exact => "exact",
            Numerics::Reassociating => "reassociating",
        }
    }
}

/// What a rule's pattern matched.
pub trait Match {
    /// The attributes bound to `var`; none where `var` is not among the rule's attributes.
    fn attrs(&self, var: &str) -> Option<Attrs>;
    /// The type of the value bound to `var`.
    fn ty(&self, var: &str) -> Option<TensorType>;
}

/// One rule.
pub struct Rule {
    /// Name in reports.
    pub name: &'static str,
    /// Numeric class.
    pub numerics: Numerics,
    /// What is found.
    pub left: &'static str,
    /// What may stand instead; `?new` is the leaf with the attributes that `attrs` gives.
    pub right: &'static str,
    /// Attributes of the new op, or `None` where the rule does not apply.
    pub attrs: fn(&dyn Match) -> Option<Attrs>,
    /// Builds, with random sizes, a function whose result the rule can rewrite.
    pub instance: fn(&mut Instance<'_>) -> Result<ValueId, OpError>,
}

/// A function under construction to test a rule on.
pub struct Instance<'a> {
    /// The function.
    pub f: &'a mut Function,
    /// A random whole number below the argument.
    pub random: &'a mut dyn FnMut(usize) -> usize,
}

impl Instance<'_> {
    /// Random sizes, 1 to 5, for these dims.
    pub fn dims(&mut self, names: &[&str]) -> Vec<Dim> {
        names.iter().map(|n| Dim::new(n, 1 + (self.random)(5))).collect()
    }

    /// A new parameter.
    pub fn param(&mut self, name: &str, dims: &[Dim]) -> ValueId {
        self.f.add_param(name, TensorType::new(DType::F32, dims.to_vec()), Attrs::new())
    }

    /// Builds into the function.
    pub fn b(&mut self) -> neoxc_ir::Builder<'_> {
        neoxc_ir::Builder::new(self.f)
    }
}

/// All rules.
pub static RULES: &[&[Rule]] =
    &[norm::RULES, attention::RULES, cross_entropy::RULES, algebra::RULES];

/// All rules, in order.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    RULES.iter().flat_map(|group| group.iter())
}

/// The value of a `fill` without dims.
fn scalar(a: &Attrs) -> Option<f64> {
    (a.ints("sizes")?.is_empty()).then(|| a.float("value"))?
}

/// The attributes of a `fill` like `a` with another value.
fn with_value(a: &Attrs, value: f64) -> Attrs {
    a.clone().with("value", Attr::Float(value))
}
