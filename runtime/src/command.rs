//! What `neoxc run` and `neoxc-run` do with a plan: train it, and tell how it went.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use neoxc_base::codes::command_line;
use neoxc_plan::Plan;

use crate::RuntimeError;
use crate::device::check_processor;
use crate::job::{self, Job};
use crate::progress::{TrainProgress, human};
use crate::signals::{EXIT_STOPPED, stop_flag};
use crate::train::{Options, Summary, settings, train};
use crate::{say, tell};

/// What `run` takes besides the plan.
#[derive(Debug, Args, Clone)]
pub struct RunArgs {
    /// Optimizer steps to end at [default: train_iters]; 0 only writes the initial checkpoint.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Threads, of all ranks or of this process [default: all cores].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Folder for checkpoints [default: the configuration's `save`].
    #[arg(long, value_name = "DIR")]
    pub save: Option<PathBuf>,
    /// Append one JSON line per optimizer step to FILE.
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// Go on from the latest checkpoint in the save folder.
    #[arg(long, conflicts_with = "force")]
    pub resume: bool,
    /// Begin anew although the save folder has checkpoints of another run, and replace them.
    #[arg(long)]
    pub force: bool,
    /// Go on from a checkpoint even if seed, data or dropout are not those of the run that wrote it.
    #[arg(long)]
    pub allow_changes: bool,
    /// Train on made-up tokens: for measuring speed without a data set.
    #[arg(long)]
    pub synthetic: bool,
    /// Under mpirun: seconds of silence after which another rank counts as lost, and without progress after which the job
    /// has come to a stop.
    #[arg(long, value_name = "SECONDS", default_value_t = job::TIMEOUT, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// Under mpirun: seconds that all ranks may take until they watch each other, and for leaving MPI.
    #[arg(long, value_name = "SECONDS", default_value_t = job::TIMEOUT, value_parser = clap::value_parser!(u64).range(1..))]
    pub start_timeout: u64,
}

/// Reads the command line. What is to be printed instead of a command (help, the version, what is wrong) goes where all
/// that is printed goes, so that a full disk behind it is no success.
///
/// # Errors
/// There is no command to run: the exit code.
pub fn parse<C: clap::Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|e| {
        let text = e.render();
        let is_error = e.use_stderr();
        let terminal = match is_error {
            true => std::io::stderr().is_terminal(),
            false => std::io::stdout().is_terminal(),
        };
        let text = match terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) {
            true => text.ansi().to_string(),
            false => text.to_string(),
        };
        match is_error {
            true => say::err(format_args!("{}", command_line::coded(&text))),
            false => say::out(format_args!("{text}")),
        }
        match say::failed() {
            true => ExitCode::from(5),
            false => ExitCode::from(u8::from(is_error) * 2),
        }
    })
}

/// Threads per core that are accepted: threads of a step wait for each other, and with very many a step never ends.
const PER_CORE: usize = 16;

/// A number of threads: each is made, with a stack of its own.
///
/// # Errors
/// It is none, or no number, or more than this machine's cores can take turns with.
pub fn threads(text: &str) -> Result<usize, String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = (PER_CORE * cores).max(64);
    match text.parse() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => Err(format!("it must be a whole number from 1 to {most}: there are {cores} cores")),
    }
}

/// Trains `plan` and prints what came out. Returns the exit code: 0, or that of a run which a signal stopped.
///
/// # Errors
/// What training is stopped by.
pub fn run(plan: &Plan, a: &RunArgs) -> Result<u8, RuntimeError> {
    // Before ranks wait for each other.
    check_processor(plan)?;
    let settings = settings(plan)?;
    let stop = stop_flag()?;
    let job = Job::join(plan, [a.timeout, a.start_timeout].map(Duration::from_secs))?.map(Arc::new);
    let options = Options {
        steps: a.steps,
        threads: Job::threads(job.as_deref(), a.threads),
        save: a.save.clone(),
        metrics: a.metrics.clone(),
        resume: a.resume,
        force: a.force,
        allow_changes: a.allow_changes,
        synthetic: a.synthetic,
        stop: Some(stop),
        job,
    };
    if job::leads() {
        tell_start(plan, &options);
    }
    let mut watch = TrainProgress::new(settings.run.log_interval);
    let s = train(plan, &options, &mut watch)?;
    job::leave(options.job)?;
    let code = if s.stopped { EXIT_STOPPED } else { 0 };
    if !job::leads() {
        // mpirun ends the job at the first exit that is no success, so rank 0 speaks first.
        std::thread::sleep(if s.stopped { job::PATIENCE } else { Duration::ZERO });
        return Ok(code);
    }
    tell_end(plan, &s);
    Ok(code)
}

fn tell_start(plan: &Plan, options: &Options) {
    let memory = human(plan.memory_of_all());
    let each = if options.job.is_some() { " each" } else { "" };
    tell!(
        "{} parameters, {memory} allocated, {} threads{each}",
        plan.tables.parameter_count,
        options.threads
    );
    if plan.ranks() > 1 {
        let what = if options.job.is_some() { "processes" } else { "threads of this process" };
        tell!("{} ranks as {what}", plan.ranks());
    }
}

fn tell_end(plan: &Plan, s: &Summary) {
    match s.loss {
        Some(loss) => say!("step {}: training loss {loss:.4}", s.step),
        None => say!("step {}: nothing was trained", s.step),
    }
    if let Some(loss) = s.valid_loss {
        say!("validation loss {loss:.4} nats per token");
    }
    if let Some(entropy) = s.unigram_entropy {
        let which = entropy.sample.map_or(String::new(), |n| format!("{n} of "));
        say!("unigram entropy of {which}the training tokens {:.4} nats per token", entropy.nats);
    }
    if let Some(seconds) = s.median_seconds {
        let tokens = plan.tables.tokens_per_step as f64;
        say!("median step {seconds:.3} s, {:.0} tokens/s", tokens / seconds);
    }
    if s.stopped {
        tell!("stopped by a signal after step {}: go on with --resume", s.step);
    }
}
