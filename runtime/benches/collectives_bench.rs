//! The time of an all-reduce, and the share of it that is hidden beside compute: under mpirun between processes,
//! otherwise between threads.
//!
//! `cargo bench -p neoxc-runtime --bench collectives_bench [-- RANKS]` measures threads, 2 if no number is given. For processes,
//! the command with `--no-run` builds the program and prints its path, which mpirun can start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use neoxc_plan::{Address, Collective, Instr, Plan, Program};
use neoxc_runtime::collectives::{Collectives, connect};
use neoxc_runtime::job::{self, Job};

/// Repetitions, of which the median counts.
const ROUNDS: usize = 41;

fn plan(ranks: u64) -> Plan {
    let mut plan = Plan::default();
    plan.tables.mesh = vec![("tensor".into(), ranks)];
    let at = || Address { segment: 0, offset: 0, strides: vec![] };
    let collective = Instr::Collective {
        kind: Collective::AllReduce,
        axis: "tensor".into(),
        shape: vec![1, 1, 1],
        from: at(),
        to: at(),
        event: Some(0),
        loc: String::new(),
    };
    plan.programs.push(Program { body: vec![collective], ..Default::default() });
    plan
}

/// Compute that takes about this long, on one thread.
fn compute(time: Duration) -> f32 {
    let (start, mut x) = (Instant::now(), 1f32);
    while start.elapsed() < time {
        for _ in 0..1000 {
            x = std::hint::black_box(x * 1.000_1 + 0.1);
        }
    }
    x
}

/// Median time of a start, compute of this length, and a wait.
fn median(side: &dyn Collectives, x: &mut [f32], beside: Duration) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let to = x.as_mut_ptr();
            // SAFETY: the value is left alone until the wait returns; all ranks do the same.
            let done = unsafe {
                side.start(0, Collective::AllReduce, [1, x.len(), 1, 1, 1], to, to).and_then(
                    |ticket| {
                        compute(beside);
                        side.wait(0, ticket)
                    },
                )
            };
            if let Err(e) = done {
                eprintln!("{}", e.message());
                std::process::exit(e.exit_code().into());
            }
            start.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn measure(side: &dyn Collectives, speaks: bool) {
    for floats in [1 << 10, 1 << 18, 1 << 22] {
        let mut x = vec![0f32; floats];
        let alone = median(side, &mut x, Duration::ZERO);
        // As long as the collective, so that all of it could be hidden.
        let beside = alone.max(Duration::from_micros(50));
        let both = median(side, &mut x, beside);
        let hidden = (alone + beside).saturating_sub(both).as_secs_f64() / alone.as_secs_f64();
        if speaks {
            let us = alone.as_secs_f64() * 1e6;
            println!(
                "{:6} KiB  {us:9.0} us  {:3.0} % hidden",
                floats >> 8,
                100.0 * hidden.min(1.0)
            );
        }
    }
}

fn main() {
    // `cargo bench` adds `--bench` to what was asked.
    let ranks = std::env::args().skip(1).find(|a| a != "--bench");
    let ranks = match ranks.as_deref().unwrap_or("2").parse() {
        Ok(n) => n,
        Err(e) => {
            eprintln!("the argument is the number of ranks: {e}");
            std::process::exit(2);
        }
    };
    let plan = plan(ranks);
    match Job::join(&plan, [Duration::from_secs(job::TIMEOUT); 2]) {
        Err(e) => {
            eprintln!("{}", job::told(&e));
            std::process::exit(e.exit_code().into());
        }
        Ok(None) => std::thread::scope(|s| {
            for (rank, side) in connect(&plan).into_iter().enumerate() {
                s.spawn(move || measure(&side, rank == 0));
            }
        }),
        Ok(Some(job)) => {
            measure(&*job.collectives(), job::leads());
            if let Err(e) = job::leave(Some(Arc::new(job))) {
                eprintln!("{}", job::told(&e));
            }
        }
    }
}
