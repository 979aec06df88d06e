//! `neoxc completions`: a script that teaches a shell to complete the commands, flags and values of neoxc.

use std::io::Write;

use clap::CommandFactory;
use neoxc_base::codes::io::io;

use super::told;
use crate::Failure;
use crate::cli::{Cli, Completions};

/// Prints the script on stdout.
///
/// # Errors
/// If stdout cannot be written to.
pub fn run(a: &Completions) -> Result<(), Failure> {
    let mut script = vec![];
    clap_complete::generate(a.shell, &mut Cli::command(), "neoxc", &mut script);
    std::io::stdout()
        .write_all(&script)
        .map_err(|e| told(&io("write", &"the script", &e, "stdout takes no more")))
}
