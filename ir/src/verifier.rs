//! The verifier: runs between passes and on everything parsed.
//!
//! It re-infers every result type from the op's own rule, so a pass cannot leave a type that the
//! registry would not give.

use crate::attrs::Attrs;
use crate::keys::{self, On};
use crate::module::{Function, Module};
use crate::op::{Arity, OpError, OpKind, RuleCx};
use crate::types::TensorType;

/// A broken invariant, with the function and op it was found in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {message}", within(function), op.as_ref().map(|(i, n, l)| format!(" op {i} ({n}, {l})")).unwrap_or_default())]
pub struct VerifyError {
    /// Function; empty for what is wrong with the module itself.
    pub function: String,
    /// Index, name and location of the op.
    pub op: Option<(usize, String, String)>,
    /// What is wrong.
    pub message: String,
}

/// Where an error is, for its message.
fn within(function: &str) -> String {
    if function.is_empty() { "the module".into() } else { format!("@{function}") }
}

/// Checks a whole module.
pub fn verify(module: &Module) -> Result<(), VerifyError> {
    keys::check(&module.attrs, On::Module).map_err(|message| VerifyError {
        function: String::new(),
        op: None,
        message,
    })?;
    for (i, f) in module.functions.iter().enumerate() {
        if module.functions[..i].iter().any(|g| g.name == f.name) {
            return Err(error(f, None, "is defined twice"));
        }
        verify_function(module, f)?;
    }
    check_acyclic(module)
}

fn error(f: &Function, op: Option<usize>, message: impl Into<String>) -> VerifyError {
    let op = op.map(|i| (i, f.ops[i].kind.full_name(), f.ops[i].loc.to_string()));
    VerifyError { function: f.name.clone(), op, message: message.into() }
}

fn verify_function(module: &Module, f: &Function) -> Result<(), VerifyError> {
    for v in &f.values {
        check_type(&v.ty).map_err(|m| error(f, None, m))?;
    }
    if f.param_attrs.len() != f.params.len() {
        return Err(error(f, None, "has parameter attributes for another number of parameters"));
    }
    keys::check(&f.attrs, On::Function).map_err(|m| error(f, None, m))?;
    for attrs in &f.param_attrs {
        keys::check(attrs, On::Parameter).map_err(|m| error(f, None, m))?;
    }
    let mut defined = vec![false; f.values.len()];
    for p in &f.params {
        define(&mut defined, *p).map_err(|m| error(f, None, m))?;
    }
    for (i, op) in f.ops.iter().enumerate() {
        let fail = |m: String| error(f, Some(i), m);
        for o in &op.operands {
            if !defined.get(o.index()).copied().unwrap_or(false) {
                return Err(fail("uses a value before it is defined".into()));
            }
        }
        check_attrs(op.kind, &op.attrs).map_err(|e| fail(e.0))?;
        check_arity(op.kind, op.operands.len(), &op.attrs).map_err(|e| fail(e.0))?;
        let operands: Vec<TensorType> = op.operands.iter().map(|o| f.ty(*o).clone()).collect();
        let cx =
            RuleCx { operands: &operands, results: &[], attrs: &op.attrs, module: Some(module) };
        let inferred = op.kind.def().infer(&cx).map_err(|e| fail(e.0))?;
        if inferred.len() != op.results.len() {
            return Err(fail(format!(
                "has {} results, its rule gives {}",
                op.results.len(),
                inferred.len()
            )));
        }
        for (r, want) in op.results.iter().zip(&inferred) {
            define(&mut defined, *r).map_err(|m| fail(m.to_string()))?;
            let have = f.ty(*r);
            if have.dtype != want.dtype || have.dims != want.dims {
                return Err(fail(format!("result has type {have}, its rule gives {want}")));
            }
        }
    }
    for r in &f.results {
        if !defined.get(r.index()).copied().unwrap_or(false) {
            return Err(error(f, None, "returns a value that is not defined"));
        }
    }
    Ok(())
}

fn define(defined: &mut [bool], v: crate::ValueId) -> Result<(), &'static str> {
    match defined.get_mut(v.index()) {
        Some(d) if !*d => {
            *d = true;
            Ok(())
        }
        Some(_) => Err("defines a value twice"),
        None => Err("defines a value that the function does not have"),
    }
}

fn check_type(ty: &TensorType) -> Result<(), String> {
    for (i, d) in ty.dims.iter().enumerate() {
        if d.size == 0 {
            return Err(format!("{ty}: dim `{}` is empty", d.name));
        }
        if ty.dims[..i].iter().any(|e| e.name == d.name) {
            return Err(format!("{ty}: dim `{}` appears twice", d.name));
        }
    }
    ty.checked_elements().map_err(|e| e.0)?;
    Ok(())
}

/// Checks the number of operands against the op's signature.
pub fn check_arity(kind: OpKind, operands: usize, attrs: &Attrs) -> Result<(), OpError> {
    check_attrs(kind, attrs)?;
    let spec = kind.def().signature().operands;
    let least = spec.iter().filter(|(_, a)| *a == Arity::One).count();
    let unbounded = spec.iter().any(|(_, a)| *a == Arity::Variadic);
    if operands < least || (!unbounded && operands > spec.len()) {
        return Err(OpError::new(format!("takes {} operands, got {operands}", spec.len())));
    }
    Ok(())
}

fn check_attrs(kind: OpKind, attrs: &Attrs) -> Result<(), OpError> {
    let specs = kind.def().signature().attrs;
    for spec in specs {
        match attrs.get(spec.name) {
            None if spec.required => {
                return Err(OpError::new(format!("needs the attribute `{}`", spec.name)));
            }
            None => {}
            Some(value) if keys::fits(value, spec.kind) => {}
            Some(value) => {
                return Err(OpError::new(format!(
                    "attribute `{}` is {value}, not a {:?}",
                    spec.name, spec.kind
                )));
            }
        }
    }
    // Attributes of later phases (`neox.place`, …) carry the dialect's prefix; others the op itself declares.
    keys::check(attrs, On::Op).map_err(OpError)?;
    for name in attrs.0.keys() {
        if !name.starts_with("neox.") && !specs.iter().any(|s| s.name == name) {
            return Err(OpError::new(format!("has no attribute `{name}`")));
        }
    }
    Ok(())
}

/// A call graph with a cycle has no plan: loops are `neox.repeat`.
fn check_acyclic(module: &Module) -> Result<(), VerifyError> {
    fn visit<'m>(
        module: &'m Module,
        f: &'m Function,
        path: &mut Vec<&'m str>,
        done: &mut Vec<&'m str>,
    ) -> Result<(), VerifyError> {
        if done.contains(&f.name.as_str()) {
            return Ok(());
        }
        if path.contains(&f.name.as_str()) {
            return Err(error(f, None, format!("calls itself through {}", path.join(" → "))));
        }
        path.push(&f.name);
        for op in &f.ops {
            if let Some(callee) = op.attrs.symbol("callee").and_then(|c| module.function(c)) {
                visit(module, callee, path, done)?;
            }
        }
        path.pop();
        done.push(&f.name);
        Ok(())
    }
    let mut done = vec![];
    module.functions.iter().try_for_each(|f| visit(module, f, &mut vec![], &mut done))
}
