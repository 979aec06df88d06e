//! `neoxc`: the command line. The only place that renders diagnostics.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod print;

mod cli;
mod commands;
mod render;

use std::process::ExitCode;

use cli::{Cli, Command};
use neoxc_base::diag::{Diagnostic, Sources};

/// What a command failed with, and the exit code that goes with it.
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// What a diagnostic tells; `sources` has the lines that it marks. The exit code is its kind's.
    pub fn of(d: &Diagnostic, sources: &Sources) -> Self {
        Self { code: d.kind.exit, message: render::diagnostic(d, sources).trim_end().to_string() }
    }

    /// A failure whose diagnostics are printed already.
    pub fn told(code: u8) -> Self {
        Self { code, message: String::new() }
    }

    /// Several failures, with the exit code of the first.
    pub fn all(failures: Vec<Failure>) -> Self {
        let code = failures.first().map_or(1, |f| f.code);
        let messages: Vec<String> = failures.into_iter().map(|f| f.message).collect();
        Self { code, message: messages.join("\n") }
    }
}

impl From<neoxc_runtime::RuntimeError> for Failure {
    fn from(e: neoxc_runtime::RuntimeError) -> Self {
        Self { code: e.exit_code(), message: neoxc_runtime::job::told(&e) }
    }
}

impl From<neoxc_plan::PlanError> for Failure {
    fn from(e: neoxc_plan::PlanError) -> Self {
        neoxc_runtime::RuntimeError::from(e).into()
    }
}

fn main() -> ExitCode {
    // The e-graph library tells every step at `info`: only what neoxc itself says is of interest.
    let level = std::env::var("NEOXC_LOG").unwrap_or_else(|_| "warn".into());
    let filter = tracing_subscriber::EnvFilter::new(format!("egg=warn,{level}"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    neoxc_runtime::signals::report_large_files();
    let cli: Cli = match neoxc_runtime::command::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if !matches!(cli.command, Command::Run(_)) {
        neoxc_runtime::signals::end_with_the_reader();
    }
    let done = match cli.command {
        Command::Compile(a) => commands::compile::run(a),
        Command::Completions(a) => commands::completions::run(&a),
        Command::Run(a) => commands::run::run(&a),
        Command::Check(a) => commands::check::run(&a),
        Command::Dump(a) => commands::dump::run(&a),
        Command::Explain(a) => commands::explain::run(&a),
        Command::Opt(a) => commands::opt::run(&a),
        Command::Profile(a) => commands::profile::run(&a),
        Command::Tune(a) => commands::tune::run(&a),
        Command::Dialect => commands::dialect(),
        Command::Tokenizer(a) => commands::text::tokenizer(a),
        Command::Data(a) => commands::text::data(a),
        Command::Generate(a) => commands::generate::run(&a),
        Command::Convert(a) => commands::convert::run(a),
        Command::Inspect(a) => commands::inspect::run(&a),
    };
    match done {
        Ok(()) if neoxc_runtime::say::failed() => ExitCode::from(5),
        Ok(()) => ExitCode::SUCCESS,
        Err(f) => {
            if !f.message.is_empty() {
                eprintln!("{}", f.message);
            }
            ExitCode::from(f.code)
        }
    }
}
