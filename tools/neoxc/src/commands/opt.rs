//! `neoxc opt`.

use std::path::Path;

use neoxc_base::read;
use neoxc_driver::pass::{PassCx, PassError};
use neoxc_driver::pipeline;
use neoxc_ir::Module;
use neoxc_ir::target::Target;

use super::told;
use crate::Failure;
use crate::cli::Opt;

/// Reads a module and verifies it.
pub fn read_module(file: &Path) -> Result<Module, Failure> {
    let text = read::text(file, read::TABLES)
        .map_err(|e| Failure::new(5, format!("error: cannot read {}: {e}", file.display())))?;
    let bad = |m: String| Failure::new(3, format!("error: {}:{m}", file.display()));
    let module = neoxc_ir::text::parse(&text).map_err(|e| bad(e.to_string()))?;
    neoxc_ir::verify(&module).map_err(|e| bad(format!(" {e}")))?;
    Ok(module)
}

/// What the passes were given that made the module of a file.
pub fn settings(file: &Path, module: &Module) -> Result<PassCx, Failure> {
    PassCx::new(Target::X86Native)
        .of_module(module)
        .map_err(|e| Failure::new(3, format!("error: {}: `neox.settings`: {e}", file.display())))
}

/// Runs passes over a file and prints the result.
pub fn run(a: &Opt) -> Result<(), Failure> {
    if a.passes == ["list"] {
        for (phase, pass) in pipeline::PASSES {
            println!("{:<22} {:<10} {}", pass.name, phase.name(), pass.doc);
        }
        return Ok(());
    }
    let mut module = read_module(&a.file)?;
    let cx = settings(&a.file, &module)?;
    let target = a.target.map(|t| format!("target={t}"));
    let given: Vec<&String> = target.iter().chain(&a.sets).collect();
    let cx = cx.with(&given).map_err(|e| Failure::new(2, format!("error: {e}")))?;
    for name in &a.passes {
        let pass = pipeline::find(name).ok_or_else(|| {
            Failure::new(2, format!("error: no pass `{name}`; `--passes list` prints them"))
        })?;
        let report = pipeline::run_pass(&mut module, &pass, &cx).map_err(|e| match &*e.error {
            PassError::Refused(d) => told(d),
            _ => Failure::new(3, format!("error: {e}")),
        })?;
        for note in report.notes {
            eprintln!("{name}: {note}");
        }
    }
    print!("{}", neoxc_ir::text::print(&module));
    Ok(())
}
