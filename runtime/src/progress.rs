//! Progress of long work on stderr: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::tell;
use crate::train::{Observer, StepReport};

/// Bytes for people.
pub fn human(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{:.2} GiB", b as f64 / f64::from(1 << 30)),
        b if b >= 1 << 20 => format!("{:.1} MiB", b as f64 / f64::from(1 << 20)),
        b => format!("{:.1} KiB", b as f64 / 1024.0),
    }
}

/// Draws a training run.
pub struct TrainProgress {
    bar: Option<ProgressBar>,
    every: u64,
    start: Instant,
    first: u64,
}

impl TrainProgress {
    /// Plain lines every `every` steps when stderr is no terminal.
    pub fn new(every: u64) -> Self {
        Self { bar: None, every: every.max(1), start: Instant::now(), first: 0 }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| tell!("{line}")),
            None => tell!("{line}"),
        }
    }
}

/// The loss scale and the skipped steps of a run that has them.
fn scaling(r: &StepReport) -> String {
    let skipped = match r.skipped_steps {
        0 => String::new(),
        n => format!(" ({n} steps skipped)"),
    };
    match r.loss_scale {
        1.0 if r.skipped_steps == 0 => String::new(),
        scale => format!("  loss scale {scale}{skipped}"),
    }
}

impl Observer for TrainProgress {
    fn start(&mut self, step: u64, steps: u64) {
        self.first = step;
        self.start = Instant::now();
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(steps);
            let style =
                ProgressStyle::with_template("{bar:30} step {pos}/{len}  {msg}  {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_position(step);
            self.bar = Some(bar);
        }
    }

    fn step(&mut self, r: &StepReport, steps: u64) {
        let speed = r.tokens_per_second;
        if let Some(bar) = &self.bar {
            bar.set_message(format!("loss {:.4}  {speed:.0} tokens/s", r.loss));
            bar.set_position(r.step);
        } else if r.step.is_multiple_of(self.every) || r.step == steps || r.step == self.first + 1 {
            let done = (r.step - self.first) as f64;
            let left = self.start.elapsed().as_secs_f64() / done * (steps - r.step) as f64;
            tell!(
                "step {:>6}/{steps}  loss {:.4}  lr {:.2e}  grad norm {:.3}{}  {speed:.0} tokens/s  {left:.0} s left",
                r.step,
                r.loss,
                r.lr,
                r.grad_norm,
                scaling(r)
            );
        }
    }

    fn evaluated(&mut self, step: u64, loss: f64) {
        self.say(&format!("step {step:>6}  validation loss {loss:.4}"));
    }

    fn saved(&mut self, path: &Path) {
        self.say(&format!("saved {}", path.display()));
    }

    fn warn(&mut self, message: &str) {
        self.say(&format!("warning: {message}"));
    }
}
