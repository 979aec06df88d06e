//! Module → text.

use std::fmt::Write;

use crate::attrs::{Attr, Attrs, write_quoted};
use crate::module::{Function, Loc, Module, Op, ValueId};
use crate::types::TensorType;

/// Characters of a line that the attributes of a module have to fit in.
const LINE: usize = 110;

/// Attributes with a line for each, and lists in as many lines as they need.
fn lines(attrs: &Attrs) -> String {
    let one = |(name, value): (&String, &Attr)| {
        let text = format!("  {name} = {value}");
        match value {
            Attr::Array(items) if text.len() > LINE => {
                let mut out = format!("  {name} = [\n   ");
                let mut width = 3;
                for (i, item) in items.iter().enumerate() {
                    let item = format!(" {item}{}", if i + 1 < items.len() { "," } else { "" });
                    if width + item.len() > LINE && width > 3 {
                        out.push_str("\n   ");
                        width = 3;
                    }
                    width += item.len();
                    out.push_str(&item);
                }
                out + "\n  ]"
            }
            _ => text,
        }
    };
    format!("{{\n{}\n}}", attrs.0.iter().map(one).collect::<Vec<_>>().join(",\n"))
}

/// Prints a module.
pub fn print(module: &Module) -> String {
    let mut out = String::from("module ");
    if !module.attrs.is_empty() {
        let line = module.attrs.to_string();
        let short = line.len() <= LINE;
        let _ = write!(out, "attributes {} ", if short { line } else { lines(&module.attrs) });
    }
    out.push_str("{\n");
    for f in &module.functions {
        print_into(&mut out, f);
    }
    out.push_str("}\n");
    out
}

/// Prints one function, indented as inside a module.
pub fn print_function(f: &Function) -> String {
    let mut out = String::new();
    print_into(&mut out, f);
    out
}

/// The names of all values of `f`, as text shows them.
pub(crate) fn value_names(f: &Function) -> Vec<String> {
    let mut names = vec![String::new(); f.values.len()];
    for (i, p) in f.params.iter().enumerate() {
        names[p.index()] = match &f.values[p.index()].name {
            Some(n) => format!("%{n}"),
            None => format!("%arg{i}"),
        };
    }
    for (number, op) in f.ops.iter().enumerate() {
        for (i, r) in op.results.iter().enumerate() {
            names[r.index()] = match op.results.len() {
                1 => format!("%{number}"),
                _ => format!("%{number}#{i}"),
            };
        }
    }
    names
}

fn print_into(out: &mut String, f: &Function) {
    let names = value_names(f);
    let _ = write!(out, "  func.func @{}(", f.name);
    for (i, p) in f.params.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        let _ = write!(out, "{comma}{}: {}", names[p.index()], f.ty(*p));
        if !f.param_attrs[i].is_empty() {
            let _ = write!(out, " {}", f.param_attrs[i]);
        }
    }
    out.push(')');
    if !f.results.is_empty() {
        let _ = write!(out, " -> {}", types(f, &f.results, false));
    }
    if !f.attrs.is_empty() {
        let _ = write!(out, " attributes {}", f.attrs);
    }
    out.push_str(" {\n");
    for (number, op) in f.ops.iter().enumerate() {
        print_op(out, f, op, number, &names);
    }
    out.push_str("    return");
    if !f.results.is_empty() {
        let _ = write!(out, " {} : ", values(&f.results, &names));
        let tys: Vec<String> = f.results.iter().map(|r| f.ty(*r).to_string()).collect();
        out.push_str(&tys.join(", "));
    }
    out.push_str("\n  }\n");
}

fn print_op(out: &mut String, f: &Function, op: &Op, number: usize, names: &[String]) {
    out.push_str("    ");
    match op.results.len() {
        0 => {}
        1 => {
            let _ = write!(out, "%{number} = ");
        }
        n => {
            let _ = write!(out, "%{number}:{n} = ");
        }
    }
    let _ = write!(out, "\"{}\"({})", op.kind.full_name(), values(&op.operands, names));
    if !op.attrs.is_empty() {
        let _ = write!(out, " {}", op.attrs);
    }
    let _ = write!(out, " : {} -> {}", types(f, &op.operands, true), types(f, &op.results, false));
    if op.loc != Loc::Unknown {
        out.push_str(" loc(");
        print_loc(out, &op.loc);
        out.push(')');
    }
    out.push('\n');
}

fn print_loc(out: &mut String, loc: &Loc) {
    match loc {
        Loc::Unknown => out.push_str("unknown"),
        Loc::File { file, line, column } => {
            let _ = write_quoted(out, file);
            let _ = write!(out, ":{line}:{column}");
        }
        Loc::Fused(inner) => {
            out.push_str("fused[");
            for (i, l) in inner.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                print_loc(out, l);
            }
            out.push(']');
        }
    }
}

fn values(ids: &[ValueId], names: &[String]) -> String {
    ids.iter().map(|v| names[v.index()].as_str()).collect::<Vec<_>>().join(", ")
}

fn types(f: &Function, ids: &[ValueId], parens: bool) -> String {
    let tys: Vec<&TensorType> = ids.iter().map(|v| f.ty(*v)).collect();
    let text = tys.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
    if parens || tys.len() != 1 { format!("({text})") } else { text }
}
