//! Appends ops to a function, inferring result types from the ops' own rules.
//!
//! Invariant: an op that the builder accepted passes the verifier.

use crate::attrs::{Attr, Attrs};
use crate::module::{Function, Loc, Module, Op, ValueId};
use crate::op::{OpError, OpKind, RuleCx};
use crate::ops;
use crate::types::{DType, Dim, TensorType};

/// Builds into one function.
pub struct Builder<'a> {
    /// The function being built.
    pub function: &'a mut Function,
    /// Functions that calls may name.
    pub module: Option<&'a Module>,
    /// The location that new ops get.
    pub loc: Loc,
}

impl<'a> Builder<'a> {
    /// A builder without callees.
    pub fn new(function: &'a mut Function) -> Self {
        Self { function, module: None, loc: Loc::Unknown }
    }

    /// A builder whose calls may name functions of `module`.
    pub fn with_module(function: &'a mut Function, module: &'a Module) -> Self {
        Self { function, module: Some(module), loc: Loc::Unknown }
    }

    /// Sets the location for the ops that follow.
    pub fn at(&mut self, loc: &Loc) -> &mut Self {
        self.loc = loc.clone();
        self
    }

    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &TensorType {
        self.function.ty(v)
    }

    /// Appends the op `kind` and returns its results.
    pub fn op(
        &mut self,
        kind: OpKind,
        operands: &[ValueId],
        attrs: Attrs,
    ) -> Result<Vec<ValueId>, OpError> {
        let types: Vec<TensorType> = operands.iter().map(|o| self.ty(*o).clone()).collect();
        let cx = RuleCx { operands: &types, results: &[], attrs: &attrs, module: self.module };
        let inferred = crate::verifier::check_arity(kind, types.len(), &attrs)
            .and_then(|()| kind.def().infer(&cx))
            .map_err(|e| OpError::new(format!("{}: {e}", kind.full_name())))?;
        let results: Vec<ValueId> =
            inferred.into_iter().map(|t| self.function.add_value(t)).collect();
        self.function.ops.push(Op {
            kind,
            operands: operands.to_vec(),
            results: results.clone(),
            attrs,
            loc: self.loc.clone(),
        });
        Ok(results)
    }

    /// Appends the op called `name` in text (see `docs/ops.md`) and returns its results; code that knows the op uses
    /// [`Builder::op`].
    pub fn named(
        &mut self,
        name: &str,
        operands: &[ValueId],
        attrs: Attrs,
    ) -> Result<Vec<ValueId>, OpError> {
        let kind =
            ops::find(name).ok_or_else(|| OpError::new(format!("no op is called `{name}`")))?;
        self.op(kind, operands, attrs)
    }

    /// Appends a single-result op.
    pub fn one(
        &mut self,
        kind: OpKind,
        operands: &[ValueId],
        attrs: Attrs,
    ) -> Result<ValueId, OpError> {
        let results = self.op(kind, operands, attrs)?;
        match results.as_slice() {
            [only] => Ok(*only),
            _ => Err(OpError::new(format!("`{kind}` has {} results, not one", results.len()))),
        }
    }

    /// `a + b`, broadcasting by dim name.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.one(OpKind::Add, &[a, b], Attrs::new())
    }

    /// `a - b`, broadcasting by dim name.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.one(OpKind::Sub, &[a, b], Attrs::new())
    }

    /// `a * b`, broadcasting by dim name.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.one(OpKind::Mul, &[a, b], Attrs::new())
    }

    /// `a / b`, broadcasting by dim name.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.one(OpKind::Div, &[a, b], Attrs::new())
    }

    /// A pointwise op of one operand: `neg exp log tanh erf sqrt rsqrt`.
    pub fn unary(&mut self, kind: OpKind, x: ValueId) -> Result<ValueId, OpError> {
        self.one(kind, &[x], Attrs::new())
    }

    /// A tensor filled with `value`.
    pub fn fill(&mut self, value: f64, ty: &TensorType) -> Result<ValueId, OpError> {
        let attrs = dims_attrs(&ty.dims)
            .with("value", Attr::Float(value))
            .with("dtype", Attr::Str(ty.dtype.name().into()));
        self.one(OpKind::Fill, &[], attrs)
    }

    /// `x` as `dtype`: itself where it has that already.
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> Result<ValueId, OpError> {
        if self.ty(x).dtype == dtype {
            return Ok(x);
        }
        self.one(OpKind::Cast, &[x], Attrs::new().with("dtype", Attr::Str(dtype.name().into())))
    }

    /// `x` in the precision that ops compute in: a 16-bit float as f32, other dtypes as they are.
    pub fn widened(&mut self, x: ValueId) -> Result<ValueId, OpError> {
        let dtype = self.ty(x).dtype.wide();
        self.cast(x, dtype)
    }

    /// An f32 scalar constant.
    pub fn scalar(&mut self, value: f64) -> Result<ValueId, OpError> {
        self.fill(value, &TensorType::scalar(DType::F32))
    }

    /// Sum over the dims called `dims`.
    pub fn reduce_sum(&mut self, x: ValueId, dims: &[&str]) -> Result<ValueId, OpError> {
        self.one(OpKind::ReduceSum, &[x], Attrs::new().with("dims", Attr::strs(dims)))
    }

    /// Contraction over the dims called `contract`.
    pub fn matmul(
        &mut self,
        a: ValueId,
        b: ValueId,
        contract: &[&str],
    ) -> Result<ValueId, OpError> {
        let attrs = Attrs::new().with("contract", Attr::Str(contract.join(",")));
        self.one(OpKind::Matmul, &[a, b], attrs)
    }

    /// `x` with its dims in the order of `dims`; nothing is added if they already are.
    pub fn transpose_to(&mut self, x: ValueId, dims: &[&str]) -> Result<ValueId, OpError> {
        if self.ty(x).dims.iter().map(|d| &*d.name).eq(dims.iter().copied()) {
            return Ok(x);
        }
        self.one(OpKind::Transpose, &[x], Attrs::new().with("dims", Attr::strs(dims)))
    }

    /// The same bytes seen with other dims.
    pub fn reshape(&mut self, x: ValueId, dims: &[Dim]) -> Result<ValueId, OpError> {
        if self.ty(x).dims == dims {
            return Ok(x);
        }
        self.one(OpKind::Reshape, &[x], dims_attrs(dims))
    }

    /// Sums `x` over the dims that `like` lacks, and orders it like `like`: the gradient of a
    /// broadcast by dim name.
    pub fn sum_to(&mut self, x: ValueId, like: &TensorType) -> Result<ValueId, OpError> {
        let extra: Vec<String> = self
            .ty(x)
            .dims
            .iter()
            .filter(|d| !like.has(&d.name))
            .map(|d| d.name.to_string())
            .collect();
        let extra: Vec<&str> = extra.iter().map(String::as_str).collect();
        let x = if extra.is_empty() { x } else { self.reduce_sum(x, &extra)? };
        let order: Vec<&str> = like.dims.iter().map(|d| &*d.name).collect();
        self.transpose_to(x, &order)
    }
}

/// `{dims = [names], sizes = [sizes]}`.
pub fn dims_attrs(dims: &[Dim]) -> Attrs {
    let names: Vec<&str> = dims.iter().map(|d| &*d.name).collect();
    let sizes: Vec<i64> = dims.iter().map(|d| d.size as i64).collect();
    Attrs::new().with("dims", Attr::strs(&names)).with("sizes", Attr::ints(&sizes))
}
