//! One file per command.

pub mod check;
pub mod checkpoint;
pub mod cluster;
pub mod compile;
pub mod completions;
pub mod convert;
pub mod dump;
pub mod explain;
pub mod generate;
pub mod inspect;
pub mod opt;
pub mod profile;
pub mod run;
pub mod text;
pub mod tune;

use std::path::PathBuf;

use neoxc_base::codes::command_line::incomplete;
use neoxc_driver::{CompileError, Compiled, Options};
use neoxc_frontend::Config;
use neoxc_ir::cluster::Machine;
use neoxc_ir::diag::{Diagnostic, Sources};
use neoxc_ir::target::Target;

use crate::Failure;
use crate::cli::{ConfigArgs, TargetArgs};
use crate::render;
use neoxc_runtime::progress::human;

/// `neoxc dialect`.
pub fn dialect() -> Result<(), Failure> {
    print!("{}", neoxc_ir::dialect::irdl());
    Ok(())
}

/// Loads and checks a configuration, with the text of its files for further diagnostics; those that there are already
/// go to stderr.
pub fn load_with_sources(a: &ConfigArgs) -> Result<(Config, Sources), Failure> {
    if a.configs.is_empty() && a.sets.is_empty() {
        let hint = "give configuration files, or a plan where the command takes --plan";
        return Err(told(&incomplete("nothing says which model it is", hint)));
    }
    let loaded = neoxc_frontend::load(&a.configs, a.dir.as_deref(), &a.sets);
    render::report(&loaded.diagnostics, &loaded.sources);
    let config = loaded.config.ok_or_else(|| Failure::told(3))?;
    Ok((config, loaded.sources))
}

/// The kernel cache's folder, if `asked` does not say.
pub fn kernel_cache(asked: Option<PathBuf>) -> Option<PathBuf> {
    asked
        .or_else(|| std::env::var_os("NEOXC_CACHE").map(PathBuf::from))
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/neoxc")))
}

/// Number of threads: what was asked for, or all cores.
pub fn threads(asked: Option<usize>) -> usize {
    neoxc_runtime::job::Job::threads(None, asked)
}

/// Compiles a checked configuration to run here.
pub fn compile_config(config: &Config, a: &TargetArgs) -> Result<Compiled, Failure> {
    let options = options(a, Target::X86Native, None, true);
    neoxc_driver::compile(config, &options).map_err(|e| internal(&e))
}

/// Options of the compiler; `usual` is the target where the command line has none.
pub fn options(a: &TargetArgs, usual: Target, machine: Option<Machine>, overlap: bool) -> Options {
    let targets = if a.target.is_empty() { vec![usual] } else { a.target.clone() };
    let (cache, threads) = (kernel_cache(a.cache.clone()), threads(None) as u64);
    Options { targets, cache, threads, machine, overlap }
}

/// A compiler failure: what was refused, or an internal error with what replays it.
pub fn internal(e: &CompileError) -> Failure {
    told(&e.diagnostic(&std::env::temp_dir()))
}

/// A failure that a diagnostic tells, with the lines of the files that it marks.
pub fn told(d: &Diagnostic) -> Failure {
    let mut sources = Sources::default();
    for label in &d.labels {
        let name = &*label.span.file;
        if sources.text(name).is_none()
            && let Ok(text) = neoxc_base::read::text(name.as_ref(), neoxc_base::read::TABLES)
        {
            sources.add(name, &text);
        }
    }
    Failure::of(d, &sources)
}

/// Prints what a rank allocates, each line behind `indent`.
fn print_memory(m: &neoxc_plan::Memory, indent: &str) {
    for (name, bytes) in [
        ("parameters", m.parameters),
        ("gradients", m.gradients),
        ("optimizer", m.optimizer),
        ("activations", m.activations),
        ("workspace", m.workspace),
        ("peak", m.peak),
    ] {
        println!("{indent}{name:<12}{:>12}  {bytes} bytes", human(bytes));
    }
}
