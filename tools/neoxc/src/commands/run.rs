//! `neoxc run`.

use neoxc_plan::Plan;
use neoxc_runtime::command;

use super::{compile_config, load};
use crate::Failure;
use crate::cli::Run;

/// Trains a plan, compiling it first if configuration files are given.
pub fn run(a: &Run) -> Result<(), Failure> {
    let plan = match &a.plan {
        Some(folder) => Plan::open_to_run(folder, a.trust_plan)?,
        None => compile_config(&load(&a.config)?, &a.target)?.plan,
    };
    match command::run(&plan, &a.run)? {
        0 => Ok(()),
        // It has said why.
        code => Err(Failure::told(code)),
    }
}
