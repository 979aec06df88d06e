//! What every op file imports, and the macros that keep op files to their rules.

pub use crate::attrs::{Attr, Attrs};
pub use crate::build::Builder;
pub use crate::eval::Tensor;
pub use crate::module::ValueId;
pub use crate::op::*;
pub use crate::types::{DType, Dim, TensorType};

/// Declares a pointwise op: name, documentation, operands, FLOPs per element, linearity, f64 evaluation, and
/// gradient as a function of the context and the result's gradient.
macro_rules! pointwise_op {
    ($ty:ident, $name:literal, $doc:literal, [$($operand:literal),+], flops $flops:literal, sums $sums:ident,
     eval $eval:expr, grad $grad:expr) => {
        /// The op of this file.
        pub struct $ty;

        impl OpDef for $ty {
            fn name(&self) -> &'static str {
                $name
            }
            fn doc(&self) -> &'static str {
                $doc
            }
            fn signature(&self) -> Signature {
                Signature {
                    operands: &[$(($operand, Arity::One)),+],
                    results: &[("y", Arity::One)],
                    attrs: &[],
                }
            }
            fn class(&self) -> Class {
                Class::Pointwise
            }
            fn precision(&self) -> Precision {
                Precision::WIDE
            }
            fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
                $crate::ops::pointwise::infer(cx)
            }
            fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
                let dy = cx.dy()?;
                let rule: fn(&mut GradCx<'_, '_>, ValueId) -> Result<Gradient, OpError> = $grad;
                rule(cx, dy)
            }
            fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
                ShardRule::parallel(cx).sums(Sums::$sums)
            }
            fn cost(&self, cx: &RuleCx<'_>) -> Cost {
                $crate::ops::pointwise::cost(cx, $flops)
            }
            fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
                let f: fn(&[f64]) -> f64 = $eval;
                $crate::ops::pointwise::evaluate(cx, f)
            }
            primitive!();
        }
    };
}

/// The frame of an op, as a table: its name with operands and results as in a call, documentation, class,
/// precision and attributes. An operand or result is one value unless it says `Optional` or `Variadic`. Precision is one
/// word for all, or a [`Rounding`] for each operand and result, of which the last stands for all that follow. Every row
/// is required, as every method of [`OpDef`] is.
macro_rules! frame {
    ($name:ident($($operand:ident $(: $many:ident)?),*) -> ($($result:ident $(: $several:ident)?),*),
     $doc:literal,
     class $class:ident,
     precision $reads:tt $(-> $rounds:tt)?,
     attrs $attrs:expr,) => {
        fn name(&self) -> &'static str {
            stringify!($name)
        }
        fn doc(&self) -> &'static str {
            $doc
        }
        fn signature(&self) -> Signature {
            Signature {
                operands: &[$((stringify!($operand), arity!($($many)?))),*],
                results: &[$((stringify!($result), arity!($($several)?))),*],
                attrs: const { $attrs },
            }
        }
        fn class(&self) -> Class {
            Class::$class
        }
        fn precision(&self) -> Precision {
            precision!($reads $(-> $rounds)?)
        }
    };
}

/// The precision in a row of [`frame!`]: one for all, or those of operands and of results in order.
macro_rules! precision {
    ($all:ident) => {
        Precision::$all
    };
    (($($operand:ident),*) -> ($($result:ident),*)) => {
        Precision {
            operands: &[$(Rounding::$operand),*],
            results: &[$(Rounding::$result),*],
        }
    };
}

/// How many values a row of [`frame!`] stands for.
macro_rules! arity {
    () => {
        Arity::One
    };
    ($arity:ident) => {
        Arity::$arity
    };
}

/// The gradient of an op that has none, and why.
macro_rules! no_gradient {
    ($why:literal) => {
        fn gradient(&self, _cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
            Ok(Gradient::None($why))
        }
    };
}

/// The decomposition of a primitive: none.
macro_rules! primitive {
    () => {
        fn decompose(
            &self,
            _b: &mut Builder<'_>,
            _operands: &[ValueId],
            _attrs: &Attrs,
        ) -> Result<Decomposition, OpError> {
            Ok(Decomposition::Primitive)
        }
    };
}

pub(super) use {arity, frame, no_gradient, pointwise_op, precision, primitive};

/// A required attribute.
pub const fn required(name: &'static str, kind: AttrKind, doc: &'static str) -> AttrSpec {
    AttrSpec { name, kind, required: true, doc }
}

/// One operand's gradient.
pub fn grads(values: &[ValueId]) -> Result<Gradient, OpError> {
    Ok(Gradient::Operands(values.iter().copied().map(Some).collect()))
}

/// `dy` times the derivative, summed back to the operand's own dims.
pub fn to_operand(cx: &mut GradCx<'_, '_>, i: usize, d: ValueId) -> Result<ValueId, OpError> {
    let ty = cx.b.ty(cx.operand(i)).clone();
    cx.b.sum_to(d, &ty)
}
