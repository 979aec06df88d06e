//! `neoxc explain`.

use neoxc_base::codes::{self, unknown_name};
use neoxc_driver::Phase;
use neoxc_frontend::{arguments, lints};
use neoxc_ir::Function;
use neoxc_ir::keys;
use neoxc_plan::Plan;

use super::{dump, told};
use crate::Failure;
use crate::cli::Explain;

/// Explains a diagnostic code, an argument, or a value of a plan.
pub fn run(a: &Explain) -> Result<(), Failure> {
    match &a.plan {
        None => code_or_key(&a.what),
        Some(folder) => value(&Plan::open(folder)?, &a.what),
    }
}

fn code_or_key(what: &str) -> Result<(), Failure> {
    if let Some(k) = codes::find(what) {
        print!("{}: {}\n\n{}\n\n{}", k.code, k.title, k.explanation, k.example);
        return Ok(());
    }
    if let Some(text) = arguments::page::explain(what) {
        print!("{text}");
        return Ok(());
    }
    if let Some(text) = lints::explain(what) {
        print!("{text}");
        return Ok(());
    }
    let looks_like_a_code = what.get(..2).is_some_and(|w| w.eq_ignore_ascii_case("nx"));
    let hint = match arguments::nearest(&what.replace('-', "_")) {
        _ if looks_like_a_code => {
            let all: Vec<&str> = codes::ALL.iter().map(|k| k.code).collect();
            format!("codes are {}", all.join(", "))
        }
        Some(near) => format!("did you mean `{near}`?"),
        None => "docs/arguments.md lists all arguments, and docs/lints.md all lints".to_string(),
    };
    Err(told(&unknown_name::unexplained(what, hint)))
}

/// Tells of `%12`, `@function%12` or `@kernel`: what makes it, from which line, where it lives.
fn value(plan: &Plan, what: &str) -> Result<(), Failure> {
    let module = dump::module(plan, Phase::Scheduled)?;
    let (function, value) = match what.split_once('%') {
        Some((f, v)) => (f.trim_start_matches('@'), Some(v)),
        None => (what.trim_start_matches('@'), None),
    };
    // A pipeline has no @train_step: its layers are in @train_forward.
    let name = match (function.is_empty(), module.function("train_step").is_some()) {
        (false, _) => function,
        (true, true) => "train_step",
        (true, false) => "train_forward",
    };
    let f = dump::function(&module, name)?;
    let Some(value) = value else {
        println!("@{name}, from {}", neoxc_ir::Loc::fuse(f.ops.iter().map(|o| &o.loc)));
        choices(f, None);
        cut(plan, name);
        print!("{}", neoxc_ir::text::print_function(f));
        return Ok(());
    };
    let number = value.split('#').next().and_then(|v| v.parse::<usize>().ok());
    let (number, op) = number
        .and_then(|n| f.ops.get(n).map(|op| (n, op)))
        .ok_or_else(|| told(&unknown_name::unknown_value(name, value, f.ops.len())))?;
    println!("%{number} of @{name}: {} at {}", op.kind.full_name(), op.loc);
    for (r, place) in op.results.iter().zip(op.attrs.strs(keys::PLACE).unwrap_or_default()) {
        println!("  {}, {} bytes at {place}", f.ty(*r), f.ty(*r).bytes());
    }
    if let Some(callee) = op.attrs.symbol("callee").and_then(|c| module.function(c)) {
        match callee.attrs.str(keys::KERNEL) {
            Some(family) => println!("made by the {family} kernel @{}:", callee.name),
            None => println!("made by the loop body @{}:", callee.name),
        }
        choices(f, Some(callee));
        cut(plan, &callee.name);
        print!("{}", neoxc_ir::text::print_function(callee));
    }
    Ok(())
}

/// Tells how a matmul is divided into tasks, which its kernel's text notes.
fn cut(plan: &Plan, kernel: &str) {
    let text = dump::text(plan, Phase::Kernels).unwrap_or_default();
    let start = format!("func.func @{kernel}(");
    let found = text.split_inclusive("\n}\n").find(|m| m.contains(&start));
    if let Some(note) = found.and_then(|m| m.lines().find_map(|l| l.trim().strip_prefix("// "))) {
        println!("{note}");
    }
}

/// Tells which fused forms rewriting chose in `f`, and what each was faster than; with `kernel`, only
/// those that it computes, or the gradients of.
fn choices(f: &Function, kernel: Option<&Function>) {
    for text in f.attrs.strs(keys::CHOICES).unwrap_or_default() {
        let op = text.split(' ').next().unwrap_or_default();
        let made = |k: &Function| k.ops.iter().any(|o| o.kind.name().starts_with(op));
        if kernel.is_none_or(made) {
            println!("chosen by rewriting: {text}");
        }
    }
}
