//! Evaluation of a composite through its decomposition, for composites whose formula *is* the
//! decomposition.

use super::prelude::*;
use crate::module::{Function, Module};

/// `op` decomposed, as a function of its operands.
pub fn function(op: &dyn OpDef, cx: &RuleCx<'_>) -> Result<Function, OpError> {
    let mut f = Function::new("decomposed");
    let params: Vec<ValueId> = cx
        .operands
        .iter()
        .enumerate()
        .map(|(i, t)| f.add_param(&format!("p{i}"), t.clone(), Attrs::new()))
        .collect();
    let mut b = Builder::new(&mut f);
    b.module = cx.module;
    match op.decompose(&mut b, &params, cx.attrs)? {
        Decomposition::Values(values) => f.results = values,
        Decomposition::Primitive => {
            return Err(OpError::new(format!("{} has no decomposition", op.name())));
        }
    }
    Ok(f)
}

/// Evaluates `op` by decomposing it into a function of its own.
pub fn evaluate(op: &'static dyn OpDef, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
    let f = function(op, &cx.rule)?;
    let inputs: Vec<Tensor> = cx.operands.iter().map(|t| (*t).clone()).collect();
    crate::eval::run_function(cx.rule.module.unwrap_or(&Module::new()), &f, &inputs)
}
