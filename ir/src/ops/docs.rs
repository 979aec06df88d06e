//! `docs/ops.md`, generated from the registry.

use std::fmt::Write;

use crate::op::Arity;

/// The page: one section per op.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Ops of the `neox` dialect\n\nGenerated from the op registry; do not edit. \
         Each op is one file in `ir/src/ops/`.\n",
    );
    for op in super::OpKind::ALL.iter().map(|op| op.def()) {
        let s = op.signature();
        let list = |items: &[(&str, Arity)]| -> String {
            let names: Vec<String> = items
                .iter()
                .map(|(name, arity)| match arity {
                    Arity::One => format!("`{name}`"),
                    Arity::Optional => format!("`{name}`?"),
                    Arity::Variadic => format!("`{name}`…"),
                })
                .collect();
            if names.is_empty() { "none".into() } else { names.join(", ") }
        };
        let _ = writeln!(out, "\n## {}\n\n{}\n", op.name(), op.doc());
        let _ = writeln!(out, "- operands: {}", list(s.operands));
        let _ = writeln!(out, "- results: {}", list(s.results));
        for a in s.attrs {
            let optional = if a.required { "" } else { ", optional" };
            let _ = writeln!(out, "- `{}` ({:?}{optional}): {}", a.name, a.kind, a.doc);
        }
    }
    out
}
