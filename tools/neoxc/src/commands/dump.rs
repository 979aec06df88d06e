//! `neoxc dump`.

use neoxc_base::codes::unknown_name::unknown_name;
use neoxc_driver::Phase;
use neoxc_plan::Plan;

use super::told;
use crate::Failure;
use crate::cli::Dump;

/// The text of a phase in a plan.
pub fn text(plan: &Plan, phase: Phase) -> Result<String, Failure> {
    let file = match phase {
        Phase::Kernels => format!("ir/kernels.{}.mlir", plan.tables.target),
        other => format!("ir/{}.mlir", other.name()),
    };
    let bytes = plan.files.get(&file);
    let bytes = bytes.ok_or_else(|| Failure::new(3, format!("error: the plan has no {file}")))?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
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
    let missing =
        || Failure::new(3, format!("error: no function @{name} in phase {}", phase.name()));
    if phase == Phase::Kernels {
        let start = format!("func.func @{name}(");
        let found =
            text.split_inclusive("\n}\n").find(|m| m.contains(&start)).ok_or_else(missing)?;
        print!("{}", found.trim_start());
        return Ok(());
    }
    let module =
        neoxc_ir::text::parse(&text).map_err(|e| Failure::new(3, format!("error: {e}")))?;
    let f = module.function(name).ok_or_else(missing)?;
    print!("{}", neoxc_ir::text::print_function(f));
    Ok(())
}
