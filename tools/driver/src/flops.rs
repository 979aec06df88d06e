//! Counts over programs: FLOPs of an entry, launches of a program.

use neoxc_ir::op::RuleCx;
use neoxc_ir::{Module, OpKind, TensorType};
use neoxc_plan::Instr;

/// FLOPs of one run of `entry`, by the ops' own cost rules, loops multiplied out.
pub fn of_entry(m: &Module, entry: &str) -> f64 {
    let Some(f) = m.function(entry) else { return 0.0 };
    f.ops
        .iter()
        .map(|op| {
            let types = |ids: &[neoxc_ir::ValueId]| -> Vec<TensorType> {
                ids.iter().map(|v| f.ty(*v).clone()).collect()
            };
            let (operands, results) = (types(&op.operands), types(&op.results));
            let cx = RuleCx {
                operands: &operands,
                results: &results,
                attrs: &op.attrs,
                module: Some(m),
            };
            match op.kind {
                OpKind::Call | OpKind::Repeat => {
                    let count = op.attrs.int("count").unwrap_or(1) as f64;
                    count * op.attrs.symbol("callee").map_or(0.0, |c| of_entry(m, c))
                }
                kind => kind.def().cost(&cx).flops,
            }
        })
        .sum()
}

/// Launch instructions in a program's text.
pub fn launches(body: &[Instr]) -> usize {
    body.iter()
        .map(|i| match i {
            Instr::Launch { .. } => 1,
            Instr::Collective { .. } | Instr::Wait { .. } => 0,
            Instr::Loop { body, .. } => launches(body),
        })
        .sum()
}
