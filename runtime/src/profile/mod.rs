//! `neoxc profile`: what the time of a step, or of a token of text, goes to, kernel by kernel, beside what this machine
//! can do at most.

mod limits;
mod time;
mod trace;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use neoxc_plan::{ENDS, Plan};
use serde::Serialize;

pub use limits::{Limits, Multiplier, multiply};
pub use time::{Version, in_turn};

use crate::RuntimeError;
use crate::device::{Event, What};
use crate::generate::{Decoder, likeliest};
use crate::ranks::Ranks;
use crate::train::Trainer;

/// How to profile.
#[derive(Debug, Clone)]
pub struct Options {
    /// Steps that are measured; two before them are not.
    pub steps: u64,
    /// Measure so many tokens of text instead of steps, each by the tokens before it.
    pub tokens: Option<u64>,
    /// Threads.
    pub threads: usize,
    /// File for a Chrome trace of the last step, or token.
    pub trace: Option<PathBuf>,
}

/// One kernel, or the collectives along one axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The kernel's name, or the axis.
    pub name: String,
    /// The kernel's family, or `collective`.
    pub family: String,
    /// YAML places that the kernel came from.
    pub line: String,
    /// Launches of a step, on all ranks.
    pub launches: f64,
    /// Milliseconds of a step, the mean of the ranks.
    pub ms: f64,
    /// Part of the step.
    pub share: f64,
    /// 10⁹ operations per second while it ran, on one rank.
    pub gflops: f64,
    /// 10⁹ bytes per second while it ran, on one rank.
    pub gbytes: f64,
    /// The least time by the limits, divided by the time that it took; above 1 where data came from caches.
    pub of_limit: f64,
}

/// What the time of a step, or of a token, goes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Profile {
    /// Milliseconds of a step: the median.
    pub step_ms: f64,
    /// Bytes that matmuls read and write in a step; of a token, nearly all of them are weights, read once.
    pub matmul_bytes: f64,
    /// Milliseconds outside of kernels and collectives: reading data, and between launches.
    pub other_ms: f64,
    /// Part of the least time by the limits that the whole step takes.
    pub of_limit: f64,
    /// What the machine can do with all threads.
    pub limits: Limits,
    /// The longest first.
    pub rows: Vec<Row>,
}

/// Steps before those that are measured: pages are touched, caches are filled.
const WARM_UP: u64 = 2;

/// Trains a few steps on made-up tokens, or makes a text of them, and measures every launch.
pub fn profile(plan: &Plan, o: &Options) -> Result<Profile, RuntimeError> {
    // A file that cannot be written is noticed now.
    let trace = match o.trace.as_deref() {
        Some(path) => Some((path, trace::create(path)?)),
        None => None,
    };
    let mut t = Trainer::new(plan, o.threads, None)?;
    t.start_values();
    let mut text = o.tokens.map(|_| Text::new(plan, &mut t.ranks)).transpose()?;
    let mut next = |t: &mut Trainer<'_>, step| match &mut text {
        Some(text) => text.next(&mut t.ranks),
        None => t.step(None, step).map(drop),
    };
    for step in 1..=WARM_UP {
        next(&mut t, step)?;
    }
    // Enough for most plans: a log that is full grows, which a step would notice.
    let origin = Instant::now();
    t.ranks.log(origin, 1 << 16);
    let (mut seconds, mut last) = (vec![], 0.0);
    let count = o.tokens.unwrap_or(o.steps);
    for step in WARM_UP + 1..=WARM_UP + count {
        last = origin.elapsed().as_secs_f64();
        next(&mut t, step)?;
        seconds.push(origin.elapsed().as_secs_f64() - last);
    }
    let logs = t.ranks.logged();
    if let Some((path, draft)) = trace {
        let of_last: Vec<&[Event]> =
            logs.iter().map(|log| &log[log.partition_point(|e| e.start < last)..]).collect();
        trace::write(draft, plan, &of_last).map_err(RuntimeError::io("write", path))?;
    }
    seconds.sort_by(f64::total_cmp);
    let step = seconds[seconds.len() / 2];
    let limits = Limits::measure(t.ranks.width())?;
    Ok(summary(plan, &logs, count as f64, step, limits))
}

/// A text that grows by its likeliest tokens, and begins anew where it is as long as the model takes.
struct Text {
    decoder: Decoder,
    tokens: Vec<u32>,
    most: usize,
    logits: Vec<u8>,
}

impl Text {
    fn new(plan: &Plan, ranks: &mut Ranks<'_>) -> Result<Self, RuntimeError> {
        let most = ranks.port("logits", "tokens")?.0.elements() as usize;
        let vocab = ranks.port("logits", "logits")?.0.elements() as usize;
        let decoder = Decoder::of(plan);
        let decoder = decoder.ok_or_else(|| {
            RuntimeError::Settings("the plan has no program for one token".into())
        })?;
        Ok(Self { decoder, tokens: vec![0], most, logits: vec![0; vocab * 4] })
    }

    fn next(&mut self, ranks: &mut Ranks<'_>) -> Result<(), RuntimeError> {
        if self.tokens.len() > self.most {
            self.tokens.truncate(1);
            self.decoder.restart();
        }
        self.decoder.logits(ranks, &self.tokens, &mut self.logits)?;
        self.tokens.push(likeliest(&self.logits));
        Ok(())
    }
}

/// Adds up logs of so many steps, one log per rank.
fn summary(plan: &Plan, logs: &[&[Event]], steps: f64, step: f64, limits: Limits) -> Profile {
    let mut sums: BTreeMap<What, (f64, f64)> = BTreeMap::new();
    for e in logs.iter().flat_map(|log| log.iter()) {
        let slot = sums.entry(e.what).or_default();
        *slot = (slot.0 + 1.0, slot.1 + e.seconds);
    }
    let ranks = logs.len() as f64;
    let each = limits.part(1.0 / ranks);
    let (mut rows, mut least, mut matmul_bytes) = (vec![], 0.0, 0.0);
    for (what, (count, seconds)) in sums {
        let mut row = Row {
            name: String::new(),
            family: "collective".into(),
            line: String::new(),
            launches: count / steps,
            ms: 1e3 * seconds / steps / ranks,
            share: seconds / steps / ranks / step,
            gflops: 0.0,
            gbytes: 0.0,
            of_limit: 0.0,
        };
        match what {
            What::Collective(axis) => row.name = axis_name(plan, axis).to_string(),
            What::Kernel(k) => {
                let k = &plan.tables.kernels[k as usize];
                let (flops, bytes) = (k.flops as f64, k.bytes as f64);
                let at_least = count * each.seconds(flops, k.bf16, bytes);
                (row.name, row.family, row.line) =
                    (k.name.clone(), k.family.clone(), k.loc.clone());
                row.gflops = 1e-9 * count * flops / seconds;
                row.gbytes = 1e-9 * count * bytes / seconds;
                row.of_limit = at_least / seconds;
                least += at_least / steps / ranks;
                if k.family == "matmul" {
                    matmul_bytes += count * bytes / steps;
                }
            }
        }
        rows.push(row);
    }
    rows.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let known: f64 = rows.iter().map(|r| r.ms).sum();
    Profile {
        step_ms: 1e3 * step,
        matmul_bytes,
        other_ms: (1e3 * step - known).max(0.0),
        of_limit: least / step,
        limits,
        rows,
    }
}

/// The name of a mesh axis by its number.
fn axis_name(plan: &Plan, axis: u32) -> &str {
    plan.tables.mesh.get(axis as usize).map_or(ENDS, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use neoxc_plan::Kernel;

    use super::*;

    /// Two ranks, two steps: 3 launches of one kernel each and one collective, by hand.
    #[test]
    fn rows_are_means_of_a_step() {
        let kernel = Kernel { name: "k".into(), flops: 4_000, bytes: 100, ..Kernel::default() };
        let mut plan = Plan::default();
        plan.tables.kernels = vec![kernel];
        plan.tables.mesh = vec![("data".into(), 2)];
        let launch = |start| Event { what: What::Kernel(0), start, seconds: 0.002 };
        let collective = Event { what: What::Collective(0), start: 0.0, seconds: 0.001 };
        let log = [launch(0.0), launch(0.1), launch(0.2), collective];
        let limits =
            Limits { f32_flops: 8e6, bf16_flops: 16e6, memory_bytes: 1e6, read_bytes: 1e6 };
        let p = summary(&plan, &[&log, &log], 2.0, 0.004, limits);
        let [k, x] = &p.rows[..] else { panic!("{p:?}") };
        assert_eq!((k.name.as_str(), k.launches, k.ms), ("k", 3.0, 3.0));
        assert_eq!((x.name.as_str(), x.launches, x.ms), ("data", 1.0, 0.5));
        // 4,000 operations in 2 ms; a rank has half of the limit: at least 1 ms.
        assert!((k.gflops - 0.002).abs() < 1e-12 && (k.gbytes - 5e-5).abs() < 1e-12, "{k:?}");
        assert!((k.of_limit - 0.5).abs() < 1e-12 && (p.other_ms - 0.5).abs() < 1e-12, "{p:?}");
        assert!((p.of_limit - 1.5 / 4.0).abs() < 1e-12, "{p:?}");
    }

    #[test]
    fn the_machine_does_something() {
        let l = Limits::measure(2).unwrap();
        assert!(l.f32_flops > 1e6 && l.bf16_flops >= l.f32_flops, "{l:?}");
        assert!(l.memory_bytes > 1e6 && l.read_bytes > 1e6, "{l:?}");
    }
}
