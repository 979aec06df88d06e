//! `neoxc opt`.

use std::path::Path;

use neoxc_base::codes::internal_error::internal_error;
use neoxc_base::codes::io::io;
use neoxc_base::codes::{unknown_name, unreadable_module, unready_module::unready_module};
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
    let name = file.display().to_string();
    let text = read::text(file, read::TABLES).map_err(|e| {
        told(&io("read", &name, &e, "`neoxc dump --plan PLAN --phase PHASE` prints a module"))
    })?;
    let module = neoxc_ir::text::parse(&text)
        .map_err(|e| told(&unreadable_module::syntax(&name, e.line, e.column, &e.message)))?;
    neoxc_ir::verify(&module).map_err(|e| told(&unreadable_module::invalid(&name, &e)))?;
    Ok(module)
}

/// What the passes were given that made the module of a file.
pub fn settings(file: &Path, module: &Module) -> Result<PassCx, Failure> {
    PassCx::new(Target::X86Native)
        .of_module(module)
        .map_err(|e| told(&unreadable_module::settings(&file.display().to_string(), &e)))
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
    let cx = cx.with(&given).map_err(|e| told(&unknown_name::setting(&e)))?;
    for name in &a.passes {
        let pass = pipeline::find(name).ok_or_else(|| {
            let known: Vec<&str> = pipeline::PASSES.iter().map(|(_, pass)| pass.name).collect();
            told(&unknown_name::unknown_name("pass", name, &known))
        })?;
        let report = pipeline::run_pass(&mut module, &pass, &cx).map_err(|e| match &*e.error {
            PassError::Refused(d) => told(d),
            why @ (PassError::Ensures { .. } | PassError::Internal { .. }) => {
                told(&internal_error(&e.to_string(), &why.spans(), None))
            }
            why => told(&unready_module(&e, &why.spans())),
        })?;
        for note in report.notes {
            eprintln!("{name}: {note}");
        }
    }
    print!("{}", neoxc_ir::text::print(&module));
    Ok(())
}
