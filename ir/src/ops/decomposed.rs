//! Evaluation of a composite through its decomposition, for composites whose formula *is* the
//! decomposition.

use super::prelude::*;
use crate::module::{Function, Module};

/// Evaluates `op` by decomposing it into a function of its own.
pub fn evaluate(op: &'static dyn OpDef, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
    let mut f = Function::new("decomposed");
    let params: Vec<ValueId> = cx
        .rule
        .operands
        .iter()
        .enumerate()
        .map(|(i, t)| f.add_param(&format!("p{i}"), t.clone(), Attrs::new()))
        .collect();
    match op.decompose(&mut Builder::new(&mut f), &params, cx.rule.attrs)? {
        Decomposition::Values(values) => f.results = values,
        Decomposition::Primitive => {
            return Err(OpError::new(format!("{} has no decomposition", op.name())));
        }
    }
    let inputs: Vec<Tensor> = cx.operands.iter().map(|t| (*t).clone()).collect();
    crate::eval::run_function(&Module::new(), &f, &inputs)
}
