//! `neoxc run`.

use std::sync::Arc;
use std::time::Duration;

use neoxc_plan::Plan;
use neoxc_runtime::job::{self, Job};
use neoxc_runtime::progress::TrainProgress;
use neoxc_runtime::signals::{EXIT_STOPPED, stop_flag};
use neoxc_runtime::train::{Options, Settings, train};

use super::{compile_config, load};
use crate::Failure;
use crate::cli::Run;

/// Trains a plan, compiling it first if configuration files are given.
pub fn run(a: Run) -> Result<(), Failure> {
    let plan = match &a.plan {
        Some(folder) => Plan::open(folder)?,
        None => compile_config(&load(&a.config)?, &a.target)?.plan,
    };
    let settings = Settings::of(&plan)?;
    let stop = stop_flag()?;
    let job = Job::join(&plan, [a.run.timeout, a.run.start_timeout].map(Duration::from_secs))?
        .map(Arc::new);
    let options = Options {
        steps: a.run.steps,
        threads: Job::threads(job.as_deref(), a.run.threads),
        save: a.run.save.clone(),
        metrics: a.run.metrics.clone(),
        resume: a.run.resume,
        allow_changes: a.run.allow_changes,
        synthetic: a.run.synthetic,
        stop: Some(stop),
        job,
    };
    if job::leads() {
        let memory = super::human(plan.memory_of_all());
        let each = if options.job.is_some() { " each" } else { "" };
        eprintln!(
            "{} parameters, {memory} allocated, {} threads{each}",
            plan.tables.parameter_count, options.threads
        );
        if plan.ranks() > 1 {
            let what = if options.job.is_some() { "processes" } else { "threads of this process" };
            eprintln!("{} ranks as {what}", plan.ranks());
        }
    }
    let mut watch = TrainProgress::new(settings.log_interval);
    let s = train(&plan, &options, &mut watch)?;
    job::leave(options.job)?;
    if !job::leads() {
        // mpirun ends the job at the first exit that is no success, so rank 0 speaks first.
        std::thread::sleep(if s.stopped { job::PATIENCE } else { Duration::ZERO });
        return if s.stopped { Err(Failure::new(EXIT_STOPPED, "")) } else { Ok(()) };
    }
    if let Some(loss) = s.loss {
        println!("step {}: training loss {loss:.4}", s.step);
    }
    if let Some(loss) = s.valid_loss {
        println!("validation loss {loss:.4} nats per token");
    }
    if let Some(entropy) = s.unigram_entropy {
        println!("unigram entropy of the training tokens {entropy:.4} nats per token");
    }
    if let Some(seconds) = s.median_seconds {
        let tokens = plan.tables.tokens_per_step as f64;
        println!("median step {seconds:.3} s, {:.0} tokens/s", tokens / seconds);
    }
    if s.stopped {
        let message = format!("stopped by a signal after step {}: go on with --resume", s.step);
        return Err(Failure::new(EXIT_STOPPED, message));
    }
    Ok(())
}
