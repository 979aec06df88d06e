//! `neoxc run`.

use neoxc_plan::Plan;
use neoxc_runtime::command;

use super::{compile_config, load_with_sources};
use crate::cli::Run;
use crate::{Failure, render};

/// Trains a plan, compiling it first if configuration files are given.
pub fn run(a: &Run) -> Result<(), Failure> {
    let plan = match &a.plan {
        Some(folder) => Plan::open_to_run(folder, a.trust_plan)?,
        None => {
            let (config, sources) = load_with_sources(&a.config)?;
            let compiled = compile_config(&config, &a.target)?;
            render::report(&compiled.warnings, &sources);
            compiled.plan
        }
    };
    match command::run(&plan, &a.run)? {
        0 => Ok(()),
        // It has said why.
        code => Err(Failure::told(code)),
    }
}
