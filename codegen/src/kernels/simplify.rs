//! Expands composite ops of a kernel function into primitives.

use neoxc_ir::op::Decomposition;
use neoxc_ir::{Builder, Function, Module, ValueId};

use crate::CodegenError;

/// `f` with every composite op replaced by its decomposition, except those named in `keep`
/// (`*` keeps all).
pub fn primitives(module: &Module, f: &Function, keep: &[&str]) -> Result<Function, CodegenError> {
    let mut current = f.clone();
    // A decomposition may hold composites again; each round removes one level.
    loop {
        let mut next = Function::new(&current.name);
        next.attrs = current.attrs.clone();
        let mut map: Vec<Option<ValueId>> = vec![None; current.values.len()];
        for (p, attrs) in current.params.iter().zip(&current.param_attrs) {
            let name = current.values[p.index()].name.clone().unwrap_or_default();
            map[p.index()] = Some(next.add_param(&name, current.ty(*p).clone(), attrs.clone()));
        }
        let mut changed = false;
        let fail = |e: neoxc_ir::op::OpError| CodegenError::kernel(&f.name, e.to_string());
        for op in &current.ops {
            let operands: Vec<ValueId> = op
                .operands
                .iter()
                .map(|o| {
                    map[o.index()].ok_or_else(|| CodegenError::kernel(&f.name, "is not in order"))
                })
                .collect::<Result<_, _>>()?;
            let mut b = Builder::with_module(&mut next, module);
            b.at(&op.loc);
            let kept = keep.contains(&"*") || keep.contains(&op.kind.name());
            let expanded = if kept {
                Decomposition::Primitive
            } else {
                op.kind.def().decompose(&mut b, &operands, &op.attrs).map_err(fail)?
            };
            let results = match expanded {
                Decomposition::Primitive => {
                    b.op(op.kind, &operands, op.attrs.clone()).map_err(fail)?
                }
                Decomposition::Values(values) => {
                    changed = true;
                    values
                }
            };
            for (old, new) in op.results.iter().zip(results) {
                map[old.index()] = Some(new);
            }
        }
        next.results = current.results.iter().filter_map(|r| map[r.index()]).collect();
        next.remove_dead_ops();
        current = next;
        if !changed {
            return Ok(current);
        }
    }
}
