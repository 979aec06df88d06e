//! The training loop: feed, step, look, evaluate, save.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use neoxc_config::Source;
use neoxc_plan::{Given, Plan, Values};
use serde::Serialize;

use super::blame::first_not_finite;
use super::identity::{compare, identity};
use super::init::fill;
use super::lr::learning_rate;
use super::metrics::MetricsLog;
use super::saver::Saver;
use super::scaler::{Exhausted, Scaler};
use super::settings::{Settings, settings};
use super::shared;
use super::start::{Start, start};
use crate::RuntimeError;
use crate::activity::Activity;
use crate::checkpoint::{self, Lock};
use crate::data::dataset::Draw;
use crate::data::mixture::{Demand, Drawn, Splits, open_sources, open_split};
use crate::data::{Entropy, Mixture, Sample, unigram_entropy};
use crate::job::Job;
use crate::ranks::Ranks;
use crate::text::{END_OF_TEXT, TextTokenizer};

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Step to end at.
    pub steps: Option<u64>,
    /// Threads.
    pub threads: usize,
    /// Folder of checkpoints.
    pub save: Option<PathBuf>,
    /// File of metrics.
    pub metrics: Option<PathBuf>,
    /// Go on from the latest checkpoint.
    pub resume: bool,
    /// Begin anew where another run has saved.
    pub force: bool,
    /// Go on even if seed, data or dropout are not those of the checkpoint's run.
    pub allow_changes: bool,
    /// Start from random tokens when there is no data: for measurements.
    pub synthetic: bool,
    /// Once raised, the run saves after the step it is at, and ends.
    pub stop: Option<Arc<AtomicBool>>,
    /// The processes that have a rank each; none if this one has all.
    pub job: Option<Arc<Job>>,
}

/// Outputs of a step without which nothing is updated: where one is not finite, weights stay as they are.
const GUARDED: [&str; 2] = ["loss", "grad_norm"];

/// One optimizer step: a line of the metrics file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// Step, from 1.
    pub step: u64,
    /// Mean loss of the step's micro-batches, nats per token; `null` in the file if it overflowed.
    pub loss: f32,
    /// Learning rate.
    pub lr: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Tokens of the step.
    pub tokens: u64,
    /// Seconds.
    pub step_seconds: f64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// What the loss was multiplied by; always 1 but in fp16.
    pub loss_scale: f64,
    /// Whether an overflow made the step leave the weights as they were.
    pub skipped: bool,
    /// Steps of the run that were skipped, this one included.
    pub skipped_steps: u64,
    /// Seconds that training has waited for checkpoints since the step before, this step's update included.
    pub checkpoint_seconds: f64,
    /// Ids of the step's samples.
    pub samples: Vec<u32>,
    /// The data set of each, from 0, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<u32>,
    /// What else the plan's step puts out, by name: one number each.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f32>,
}

/// Who wants to know how the run goes.
pub trait Observer {
    /// The run starts at `step` of `steps`.
    fn start(&mut self, step: u64, steps: u64);
    /// A step was made.
    fn step(&mut self, report: &StepReport, steps: u64);
    /// The validation loss after `step` steps.
    fn evaluated(&mut self, step: u64, loss: f64);
    /// A checkpoint was written.
    fn saved(&mut self, path: &std::path::Path);
    /// Something that people should know of.
    fn warn(&mut self, message: &str);
}

/// Ranks that leave the talking to rank 0.
struct Quiet;

impl Observer for Quiet {
    fn start(&mut self, _step: u64, _steps: u64) {}
    fn step(&mut self, _report: &StepReport, _steps: u64) {}
    fn evaluated(&mut self, _step: u64, _loss: f64) {}
    fn saved(&mut self, _path: &std::path::Path) {}
    fn warn(&mut self, _message: &str) {}
}

/// How a run ended.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Steps made in all.
    pub step: u64,
    /// Last training loss.
    pub loss: Option<f32>,
    /// Last validation loss.
    pub valid_loss: Option<f64>,
    /// Entropy of single training tokens.
    pub unigram_entropy: Option<Entropy>,
    /// Median seconds per step.
    pub median_seconds: Option<f64>,
    /// Whether it ended early because it was asked to.
    pub stopped: bool,
}

/// A plan's ranks, and what feeds them.
pub(crate) struct Trainer<'a> {
    plan: &'a Plan,
    pub(crate) ranks: Ranks<'a>,
    settings: Settings,
    tokens: Vec<i32>,
    labels: Vec<i32>,
    mask: Vec<f32>,
    sample: Sample,
    end_of_text: Option<i32>,
    /// Samples consumed.
    cursor: u64,
    scaler: Scaler,
    job: Option<Arc<Job>>,
}

fn bytes_of<T: Copy>(values: &[T]) -> &[u8] {
    // SAFETY: i32 and f32 have no padding, and every byte pattern is a valid u8.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

impl<'a> Trainer<'a> {
    /// Allocates the ranks' memory; the tokens of a step are made up until [`Trainer::read`] is given data.
    pub(crate) fn new(
        plan: &'a Plan,
        threads: usize,
        job: Option<Arc<Job>>,
    ) -> Result<Trainer<'a>, RuntimeError> {
        let settings = settings(plan)?;
        let n = (settings.global_batch() as usize) * settings.seq_length;
        let mut ranks = match &job {
            Some(job) => Ranks::of_job(plan, threads.max(1), job.clone())?,
            None => Ranks::new(plan, threads.max(1))?,
        };
        // What is fed below is as large as what the step reads.
        let takes: u64 = plan.whole_dims(&ranks.port("train_step", "tokens")?.0).iter().product();
        if takes != n as u64 {
            let what = format!("the plan's step reads {takes} tokens, its settings have {n}");
            return Err(RuntimeError::Settings(what));
        }
        // A step that came to nothing leaves weights as they were: to be looked at, or to be gone on with.
        ranks.guard("train_step", &GUARDED);
        Ok(Trainer {
            plan,
            ranks,
            tokens: vec![0; n],
            labels: vec![0; n],
            mask: vec![1.0; n],
            sample: Sample::new(settings.seq_length),
            end_of_text: None,
            cursor: 0,
            scaler: Scaler::new(settings.run.loss_scaling),
            job,
            settings,
        })
    }

    /// Start values depend on seed, name and index: every rank takes its part of the whole tensor.
    pub(crate) fn start_values(&mut self) {
        let mut whole = vec![];
        for p in &self.plan.tables.parameters {
            whole.resize((p.elements() * 4) as usize, 0);
            for (layer, name) in p.names().iter().enumerate() {
                fill(&mut whole, name, &p.init, &p.shape, self.settings.run.seed);
                self.ranks.set_tensor(&Values::Weights, p, layer as u64, &whole);
            }
        }
    }

    /// Loads a checkpoint, or makes start values; gives the steps that are made already.
    fn begin(
        &mut self,
        start: &Start,
        allow_changes: bool,
        draws: &BTreeMap<String, String>,
        watch: &mut dyn Observer,
    ) -> Result<u64, RuntimeError> {
        let folder = match start {
            Start::New => {
                self.start_values();
                return Ok(0);
            }
            Start::Weights(folder) => {
                self.ranks.load_model(folder)?;
                return Ok(0);
            }
            Start::At(folder) | Start::Step(folder) => folder,
        };
        let m = checkpoint::manifest(folder)?;
        if let Some(warning) = compare(folder, &m, self.settings.run.seed, draws, allow_changes)? {
            watch.warn(&warning);
        }
        if let Start::Step(_) = start {
            self.ranks.load_model(folder)?;
            self.scaler.begin_anew(m.step, m.scaling);
        } else {
            self.ranks.load(folder)?;
            if let Some(saved) = m.scaling {
                self.scaler.resume(saved);
            }
        }
        self.cursor = m.samples;
        Ok(m.step)
    }

    /// Reads `count` sequences from `position` on into the batch buffers; gives where they are from.
    fn read(
        &mut self,
        data: Option<&Mixture>,
        position: u64,
        count: usize,
    ) -> Result<Vec<Drawn>, RuntimeError> {
        let seq = self.settings.seq_length;
        let mut drawn = vec![];
        let doing =
            data.map(|d| Activity::begin(format!("reading {}", d.path(position).display())));
        for i in 0..count {
            doing.iter().for_each(Activity::moved);
            let position = position + i as u64;
            match data {
                Some(d) => drawn.push(d.sample(position, &mut self.sample)?),
                None => {
                    let mut x = position + 1;
                    for t in &mut self.sample.tokens {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        *t = ((x >> 33) % self.settings.padded_vocab_size as u64) as i32;
                    }
                    self.sample.labels.copy_from_slice(&self.sample.tokens);
                    drawn.push(Drawn { source: 0, id: position as u32 });
                }
            }
            let row = i * seq..(i + 1) * seq;
            self.tokens[row.clone()].copy_from_slice(&self.sample.tokens[..seq]);
            let labels = self.labels[row.clone()].iter_mut().zip(&mut self.mask[row]);
            let each = self.sample.tokens.iter().zip(&self.sample.labels[1..]);
            for ((label, mask), (token, wanted)) in labels.zip(each) {
                let ends = self.end_of_text.is_some_and(|e| e == *token);
                // A label that is not learned is one of the vocabulary all the same: the loss looks it up.
                *label = (*wanted).max(0);
                *mask = if ends || *wanted < 0 { 0.0 } else { 1.0 };
            }
        }
        Ok(drawn)
    }

    fn feed(&mut self, program: &str, count: usize) -> Result<(), RuntimeError> {
        let n = count * self.settings.seq_length;
        let (tokens, labels, mask) =
            (self.tokens[..n].to_vec(), self.labels[..n].to_vec(), self.mask[..n].to_vec());
        self.ranks.put(program, "tokens", bytes_of(&tokens))?;
        self.ranks.put(program, "labels", bytes_of(&labels))?;
        self.ranks.put(program, "mask", bytes_of(&mask))
    }

    /// Names what dropout may drop, where the plan has any: tokens by their number in the whole run, however
    /// a step is divided, and layers. Numbers of tokens come again after 2^32.
    fn name(&mut self, first: u64, count: u64) -> Result<(), RuntimeError> {
        if self.ranks.port("train_step", "places").is_err() {
            return Ok(());
        }
        let seq = self.settings.seq_length as u64;
        let places: Vec<i32> =
            (first * seq..(first + count) * seq).map(|n| n as u32 as i32).collect();
        self.ranks.put("train_step", "places", bytes_of(&places))?;
        self.ranks.put_layers("train_step")
    }

    /// One optimizer step, on `data` or on made-up tokens.
    pub(crate) fn step(
        &mut self,
        data: Option<&Mixture>,
        step: u64,
    ) -> Result<StepReport, RuntimeError> {
        let start = Instant::now();
        let batch = self.settings.global_batch();
        let drawn = self.read(data, self.cursor, batch as usize)?;
        self.feed("train_step", batch as usize)?;
        self.name(self.cursor, batch)?;
        self.cursor += batch;
        // A step that is skipped moves neither the schedule nor the optimizer's corrections.
        let counted = self.scaler.counted(step);
        let lr = learning_rate(&self.settings.rate, counted);
        let loss_scale = self.scaler.scale();
        let corrected = self.scaler.corrected(step);
        for (name, formula) in &self.plan.tables.scalars {
            let value = formula.value(Given { step: corrected, lr, loss_scale }) as f32;
            self.ranks.put("train_step", name, &value.to_le_bytes())?;
        }
        self.ranks.run("train_step")?;
        let (loss, norm) = (
            self.ranks.scalar("train_step", GUARDED[0])?,
            self.ranks.scalar("train_step", GUARDED[1])?,
        );
        let skipped = self.judge(step, loss, norm)?;
        let mut metrics = BTreeMap::new();
        for name in self.ranks.numbers("train_step") {
            if !GUARDED.contains(&name.as_str()) {
                let value = self.ranks.scalar("train_step", &name)?;
                metrics.insert(name, value);
            }
        }
        let several = data.is_some_and(|d| d.sources().len() > 1);
        let seconds = start.elapsed().as_secs_f64();
        let tokens = batch * self.settings.seq_length as u64;
        Ok(StepReport {
            step,
            loss,
            lr,
            grad_norm: norm,
            tokens,
            step_seconds: seconds,
            tokens_per_second: tokens as f64 / seconds,
            loss_scale,
            skipped,
            skipped_steps: self.scaler.skipped(),
            checkpoint_seconds: 0.0,
            samples: drawn.iter().map(|d| d.id).collect(),
            sources: drawn.iter().map(|d| d.source).filter(|_| several).collect(),
            metrics,
        })
    }

    /// Whether the step was skipped, for a number that is not finite; the next step's loss scale follows from it.
    ///
    /// # Errors
    /// Nothing scales the loss, or its scale cannot fall any further.
    fn judge(&mut self, step: u64, loss: f32, norm: f32) -> Result<bool, RuntimeError> {
        let found =
            [("loss", loss), ("gradient norm", norm)].into_iter().find(|x| !x.1.is_finite());
        let Some((what, value)) = found else {
            self.scaler.good();
            return Ok(false);
        };
        if !self.scaler.scales() {
            let tensor = first_not_finite(self.plan, &mut self.ranks, loss)?;
            return Err(RuntimeError::NotFinite { step, what, value, tensor });
        }
        let scale = self.scaler.scale();
        self.scaler.overflow().map(|()| true).map_err(|why| RuntimeError::LossScale {
            step,
            scale,
            at_minimum: why == Exhausted::AtMinimum,
        })
    }

    /// The mean loss of evaluation number `round`, from 0. As in GPT-NeoX it has `eval_iters` times the sequences of a
    /// step, whatever their division into micro-batches and ranks, from where the evaluation before ended.
    fn evaluate(&mut self, data: &Mixture, round: u64) -> Result<f64, RuntimeError> {
        let batch = self.settings.run.micro_batch;
        let count = self.settings.run.eval_iters * self.settings.run.grad_accum as u64;
        let mut sum = 0.0;
        for i in 0..count {
            self.read(Some(data), (round * count + i) * batch as u64, batch)?;
            self.feed("eval_step", batch)?;
            self.ranks.run("eval_step")?;
            sum += f64::from(self.ranks.scalar("eval_step", "loss")?);
        }
        Ok(sum / count as f64)
    }

    /// Whether the run was asked to end; all ranks know it after the same step.
    fn is_asked_to_stop(&self, o: &Options) -> Result<bool, RuntimeError> {
        let asked = o.stop.as_ref().is_some_and(|s| s.load(Ordering::Relaxed));
        match &self.job {
            Some(job) => Ok(job.largest(u64::from(asked))? > 0),
            None => Ok(asked),
        }
    }
}

/// Opens the data of a run whose ranks are `copies` processes on this host.
fn open_data(s: &Settings, copies: u64) -> Result<Splits, RuntimeError> {
    let rounds = (s.run.train_iters / s.run.eval_interval.max(1)).saturating_add(1);
    let demand = Demand {
        train: s.run.train_iters.saturating_mul(s.global_batch()),
        valid: rounds.saturating_mul(s.run.eval_iters).saturating_mul(s.global_batch()),
    };
    let vocab = s.vocab_size.unwrap_or(s.padded_vocab_size);
    let (seq, seed) = (s.seq_length, s.run.seed);
    let (packing, allow_chopped) = (s.run.packing, s.run.allow_chopped);
    let draw = Draw { seq, seed, vocab, copies, packing, allow_chopped };
    if !s.run.train_data.is_empty() {
        let open =
            |of: &[Source], samples| open_sources(of, s.run.document_exponent, samples, draw);
        let train = open(&s.run.train_data, demand.train)?;
        let valid = match &s.run.valid_data[..] {
            [] => None,
            all => Some(open(all, demand.valid)?),
        };
        return Ok(Splits { train, valid });
    }
    let Some(path) = &s.run.data_path else {
        let what = "the configuration names no training data (data_path)";
        return Err(RuntimeError::Settings(what.into()));
    };
    open_split(path.as_ref(), &s.run.split, demand, draw)
}

/// Makes `folder` this run's own until the lock is dropped: the process of rank 0 takes it for all.
fn claim(
    folder: &Path,
    leads: bool,
    watch: &mut dyn Observer,
) -> Result<Option<Lock>, RuntimeError> {
    checkpoint::probe(folder)?;
    if !leads {
        return Ok(None);
    }
    let lock = Lock::take(folder)?;
    match &lock {
        Some(_) => checkpoint::sweep(folder),
        None => watch.warn(&format!(
            "{}: this file system has no locks; another run that saves there would not be noticed",
            folder.display()
        )),
    }
    Ok(lock)
}

/// The token that ends a text, where the loss leaves it out.
fn end_of_text(s: &Settings) -> Result<Option<i32>, RuntimeError> {
    if !s.run.eod_mask_loss {
        return Ok(None);
    }
    let path = |p: &Option<String>| p.as_ref().map(PathBuf::from);
    let (v, m) = (path(&s.run.vocab_file), path(&s.run.merge_file));
    let t = TextTokenizer::open(&s.run.tokenizer_type, v.as_deref(), m.as_deref())?;
    let end = t.end_of_text().ok_or_else(|| {
        RuntimeError::Settings(format!("`eod_mask_loss`: the tokenizer has no {END_OF_TEXT}"))
    })?;
    Ok(Some(end as i32))
}

/// Refuses to train where the processes of a job were not given the same.
fn agree(
    job: &Job,
    plan: &Plan,
    o: &Options,
    steps: u64,
    save: Option<&Path>,
    data: Option<&Splits>,
) -> Result<(), RuntimeError> {
    job.agree(&[
        ("version of the program", env!("CARGO_PKG_VERSION").into()),
        ("configuration", plan.tables.config.to_string()),
        ("plan", plan.digest()?),
        (
            "option --steps, --resume, --allow-changes, --synthetic or --save",
            format!("{:?}", (steps, o.resume, o.allow_changes, o.synthetic, save)),
        ),
        ("data", data.map(Splits::digest).transpose()?.unwrap_or_default()),
    ])
}

/// The steps of a run: what they read, and who hears of them.
struct Way<'a> {
    o: &'a Options,
    /// Step to end at.
    steps: u64,
    data: Option<&'a Splits>,
    metrics: MetricsLog,
    watch: &'a mut dyn Observer,
    /// Of each step.
    seconds: Vec<f64>,
}

impl Way<'_> {
    /// Makes all steps behind `summary.step`: step, look, evaluate, save.
    fn go<'scope, 'env: 'scope>(
        &mut self,
        t: &mut Trainer<'env>,
        mut saver: Saver<'scope, 'env>,
        summary: &mut Summary,
    ) -> Result<(), RuntimeError> {
        let (done, steps) = (summary.step, self.steps);
        if done == 0 && (steps == 0 || t.settings.run.extra_save_iters.contains(&0)) {
            saver.save(&t.ranks, 0, t.cursor, t.scaler.state(), self.watch)?;
        }
        for step in done + 1..=steps {
            let mut report = t.step(self.data.map(|d| &d.train), step)?;
            report.checkpoint_seconds = saver.lost(&t.ranks).as_secs_f64();
            self.metrics.add(&report, self.watch)?;
            self.watch.step(&report, steps);
            self.seconds.push(report.step_seconds);
            summary.step = step;
            summary.loss = Some(report.loss);
            if let Some(loss) = self.evaluate(t, step)? {
                summary.valid_loss = Some(loss);
            }
            summary.stopped = step < steps && t.is_asked_to_stop(self.o)?;
            if t.settings.saves_at(step) || step == steps || summary.stopped {
                saver.save(&t.ranks, step, t.cursor, t.scaler.state(), self.watch)?;
            } else {
                saver.look(self.watch)?;
            }
            if summary.stopped {
                break;
            }
            if step < steps && t.settings.exits_at(step) {
                if !t.settings.saves_at(step) {
                    let what = format!("`exit_interval` ends the run after step {step}, unsaved");
                    self.watch.warn(&what);
                }
                break;
            }
        }
        saver.finish(self.watch)
    }

    /// The validation loss after `step`, where one is due.
    fn evaluate(&mut self, t: &mut Trainer<'_>, step: u64) -> Result<Option<f64>, RuntimeError> {
        let every = t.settings.run.eval_interval;
        let Some(valid) = self.data.and_then(|d| d.valid.as_ref()) else { return Ok(None) };
        if t.settings.run.eval_iters == 0 || !step.is_multiple_of(every) && step != self.steps {
            return Ok(None);
        }
        let loss = t.evaluate(valid, (step - 1) / every)?;
        self.watch.evaluated(step, loss);
        Ok(Some(loss))
    }
}

/// Trains as the plan says.
pub fn train(plan: &Plan, o: &Options, watch: &mut dyn Observer) -> Result<Summary, RuntimeError> {
    let settings = settings(plan)?;
    let steps = o.steps.unwrap_or(settings.run.train_iters);
    let save = o.save.clone().or_else(|| settings.run.save.as_ref().map(PathBuf::from));
    let leads = o.job.as_ref().is_none_or(|j| j.rank == 0);
    let mut quiet = Quiet;
    let watch = if leads { watch } else { &mut quiet };
    // Held until the last checkpoint has its name.
    let _lock = save.as_deref().map(|folder| claim(folder, leads, watch)).transpose()?;
    let data = match o.synthetic || steps == 0 {
        true => None,
        false => Some(open_data(&settings, o.job.as_ref().map_or(1, |j| j.here.len() as u64))?),
    };
    let start = start(o, &settings, save.as_deref(), watch)?;
    let end_of_text = end_of_text(&settings)?;
    if let Some(job) = &o.job {
        agree(job, plan, o, steps, save.as_deref(), data.as_ref())?;
    }
    let mut t = Trainer { end_of_text, ..Trainer::new(plan, o.threads, o.job.clone())? };
    let train_data = data.as_ref().map(|d| &d.train);
    let draws = identity(plan, &t.settings, train_data)?;
    let done = t.begin(&start, o.allow_changes, &draws, watch)?;
    let mut attempt = checkpoint::attempt();
    if let Some(job) = &o.job {
        job.agree(&[("newest checkpoint", done.to_string())])?;
        attempt = job.first(attempt)?;
        if let Some(folder) = &save {
            shared::check(job, folder, attempt)?;
        }
    }
    let metrics = MetricsLog::open(o.metrics.as_deref().filter(|_| leads))?;
    watch.start(done, steps);
    let mut way = Way { o, steps, data: data.as_ref(), metrics, watch, seconds: vec![] };
    let mut summary = Summary { step: done, ..Summary::default() };
    std::thread::scope(|scope| {
        let saver = Saver::new(scope, plan, &t.settings, draws, save, attempt);
        let saver = saver.patient(o.job.as_ref().map(|j| j.timeout));
        way.go(&mut t, saver, &mut summary)
    })?;
    let Way { metrics, mut seconds, .. } = way;
    metrics.failed.map_or(Ok(()), Err)?;
    // The weights of a step before were looked at by the step behind it; those of the last one only by this.
    if let Some(loss) = summary.valid_loss.filter(|loss| !loss.is_finite()) {
        let tensor = first_not_finite(plan, &mut t.ranks, loss as f32)?;
        let (step, what, value) = (summary.step, "validation loss", loss as f32);
        return Err(RuntimeError::NotFinite { step, what, value, tensor });
    }
    summary.unigram_entropy = train_data.map(unigram_entropy).transpose()?;
    seconds.sort_by(f64::total_cmp);
    summary.median_seconds = seconds.get(seconds.len() / 2).copied();
    Ok(summary)
}
