//! `func.call`: call of another function of the module.

use super::prelude::*;
use crate::module::Function;

/// `func.call`.
pub struct Call;

/// The callee of a call or loop.
pub fn callee<'a>(cx: &RuleCx<'a>) -> Result<&'a Function, OpError> {
    let name = cx.attrs.symbol("callee").ok_or_else(|| OpError::new("needs `callee`"))?;
    let module = cx.module.ok_or_else(|| OpError::new("calls need a module"))?;
    module.function(name).ok_or_else(|| OpError::new(format!("no function is called @{name}")))
}

/// Cost of a callee's body: the sum over its ops.
pub fn body_cost(cx: &RuleCx<'_>) -> Cost {
    let Ok(f) = callee(cx) else { return Cost::free() };
    let mut total = Cost::free();
    for op in &f.ops {
        let operands: Vec<TensorType> = op.operands.iter().map(|o| f.ty(*o).clone()).collect();
        let results: Vec<TensorType> = op.results.iter().map(|r| f.ty(*r).clone()).collect();
        let cost = op.kind.def().cost(&RuleCx {
            operands: &operands,
            results: &results,
            attrs: &op.attrs,
            module: cx.module,
        });
        total.flops += cost.flops;
        total.bytes += cost.bytes;
    }
    total
}

impl OpDef for Call {
    frame! {
        call(args: Variadic) -> (results: Variadic),
        "Calls the function `callee` (MLIR's `func.call`).",
        class Call,
        precision SAME,
        attrs &[required("callee", AttrKind::Symbol, "the function")],
    }

    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let f = callee(cx)?;
        if !f.params.iter().map(|p| f.ty(*p)).eq(cx.operands.iter()) {
            return Err(OpError::new(format!("arguments do not fit @{}", f.name)));
        }
        Ok(f.results.iter().map(|r| f.ty(*r).clone()).collect())
    }

    no_gradient!("calls are differentiated by the gradient pass, which builds the twin");

    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::whole(cx)
    }

    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        body_cost(cx)
    }

    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let f = callee(&cx.rule)?;
        let inputs: Vec<Tensor> = cx.operands.iter().map(|t| (*t).clone()).collect();
        let module = cx.rule.module.ok_or_else(|| OpError::new("calls need a module"))?;
        crate::eval::run_function(module, f, &inputs)
    }

    fn decompose(
        &self,
        _b: &mut Builder<'_>,
        _operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        Ok(Decomposition::Primitive)
    }
}
