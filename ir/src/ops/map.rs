//! `neox_loop.map`: a function of numbers, applied element by element.
//!
//! ```text
//! %w', %m' = map(%w, %g, %m, %rate) {callee = @update, results = 2}
//! @update(%w: f32, %g: f32, %m: f32, %rate: f32) -> (f32, f32)
//! ```
//! It keeps a formula of several values together where all of them have to be divided, placed and stored alike: the
//! update of an optimizer, which reads a weight, its gradient and its state once and writes them once.

use super::call::callee;
use super::decomposed;
use super::prelude::*;
use crate::module::Function;

/// The op of this file.
pub struct Map;

/// The type of the elements' tensors: that of the operands that are no scalars, of which all have one type.
fn elements(cx: &RuleCx<'_>) -> Result<TensorType, OpError> {
    let float = |t: &&TensorType| t.dtype != DType::F32;
    if let Some(other) = cx.operands.iter().find(float) {
        return Err(OpError::new(format!("takes f32, not {other}")));
    }
    let mut tensors = cx.operands.iter().filter(|t| !t.dims.is_empty());
    let Some(first) = tensors.next() else {
        return Ok(TensorType::scalar(DType::F32));
    };
    match tensors.find(|t| t.dims != first.dims) {
        Some(other) => Err(OpError::new(format!("takes {first} and {other}"))),
        None => Ok(TensorType::new(DType::F32, first.dims.clone())),
    }
}

/// Whether `f` takes `operands` numbers and gives `results`.
fn check_body(f: &Function, operands: usize, results: usize) -> Result<(), OpError> {
    let number = |v: &ValueId| f.ty(*v).dims.is_empty() && f.ty(*v).dtype == DType::F32;
    if !f.params.iter().chain(&f.results).all(number) {
        return Err(OpError::new(format!("@{} is not a function of f32 scalars", f.name)));
    }
    if (f.params.len(), f.results.len()) != (operands, results) {
        return Err(OpError::new(format!(
            "@{} takes {} numbers and gives {}, not {operands} and {results}",
            f.name,
            f.params.len(),
            f.results.len()
        )));
    }
    Ok(())
}

impl OpDef for Map {
    frame! {
        map(args: Variadic) -> (results: Variadic),
        "Applies `callee`, a function of f32 scalars, to every element: operands are tensors of one type, or \
         scalars that all elements share; each result is a tensor of that type.",
        class Special,
        precision EXACT,
        attrs &[
            required("callee", AttrKind::Symbol, "the function of one element"),
            required("results", AttrKind::Int, "number of results"),
        ],
    }

    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let (ty, results) = (elements(cx)?, cx.size("results")?);
        if cx.module.is_some() {
            check_body(callee(cx)?, cx.operands.len(), results)?;
        }
        Ok(vec![ty; results])
    }

    no_gradient!("it is made of the function's own ops where a gradient is wanted");

    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::parallel(cx)
    }

    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        let each = super::call::body_cost(cx).flops;
        let elements = cx.results.first().map_or(0, TensorType::elements);
        Cost::streaming(cx, each * elements as f64)
    }

    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        decomposed::evaluate(&Map, cx)
    }

    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        let cx = RuleCx { operands: &[], results: &[], attrs, module: b.module };
        let f = callee(&cx)?;
        check_body(f, operands.len(), cx.size("results")?)?;
        let mut map: Vec<Option<ValueId>> = vec![None; f.values.len()];
        for (p, o) in f.params.iter().zip(operands) {
            map[p.index()] = Some(*o);
        }
        let late = || OpError::new(format!("@{} uses a value before it is defined", f.name));
        let get = |map: &[Option<ValueId>], v: &ValueId| map[v.index()].ok_or_else(late);
        for op in &f.ops {
            let inputs: Vec<ValueId> =
                op.operands.iter().map(|o| get(&map, o)).collect::<Result<_, _>>()?;
            let made = b.op(op.kind, &inputs, op.attrs.clone())?;
            for (r, v) in op.results.iter().zip(made) {
                map[r.index()] = Some(v);
            }
        }
        let values = f.results.iter().map(|r| get(&map, r)).collect::<Result<_, _>>()?;
        Ok(Decomposition::Values(values))
    }
}

#[cfg(test)]
mod tests {
    use crate::eval::Tensor;
    use crate::{text, verify};

    const TEXT: &str = r#"module {
  func.func @step(%w: tensor<f32>, %g: tensor<f32>, %rate: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
    %0 = "neox.mul"(%g, %rate) : (tensor<f32>, tensor<f32>) -> tensor<f32>
    %1 = "neox.sub"(%w, %0) : (tensor<f32>, tensor<f32>) -> tensor<f32>
    return %1, %0 : tensor<f32>, tensor<f32>
  }
  func.func @main(%w: tensor<3xf32, {dims = ["embed"]}>, %g: tensor<3xf32, {dims = ["embed"]}>, %rate: tensor<f32>) -> (tensor<3xf32, {dims = ["embed"]}>, tensor<3xf32, {dims = ["embed"]}>) {
    %0:2 = "neox_loop.map"(%w, %g, %rate) {callee = @step, results = 2} : (tensor<3xf32, {dims = ["embed"]}>, tensor<3xf32, {dims = ["embed"]}>, tensor<f32>) -> (tensor<3xf32, {dims = ["embed"]}>, tensor<3xf32, {dims = ["embed"]}>)
    return %0#0, %0#1 : tensor<3xf32, {dims = ["embed"]}>, tensor<3xf32, {dims = ["embed"]}>
  }
}
"#;

    #[test]
    fn every_element_goes_through_the_function() {
        let m = text::parse(TEXT).unwrap();
        verify(&m).unwrap();
        assert_eq!(text::print(&m), TEXT);
        let f = m.function("main").unwrap();
        let of = |n: usize, data: Vec<f64>| Tensor::new(f.ty(f.params[n]).clone(), data);
        let x = [of(0, vec![1.0, 2.0, 3.0]), of(1, vec![10.0, 20.0, 40.0]), of(2, vec![0.5])];
        let out = crate::eval::run(&m, "main", &x).unwrap();
        assert_eq!(out[0].data, [-4.0, -8.0, -17.0]);
        assert_eq!(out[1].data, [5.0, 10.0, 20.0]);
    }

    #[test]
    fn operands_and_function_must_fit() {
        for (from, to, why) in [
            ("results = 2}", "results = 1}", "takes 3 numbers and gives 2, not 3 and 1"),
            ("callee = @step", "callee = @main", "is not a function of f32 scalars"),
            ("callee = @step", "callee = @stop", "no function is called @stop"),
        ] {
            let m = text::parse(&TEXT.replace(from, to)).unwrap();
            let told = verify(&m).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
    }
}
