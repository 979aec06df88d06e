//! What every op must say about itself.
//!
//! [`OpDef`] has no default methods: a rule that is missing does not compile. An op that has no
//! gradient or no decomposition says so in words ([`Gradient::None`], [`Decomposition::Primitive`]).
//! The registry in [`crate::ops`] is the only list of ops; the verifier, the IRDL dialect, the docs
//! and every pass read it.

use std::fmt;
use std::sync::Arc;

use crate::attrs::Attrs;
use crate::build::Builder;
use crate::eval::Tensor;
use crate::module::{Module, Op, ValueId};
use crate::types::TensorType;

pub use crate::ops::OpKind;

/// Why an op's rule refused its arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OpError(pub String);

impl OpError {
    /// An error with a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// How many values an operand or result stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one.
    One,
    /// One or none; only at the end of the list.
    Optional,
    /// Any number; only at the end of the list.
    Variadic,
}

/// The kind of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttrKind {
    /// [`crate::Attr::Bool`] or unit.
    Bool,
    /// [`crate::Attr::Int`].
    Int,
    /// [`crate::Attr::Float`].
    Float,
    /// [`crate::Attr::Str`].
    Str,
    /// [`crate::Attr::Symbol`].
    Symbol,
    /// Array of strings.
    Strs,
    /// Array of integers.
    Ints,
}

/// One declared attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttrSpec {
    /// Name.
    pub name: &'static str,
    /// Kind.
    pub kind: AttrKind,
    /// Whether it must be present.
    pub required: bool,
    /// What it means.
    pub doc: &'static str,
}

/// Names and arities of an op's operands, results and attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Operands in order.
    pub operands: &'static [(&'static str, Arity)],
    /// Results in order.
    pub results: &'static [(&'static str, Arity)],
    /// Attributes.
    pub attrs: &'static [AttrSpec],
}

/// What an op is to fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Element by element over the result's dims; operands broadcast by dim name.
    Pointwise,
    /// Sums or maxima over dims.
    Reduction,
    /// Contraction.
    Contraction,
    /// Only renames dims or changes their grouping: the same bytes.
    View,
    /// Moves elements.
    Movement,
    /// Calls another function.
    Call,
    /// Sends values between ranks.
    Collective,
    /// Anything else: composites and ops with a kernel of their own.
    Special,
}

/// How an op reads an operand, or rounds a result, in a program of low precision (bf16). Integers are never affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// An operand is read in the low precision; a result is rounded to it where it is made, unless it is part of a
    /// value that is exact.
    Low,
    /// f32. A result is rounded only if another reader, or a loop that keeps it, wants it in the low precision.
    Free,
    /// f32, and no reader rounds it: losses, statistics, sums, and values that decide about routes.
    Exact,
    /// Moved and not computed with: all operands and results of this kind have one dtype.
    Same,
    /// An operand is read as whatever it is.
    Stored,
}

/// The precisions of an op's operands and results, in order; the last of each stands for all that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Of operands.
    pub operands: &'static [Rounding],
    /// Of results.
    pub results: &'static [Rounding],
}

impl Precision {
    /// Computes in f32 on what was rounded before.
    pub const WIDE: Precision =
        Precision { operands: &[Rounding::Free], results: &[Rounding::Free] };
    /// Nothing is rounded.
    pub const EXACT: Precision =
        Precision { operands: &[Rounding::Exact], results: &[Rounding::Exact] };
    /// Moves values.
    pub const SAME: Precision =
        Precision { operands: &[Rounding::Same], results: &[Rounding::Same] };

    /// Of operand `i`.
    pub fn operand(self, i: usize) -> Rounding {
        self.operands.get(i).or(self.operands.last()).copied().unwrap_or(Rounding::Exact)
    }

    /// Of result `i`.
    pub fn result(self, i: usize) -> Rounding {
        self.results.get(i).or(self.results.last()).copied().unwrap_or(Rounding::Exact)
    }
}

/// Types and attributes of one use of an op.
#[derive(Clone, Copy)]
pub struct RuleCx<'a> {
    /// Operand types.
    pub operands: &'a [TensorType],
    /// Result types (empty while they are being inferred).
    pub results: &'a [TensorType],
    /// Attributes.
    pub attrs: &'a Attrs,
    /// The module, for calls.
    pub module: Option<&'a Module>,
}

impl RuleCx<'_> {
    /// A required integer attribute.
    pub fn int(&self, name: &str) -> Result<i64, OpError> {
        self.attrs.int(name).ok_or_else(|| OpError::new(format!("needs the integer `{name}`")))
    }

    /// A required size: an integer attribute of at least 1.
    pub fn size(&self, name: &str) -> Result<usize, OpError> {
        usize::try_from(self.int(name)?)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| OpError::new(format!("`{name}` must be at least 1")))
    }

    /// A required float attribute.
    pub fn float(&self, name: &str) -> Result<f64, OpError> {
        self.attrs.float(name).ok_or_else(|| OpError::new(format!("needs the float `{name}`")))
    }

    /// A required string attribute.
    pub fn str(&self, name: &str) -> Result<&str, OpError> {
        self.attrs.str(name).ok_or_else(|| OpError::new(format!("needs the string `{name}`")))
    }

    /// A required list of strings.
    pub fn strs(&self, name: &str) -> Result<Vec<&str>, OpError> {
        self.attrs
            .strs(name)
            .ok_or_else(|| OpError::new(format!("needs the list of strings `{name}`")))
    }

    /// A required list of sizes, each at least 1.
    pub fn sizes(&self, name: &str) -> Result<Vec<usize>, OpError> {
        let ints = self
            .attrs
            .ints(name)
            .ok_or_else(|| OpError::new(format!("needs the list of integers `{name}`")))?;
        ints.into_iter()
            .map(|i| {
                usize::try_from(i)
                    .ok()
                    .filter(|n| *n > 0)
                    .ok_or_else(|| OpError::new(format!("`{name}` has {i}, below 1")))
            })
            .collect()
    }
}

/// What an op asks for in time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts two.
    pub flops: f64,
    /// Bytes read and written if every operand and result lives in main memory.
    pub bytes: f64,
}

impl Cost {
    /// `flops` and the bytes of all operands and results.
    pub fn streaming(cx: &RuleCx<'_>, flops: f64) -> Self {
        let bytes: usize = cx.operands.iter().chain(cx.results).map(TensorType::bytes).sum();
        Self { flops, bytes: bytes as f64 }
    }

    /// Nothing: a change of name.
    pub fn free() -> Self {
        Self::default()
    }
}

/// What dividing one dim over a mesh axis means to an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardEffect {
    /// Each rank computes its part; operands and results that have the dim are divided alike.
    Parallel,
    /// Each rank computes a partial sum: the results must be reduced.
    Partial,
    /// Not possible: the dim must be whole on every rank.
    Whole,
    /// The op numbers the elements along the dim, and each rank computes with its own: the op is told
    /// which they are by one more operand, the number of the rank's part. Results that have the dim
    /// are divided; those that lack it are partial sums.
    Own,
}

/// What an op makes of operands that are partial sums over ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sums {
    /// Operands must be summed first.
    #[default]
    No,
    /// Linear in all operands together: partial sums of all give partial sums.
    Together,
    /// Linear in each operand alone: one partial operand gives partial sums.
    Each,
}

/// Sharding rule of one use of an op: an effect for each dim of its operands and results.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardRule {
    /// Dim name → effect.
    pub dims: Vec<(Arc<str>, ShardEffect)>,
    /// What becomes of operands that are partial sums.
    pub sums: Sums,
    /// Dims of operands that are divided as another dim of the results is, where a view gives them
    /// another name or size: each rank's part is the same elements.
    pub follows: Vec<(Arc<str>, Arc<str>)>,
    /// Results that are no partial sums over the ranks that own parts of a dim: the op, given `axis` and
    /// `ranks`, meets the others itself and makes them whole on each.
    pub settled: &'static [usize],
}

impl ShardRule {
    /// Every dim of operands and results gets the effect that `f` says.
    pub fn by_dim(cx: &RuleCx<'_>, f: impl Fn(&str) -> ShardEffect) -> Self {
        let mut rule = ShardRule::default();
        for dim in cx.operands.iter().chain(cx.results).flat_map(|t| &t.dims) {
            if rule.effect(&dim.name).is_none() {
                rule.dims.push((dim.name.clone(), f(&dim.name)));
            }
        }
        rule
    }

    /// Element-wise: every dim is parallel.
    pub fn parallel(cx: &RuleCx<'_>) -> Self {
        Self::by_dim(cx, |_| ShardEffect::Parallel)
    }

    /// The dim that the attribute `name` names is whole; every other one is parallel.
    pub fn whole_along(cx: &RuleCx<'_>, name: &str) -> Self {
        let along = cx.attrs.str(name).unwrap_or_default();
        Self::by_dim(cx, |dim| match dim == along {
            true => ShardEffect::Whole,
            false => ShardEffect::Parallel,
        })
    }

    /// All dims whole.
    pub fn whole(cx: &RuleCx<'_>) -> Self {
        Self::by_dim(cx, |_| ShardEffect::Whole)
    }

    /// The same rule for an op that is linear as `sums` says.
    #[must_use]
    pub fn sums(mut self, sums: Sums) -> Self {
        self.sums = sums;
        self
    }

    /// The same rule for an op that makes some results whole by collectives of its own.
    #[must_use]
    pub fn settled(mut self, results: &'static [usize]) -> Self {
        self.settled = results;
        self
    }

    /// The dim of the results that is divided when `dim` of the operands is; itself for most.
    pub fn target<'a>(&'a self, dim: &'a str) -> &'a str {
        self.follows.iter().find(|(from, _)| &**from == dim).map_or(dim, |(_, to)| to)
    }

    /// The dim of the operands that decides how `dim` of the results is divided; itself for most, none
    /// where the dim of this name becomes another one.
    pub fn source<'a>(&'a self, dim: &'a str) -> Option<&'a str> {
        match self.follows.iter().find(|(_, to)| &**to == dim) {
            Some((from, _)) => Some(from),
            None => (self.target(dim) == dim).then_some(dim),
        }
    }

    /// The effect of dividing `dim`.
    pub fn effect(&self, dim: &str) -> Option<ShardEffect> {
        self.dims.iter().find(|(n, _)| &**n == dim).map(|(_, e)| *e)
    }
}

/// Operands, types and attributes of an op that the reference evaluator runs.
pub struct EvalCx<'a> {
    /// Operand values.
    pub operands: &'a [&'a Tensor],
    /// Types and attributes.
    pub rule: RuleCx<'a>,
}

/// What a gradient rule sees: the op's values and the gradients of its results.
pub struct GradCx<'a, 'b> {
    /// The op.
    pub op: &'a Op,
    /// Gradient of each result, `None` where nothing depends on it.
    pub cotangents: &'a [Option<ValueId>],
    /// What the gradients of the step are multiplied by, where something is: they are those of the scaled loss.
    pub scale: Option<ValueId>,
    /// Where to add the ops of the gradient.
    pub b: &'a mut Builder<'b>,
}

impl GradCx<'_, '_> {
    /// Operand `i`.
    pub fn operand(&self, i: usize) -> ValueId {
        self.op.operands[i]
    }

    /// Result `i`.
    pub fn result(&self, i: usize) -> ValueId {
        self.op.results[i]
    }

    /// The gradient of result 0, which the caller guarantees for single-result ops.
    pub fn dy(&self) -> Result<ValueId, OpError> {
        self.cotangents
            .first()
            .copied()
            .flatten()
            .ok_or_else(|| OpError::new("no gradient reaches the first result"))
    }
}

/// What a gradient rule says.
#[derive(Debug, Clone, PartialEq)]
pub enum Gradient {
    /// Gradient of each operand; `None` where it is zero or the operand is an integer.
    Operands(Vec<Option<ValueId>>),
    /// This op cannot be differentiated, and why.
    None(&'static str),
}

/// What a decomposition rule says.
#[derive(Debug, Clone, PartialEq)]
pub enum Decomposition {
    /// The op is a primitive.
    Primitive,
    /// Values that equal the op's results, made of simpler ops.
    Values(Vec<ValueId>),
}

/// An op: one file under `ops/`, all of its rules.
pub trait OpDef: Sync {
    /// Name without the dialect; `neox.` is put in front except for `func.call`.
    fn name(&self) -> &'static str;
    /// What it computes, one or two sentences with the formula.
    fn doc(&self) -> &'static str;
    /// Operands, results, attributes.
    fn signature(&self) -> Signature;
    /// What it is to fusion.
    fn class(&self) -> Class;
    /// How it reads and rounds values in a program of low precision.
    fn precision(&self) -> Precision;
    /// Result types from operand types.
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError>;
    /// Reverse-mode gradient.
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError>;
    /// What dividing each dim does.
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule;
    /// FLOPs and bytes.
    fn cost(&self, cx: &RuleCx<'_>) -> Cost;
    /// Reference evaluation in f64.
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError>;
    /// The same in simpler ops, for composites.
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError>;
}

impl OpKind {
    /// Name without dialect.
    pub fn name(self) -> &'static str {
        self.def().name()
    }

    /// Name with dialect, as in text.
    ///
    /// Loops have a dialect name of their own: IRDL wants all values of a variadic operand to have one
    /// type, which a loop's never have, so loops stay outside the generated dialect.
    pub fn full_name(self) -> String {
        match self {
            OpKind::Call => "func.call".to_string(),
            OpKind::Map | OpKind::Repeat => format!("neox_loop.{self}"),
            _ => format!("neox.{self}"),
        }
    }
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
