//! `neoxc dump`.

use neoxc_base::codes::plan::plan as refused;
use neoxc_base::codes::unknown_name::unknown_name;
use neoxc_base::codes::unreadable_module;
use neoxc_driver::Phase;
use neoxc_ir::{Function, Module};
use neoxc_plan::Plan;

use super::told;
use crate::Failure;
use crate::cli::Dump;

/// The text of a phase in a plan.
pub fn text(plan: &Plan, phase: Phase) -> Result<String, Failure> {
    let file = file(plan, phase);
    let bytes = plan.files.get(&file);
    let bytes = bytes.ok_or_else(|| {
        told(&refused(&format!("the plan has no {file}"), "compile the plan again"))
    })?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// The file of a plan that has the text of a phase.
fn file(plan: &Plan, phase: Phase) -> String {
    match phase {
        Phase::Kernels => format!("ir/kernels.{}.mlir", plan.tables.target),
        other => format!("ir/{}.mlir", other.name()),
    }
}

/// The module of a phase in a plan.
pub fn module(plan: &Plan, phase: Phase) -> Result<Module, Failure> {
    neoxc_ir::text::parse(&text(plan, phase)?).map_err(|e| {
        let name = file(plan, phase);
        told(&unreadable_module::syntax(&name, e.line, e.column, &e.message))
    })
}

/// The function called `name`, without `@`.
pub fn function<'a>(module: &'a Module, name: &str) -> Result<&'a Function, Failure> {
    module.function(name).ok_or_else(|| {
        let known: Vec<&str> = module.functions.iter().map(|f| &*f.name).collect();
        told(&unknown_name("function", name, &known))
    })
}

/// The phase that the command line calls `name`.
pub fn phase(name: &str) -> Result<Phase, Failure> {
    Phase::parse(name).ok_or_else(|| {
        let known: Vec<&str> = Phase::ALL.iter().map(|p| p.name()).collect();
        told(&unknown_name("phase", name, &known))
    })
}

/// Prints a phase, or one function or kernel of it.
pub fn run(a: &Dump) -> Result<(), Failure> {
    let plan = Plan::open(&a.plan)?;
    let phase = phase(&a.phase)?;
    let text = text(&plan, phase)?;
    let Some(name) = &a.function else {
        print!("{text}");
        return Ok(());
    };
    if phase == Phase::Kernels {
        let start = format!("func.func @{name}(");
        let found = text.split_inclusive("\n}\n").find(|m| m.contains(&start));
        let found = found.ok_or_else(|| {
            let known: Vec<&str> =
                text.split("func.func @").skip(1).filter_map(|f| f.split('(').next()).collect();
            told(&unknown_name("kernel", name, &known))
        })?;
        print!("{}", found.trim_start());
        return Ok(());
    }
    let module = module(&plan, phase)?;
    print!("{}", neoxc_ir::text::print_function(function(&module, name)?));
    Ok(())
}
