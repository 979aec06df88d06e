//! `neoxc-run`: executes a plan on a machine that has no compiler. Links neither LLVM nor MLIR.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use neoxc_plan::Plan;
use neoxc_runtime::command::{self, RunArgs};
use neoxc_runtime::{job, say, signals, tell};

/// Train a plan that `neoxc compile` made.
#[derive(Parser)]
#[command(name = "neoxc-run", version)]
struct Cli {
    /// The plan.
    #[arg(long, value_name = "PLAN")]
    plan: PathBuf,
    /// Run the plan although others may write to its files: a plan is code.
    #[arg(long)]
    trust_plan: bool,
    /// Run options.
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    signals::report_large_files();
    let cli: Cli = match command::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let opened = Plan::open_to_run(&cli.plan, cli.trust_plan).map_err(Into::into);
    match opened.and_then(|plan| command::run(&plan, &cli.run)) {
        Ok(0) if say::failed() => ExitCode::from(5),
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            let message = job::told(&e);
            if !message.is_empty() {
                tell!("{message}");
            }
            ExitCode::from(e.exit_code())
        }
    }
}
