//! The reference evaluator: every op in f64, one readable loop each, as slow as it likes.
//!
//! It is the yardstick for passes and kernels, so it shares nothing with them. Integers are held
//! as f64 (exact up to 2^53). A result is rounded where its dtype is a 16-bit float; the rounding of f32 is not modelled,
//! except by `cast`.

use crate::module::{Function, Module, ValueId};
use crate::op::{EvalCx, OpError, RuleCx};
use crate::ops::cast::round_to;
use crate::types::TensorType;

/// A dense tensor of f64, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its type; `data.len() == ty.elements()`.
    pub ty: TensorType,
    /// Elements.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor from its elements.
    ///
    /// # Panics
    /// If the number of elements is not the type's.
    pub fn new(ty: TensorType, data: Vec<f64>) -> Self {
        assert_eq!(ty.elements(), data.len(), "elements of {ty}");
        Self { ty, data }
    }

    /// A tensor filled with `value`.
    pub fn fill(ty: TensorType, value: f64) -> Self {
        let data = vec![value; ty.elements()];
        Self { ty, data }
    }

    /// Element `f(index)` at each multi-index.
    pub fn from_fn(ty: TensorType, mut f: impl FnMut(&[usize]) -> f64) -> Self {
        let mut data = Vec::with_capacity(ty.elements());
        let mut index = vec![0; ty.dims.len()];
        for _ in 0..ty.elements() {
            data.push(f(&index));
            advance(&mut index, &ty);
        }
        Self { ty, data }
    }

    /// The tensor with its elements rounded to its dtype, if that is a 16-bit float.
    #[must_use]
    pub fn rounded(mut self) -> Self {
        if self.ty.dtype.wide() != self.ty.dtype {
            self.data.iter_mut().for_each(|x| *x = round_to(self.ty.dtype, *x));
        }
        self
    }

    /// The element at a multi-index.
    pub fn at(&self, index: &[usize]) -> f64 {
        self.data[offset(&self.ty, index)]
    }

    /// The element that a multi-index over `dims` (by name) selects: dims this tensor lacks are
    /// broadcast.
    pub fn at_named(&self, dims: &TensorType, index: &[usize]) -> f64 {
        let mut at = 0;
        for d in &self.ty.dims {
            let i = dims.position(&d.name).map_or(0, |p| index[p]);
            at = at * d.size + i;
        }
        self.data[at]
    }
}

/// Row-major offset of a multi-index.
pub fn offset(ty: &TensorType, index: &[usize]) -> usize {
    ty.dims.iter().zip(index).fold(0, |at, (d, i)| at * d.size + i)
}

/// The next multi-index in row-major order.
pub fn advance(index: &mut [usize], ty: &TensorType) {
    for (i, d) in index.iter_mut().zip(&ty.dims).rev() {
        *i += 1;
        if *i < d.size {
            return;
        }
        *i = 0;
    }
}

/// Runs the function called `name` on `inputs`.
pub fn run(module: &Module, name: &str, inputs: &[Tensor]) -> Result<Vec<Tensor>, OpError> {
    let f = module
        .function(name)
        .ok_or_else(|| OpError::new(format!("no function is called @{name}")))?;
    run_function(module, f, inputs)
}

/// Runs `f` on `inputs`; a result whose type is not the declared one is an error.
pub fn run_function(
    module: &Module,
    f: &Function,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, OpError> {
    if inputs.len() != f.params.len() {
        return Err(OpError::new(format!(
            "@{} takes {} values, got {}",
            f.name,
            f.params.len(),
            inputs.len()
        )));
    }
    let mut env: Vec<Option<Tensor>> = vec![None; f.values.len()];
    for (p, t) in f.params.iter().zip(inputs) {
        if f.ty(*p) != &t.ty {
            return Err(OpError::new(format!("@{}: {} given for {}", f.name, t.ty, f.ty(*p))));
        }
        env[p.index()] = Some(t.clone());
    }
    for op in &f.ops {
        let operands: Vec<&Tensor> =
            op.operands.iter().map(|o| get(&env, *o)).collect::<Result<_, _>>()?;
        let operand_types: Vec<TensorType> = op.operands.iter().map(|o| f.ty(*o).clone()).collect();
        let result_types: Vec<TensorType> = op.results.iter().map(|r| f.ty(*r).clone()).collect();
        let rule = RuleCx {
            operands: &operand_types,
            results: &result_types,
            attrs: &op.attrs,
            module: Some(module),
        };
        let results = op
            .kind
            .def()
            .evaluate(&EvalCx { operands: &operands, rule })
            .map_err(|e| OpError::new(format!("@{}: {}: {e}", f.name, op.kind.full_name())))?;
        let fail = |message: String| {
            Err(OpError::new(format!("@{}: {}: {message}", f.name, op.kind.full_name())))
        };
        if results.len() != op.results.len() {
            return fail(format!("gives {} results, not {}", results.len(), op.results.len()));
        }
        for ((r, t), want) in op.results.iter().zip(results).zip(result_types) {
            if t.ty != want {
                return fail(format!("gives {}, declared is {want}", t.ty));
            }
            env[r.index()] = Some(t.rounded());
        }
    }
    f.results.iter().map(|r| get(&env, *r).cloned()).collect()
}

fn get(env: &[Option<Tensor>], v: ValueId) -> Result<&Tensor, OpError> {
    env[v.index()].as_ref().ok_or_else(|| OpError::new("value used before it is defined"))
}
