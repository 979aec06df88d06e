//! `neoxc-run`: executes a plan on a machine that has no compiler. Links neither LLVM nor MLIR.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use neoxc_plan::Plan;
use neoxc_runtime::RuntimeError;
use neoxc_runtime::job::{self, Job};
use neoxc_runtime::progress::TrainProgress;
use neoxc_runtime::signals::{EXIT_STOPPED, stop_flag};
use neoxc_runtime::train::{Options, Settings, train};

/// Train a plan that `neoxc compile` made.
#[derive(Parser)]
#[command(name = "neoxc-run", version)]
struct Cli {
    /// The plan.
    #[arg(long, value_name = "PLAN")]
    plan: PathBuf,
    /// Optimizer steps to end at [default: train_iters]; 0 only writes the initial checkpoint.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Threads [default: all cores].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Folder for checkpoints [default: the configuration's `save`].
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Append one JSON line per optimizer step to FILE.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Go on from the latest checkpoint in the save folder.
    #[arg(long)]
    resume: bool,
    /// With --resume: go on even if seed, data or dropout are not those of the run that wrote the checkpoint.
    #[arg(long, requires = "resume")]
    allow_changes: bool,
    /// Under mpirun: seconds of silence after which another rank counts as lost.
    #[arg(long, value_name = "SECONDS", default_value_t = job::TIMEOUT, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Under mpirun: seconds that all ranks may take until they watch each other, and for leaving MPI.
    #[arg(long, value_name = "SECONDS", default_value_t = job::TIMEOUT, value_parser = clap::value_parser!(u64).range(1..))]
    start_timeout: u64,
}

fn run(cli: Cli) -> Result<ExitCode, RuntimeError> {
    let plan = Plan::open(&cli.plan)?;
    let stop = stop_flag()?;
    let job =
        Job::join(&plan, [cli.timeout, cli.start_timeout].map(Duration::from_secs))?.map(Arc::new);
    let options = Options {
        steps: cli.steps,
        threads: Job::threads(job.as_deref(), cli.threads),
        save: cli.save,
        metrics: cli.metrics,
        resume: cli.resume,
        allow_changes: cli.allow_changes,
        synthetic: false,
        stop: Some(stop),
        job,
    };
    let mut watch = TrainProgress::new(Settings::of(&plan)?.log_interval);
    let summary = train(&plan, &options, &mut watch)?;
    job::leave(options.job)?;
    if !job::leads() {
        // mpirun ends the job at the first exit that is no success, so rank 0 speaks first.
        std::thread::sleep(if summary.stopped { job::PATIENCE } else { Duration::ZERO });
        return Ok(ExitCode::from(if summary.stopped { EXIT_STOPPED } else { 0 }));
    }
    println!("step {}", summary.step);
    for (what, value) in [
        ("validation loss", summary.valid_loss),
        ("unigram entropy of the training tokens", summary.unigram_entropy),
    ] {
        if let Some(value) = value {
            println!("{what} {value:.4} nats per token");
        }
    }
    if summary.stopped {
        eprintln!("stopped by a signal after step {}: go on with --resume", summary.step);
        return Ok(ExitCode::from(EXIT_STOPPED));
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            let message = job::told(&e);
            if !message.is_empty() {
                eprintln!("{message}");
            }
            ExitCode::from(e.exit_code())
        }
    }
}
