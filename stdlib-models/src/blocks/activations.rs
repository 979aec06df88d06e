//! Activations of an MLP, in plain ops.

use neoxc_ir::{Attr, Attrs, Builder, OpKind, ValueId};

use super::Result;

/// An activation, f(x).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x), with the error function.
    #[default]
    Gelu,
    /// The same by tanh.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x · σ(x), also called swish.
    Silu,
    /// x / (1 + |x|).
    Softsign,
    /// x · tanh(log(1 + eˣ)).
    Mish,
    /// σ(x): the gate of a gated linear unit.
    Logistic,
    /// x: the gate of a bilinear one.
    Identity,
}

impl Activation {
    /// f(x), element by element.
    ///
    /// # Errors
    /// If `x` is not of floats.
    pub fn apply(self, b: &mut Builder<'_>, x: ValueId) -> Result<ValueId> {
        let gelu = |form: &str| Attrs::new().with("approximate", Attr::Str(form.into()));
        match self {
            Activation::Gelu => b.one(OpKind::Gelu, &[x], gelu("none")),
            Activation::GeluTanh => b.one(OpKind::Gelu, &[x], gelu("tanh")),
            Activation::Relu => {
                let zero = b.scalar(0.0)?;
                b.one(OpKind::Maximum, &[x, zero], Attrs::new())
            }
            Activation::Silu => {
                let gate = b.unary(OpKind::Logistic, x)?;
                b.mul(x, gate)
            }
            Activation::Softsign => {
                let size = absolute(b, x)?;
                let one = b.scalar(1.0)?;
                let sum = b.add(size, one)?;
                b.div(x, sum)
            }
            Activation::Mish => {
                let softplus = softplus(b, x)?;
                let gate = b.unary(OpKind::Tanh, softplus)?;
                b.mul(x, gate)
            }
            Activation::Logistic => b.unary(OpKind::Logistic, x),
            Activation::Identity => Ok(x),
        }
    }
}

fn absolute(b: &mut Builder<'_>, x: ValueId) -> Result<ValueId> {
    let negative = b.unary(OpKind::Neg, x)?;
    b.one(OpKind::Maximum, &[x, negative], Attrs::new())
}

/// log(1 + eˣ) as max(x, 0) + log(1 + e^-|x|), which does not overflow.
fn softplus(b: &mut Builder<'_>, x: ValueId) -> Result<ValueId> {
    let size = absolute(b, x)?;
    let negative = b.unary(OpKind::Neg, size)?;
    let power = b.unary(OpKind::Exp, negative)?;
    let one = b.scalar(1.0)?;
    let sum = b.add(power, one)?;
    let rest = b.unary(OpKind::Log, sum)?;
    let zero = b.scalar(0.0)?;
    let positive = b.one(OpKind::Maximum, &[x, zero], Attrs::new())?;
    b.add(positive, rest)
}
