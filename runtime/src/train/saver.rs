//! Checkpoints beside training: a thread writes the weights and optimizer state where they lie, and a step waits at its
//! update only if that is not over by then. Bringing the files to the disk, and the folder to its name,
//! needs no memory of the ranks and delays nobody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use neoxc_plan::Plan;

use super::run::Observer;
use super::scaler::ScaleState;
use super::settings::Settings;
use crate::RuntimeError;
use crate::activity::Activity;
use crate::checkpoint::{self, Save, Tensor};
use crate::ranks::{Lent, Ranks};

/// How a save ended: in a new folder, or in none if this process has not rank 0.
type Saved = Result<Option<PathBuf>, RuntimeError>;

/// Writes one checkpoint at a time.
pub struct Saver<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    plan: &'env Plan,
    /// Where to, if anywhere.
    folder: Option<PathBuf>,
    attempt: u64,
    seed: u32,
    draws: BTreeMap<String, String>,
    /// Longest to wait for other processes, in a job.
    patience: Option<Duration>,
    /// How many checkpoints stay, if not all.
    keep: Option<usize>,
    running: Option<ScopedJoinHandle<'scope, Saved>>,
    cancel: Arc<AtomicBool>,
    /// Waited here since the last report, and by the ranks until then.
    lost: Duration,
    waited: Duration,
}

fn write(save: &Save, lent: Lent, own: &[u64], keep: Option<usize>, cancel: &AtomicBool) -> Saved {
    let get = |rank, t: &Tensor| {
        let p = &save.plan.tables.parameters[t.parameter];
        lent.part(rank, &t.values, p, t.layer)
    };
    let doing = Activity::begin(format!("writing a checkpoint into {}", save.folder.display()));
    // Asked before every piece.
    let hurry = || {
        doing.moved();
        lent.wanted()
    };
    let written = save.write(own, &get, &hurry)?;
    drop(lent);
    doing.moved();
    save.settle(written)?;
    drop(doing);
    if !own.contains(&0) {
        return Ok(None);
    }
    let saved = save.publish(cancel)?;
    if let (Some(path), Some(keep)) = (&saved, keep) {
        checkpoint::prune(&save.folder, keep, path)?;
    }
    Ok(saved)
}

impl<'scope, 'env> Saver<'scope, 'env> {
    /// Saves in `folder`, as `attempt` (the same for all processes); its threads end with `scope`.
    pub fn new(
        scope: &'scope Scope<'scope, 'env>,
        plan: &'env Plan,
        settings: &Settings,
        draws: BTreeMap<String, String>,
        folder: Option<PathBuf>,
        attempt: u64,
    ) -> Self {
        Self {
            scope,
            plan,
            folder,
            attempt,
            seed: settings.run.seed,
            draws,
            patience: None,
            keep: settings.run.keep_last,
            running: None,
            cancel: Arc::default(),
            lost: Duration::ZERO,
            waited: Duration::ZERO,
        }
    }

    /// From now on other processes are waited for no longer than this while nothing comes of them.
    #[must_use]
    pub fn patient(mut self, patience: Option<Duration>) -> Self {
        self.patience = patience;
        self
    }

    /// Begins to save after step `step` and `samples` samples, with this loss scale, once the save before is over.
    pub fn save(
        &mut self,
        ranks: &Ranks<'env>,
        step: u64,
        samples: u64,
        scaling: Option<ScaleState>,
        watch: &mut dyn Observer,
    ) -> Result<(), RuntimeError> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let start = Instant::now();
        self.finish(watch)?;
        let (plan, seed, attempt) = (self.plan, self.seed, self.attempt);
        let draws = self.draws.clone();
        let patience = self.patience;
        let save = Save { folder, plan, seed, draws, step, samples, scaling, attempt, patience };
        let (lent, own, keep) = (ranks.lend(), ranks.own(), self.keep);
        let cancel = self.cancel.clone();
        let thread = std::thread::Builder::new().name("checkpoint".into());
        let running = thread
            .spawn_scoped(self.scope, move || write(&save, lent, &own, keep, &cancel))
            .map_err(|e| RuntimeError::Settings(format!("cannot start a thread: {e}")))?;
        self.running = Some(running);
        self.lost += start.elapsed();
        Ok(())
    }

    /// How long training has waited for checkpoints since this was last asked.
    pub fn lost(&mut self, ranks: &Ranks) -> Duration {
        let waited = ranks.waited();
        std::mem::take(&mut self.lost) + (waited - std::mem::replace(&mut self.waited, waited))
    }

    /// Tells of the save under way if it is over.
    pub fn look(&mut self, watch: &mut dyn Observer) -> Result<(), RuntimeError> {
        match &self.running {
            Some(r) if r.is_finished() => self.finish(watch),
            _ => Ok(()),
        }
    }

    /// Waits until no save is under way.
    pub fn finish(&mut self, watch: &mut dyn Observer) -> Result<(), RuntimeError> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let ended = || RuntimeError::Settings("the thread that saves has ended early".into());
        if let Some(path) = running.join().map_err(|_| ended())?? {
            watch.saved(&path);
        }
        Ok(())
    }
}

impl Drop for Saver<'_, '_> {
    /// Where training has failed, other processes may never write their parts.
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}
