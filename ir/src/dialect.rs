//! The `neox` dialect as IRDL, generated from the op registry, for `mlir-opt --irdl-file`.

use std::fmt::Write;

use crate::op::Arity;
use crate::ops;

/// The dialect as an MLIR module.
pub fn irdl() -> String {
    let mut out = String::from("module {\n  irdl.dialect @neox {\n");
    for op in ops::ALL.iter().filter(|op| op.name() != "call") {
        let s = op.signature();
        let _ = writeln!(out, "    irdl.operation @{} {{", op.name());
        out.push_str("      %any = irdl.any\n");
        for (what, list) in [("operands", s.operands), ("results", s.results)] {
            if list.is_empty() {
                continue;
            }
            let items: Vec<String> = list
                .iter()
                .map(|(name, arity)| {
                    let prefix = match arity {
                        Arity::One => "",
                        Arity::Optional => "optional ",
                        Arity::Variadic => "variadic ",
                    };
                    format!("{name}: {prefix}%any")
                })
                .collect();
            let _ = writeln!(out, "      irdl.{what}({})", items.join(", "));
        }
        let required: Vec<String> = s
            .attrs
            .iter()
            .filter(|a| a.required)
            .map(|a| format!("\"{}\" = %any", a.name))
            .collect();
        if !required.is_empty() {
            let _ = writeln!(out, "      irdl.attributes {{ {} }}", required.join(", "));
        }
        out.push_str("    }\n");
    }
    out.push_str("  }\n}\n");
    out
}
