//! The `neox` dialect as IRDL, generated from the op registry, for
//! `mlir-opt --irdl-file=… --allow-unregistered-dialect` (the flag is for `neox_loop`, see
//! [`crate::OpKind::full_name`]).

use std::fmt::Write;

use crate::op::{Arity, OpKind};

/// The dialect as an MLIR module.
pub fn irdl() -> String {
    let mut out = String::from("module {\n  irdl.dialect @neox {\n");
    let outside = [OpKind::Call, OpKind::Map, OpKind::Repeat];
    for op in OpKind::ALL.iter().filter(|op| !outside.contains(op)).map(|op| op.def()) {
        let s = op.signature();
        let _ = writeln!(out, "    irdl.operation @{} {{", op.name());
        // Two uses of one IRDL constraint must be the same type, so each value has its own.
        let mut constraints = 0;
        let mut any = |out: &mut String| {
            constraints += 1;
            let _ = writeln!(out, "      %any{constraints} = irdl.any");
            format!("%any{constraints}")
        };
        for (what, list) in [("operands", s.operands), ("results", s.results)] {
            let items: Vec<String> = list
                .iter()
                .map(|(name, arity)| {
                    let prefix = match arity {
                        Arity::One => "",
                        Arity::Optional => "optional ",
                        Arity::Variadic => "variadic ",
                    };
                    format!("{name}: {prefix}{}", any(&mut out))
                })
                .collect();
            if !items.is_empty() {
                let _ = writeln!(out, "      irdl.{what}({})", items.join(", "));
            }
        }
        let required: Vec<String> = s
            .attrs
            .iter()
            .filter(|a| a.required)
            .map(|a| format!("\"{}\" = {}", a.name, any(&mut out)))
            .collect();
        if !required.is_empty() {
            let _ = writeln!(out, "      irdl.attributes {{ {} }}", required.join(", "));
        }
        out.push_str("    }\n");
    }
    out.push_str("  }\n}\n");
    out
}
