//! How long a rank's instructions take by a machine's rates, and how much of its collectives that hides: the model
//! that `overlap-collectives` orders by, run over the plan itself.
//!
//! The clock is that of the compute stream. Every axis' stream does one collective after the other. Of a loop three
//! iterations are followed; all others take what the third one takes.

use std::collections::BTreeMap;

use neoxc_ir::cluster::{Link, Machine};
use neoxc_plan::{Collective, ENDS, Instr, Plan};

/// Seconds along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OnLink {
    /// Of collectives on the link.
    pub busy: f64,
    /// That kernels wait for them.
    pub exposed: f64,
}

/// Seconds of a list of instructions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Times {
    /// Of kernels.
    pub kernels: f64,
    /// By axis.
    pub links: BTreeMap<String, OnLink>,
}

impl Times {
    /// Adds `other`, so many times.
    pub fn add(&mut self, other: &Times, times: f64) {
        self.kernels += times * other.kernels;
        for (axis, t) in &other.links {
            let slot = self.links.entry(axis.clone()).or_default();
            slot.busy += times * t.busy;
            slot.exposed += times * t.exposed;
        }
    }

    /// Waits until `there` for a collective along `axis`.
    fn wait(&mut self, now: &mut f64, there: f64, axis: &str) {
        self.links.entry(axis.to_string()).or_default().exposed += (there - *now).max(0.0);
        *now = now.max(there);
    }
}

/// Where the streams of a rank are.
#[derive(Default)]
struct State<'b> {
    now: f64,
    /// When each axis' stream is free.
    streams: BTreeMap<&'b str, f64>,
    /// When each event has happened, and on which axis.
    events: BTreeMap<usize, (f64, &'b str)>,
}

impl State<'_> {
    /// So many seconds pass in which everything goes on as it does.
    fn pass(&mut self, seconds: f64) {
        self.now += seconds;
        self.streams.values_mut().for_each(|free| *free += seconds);
        self.events.values_mut().for_each(|(there, _)| *there += seconds);
    }
}

/// What the clock runs on.
pub struct Clock<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The ranks' rates.
    pub machine: Machine,
}

impl Clock<'_> {
    /// The link along an axis.
    pub fn link(&self, axis: &str) -> Link {
        if axis == ENDS {
            // Stages are the slowest axis: these two are as far apart as ranks can be.
            return self.machine.link(1, self.plan.ranks() as usize);
        }
        let mut stride = 1;
        for (name, ranks) in self.plan.tables.mesh.iter().rev() {
            if name == axis {
                return self.machine.link(stride as usize, *ranks as usize);
            }
            stride *= ranks;
        }
        self.machine.within
    }

    /// Seconds of a list of instructions.
    pub fn times(&self, body: &[Instr]) -> Times {
        let mut out = Times::default();
        self.follow(body, &mut State::default(), &mut out);
        out
    }

    fn follow<'b>(&self, body: &'b [Instr], state: &mut State<'b>, out: &mut Times) {
        for instr in body {
            let State { now, streams, events } = state;
            let wait = match instr {
                Instr::Launch { kernel, .. } => {
                    let kernel = &self.plan.tables.kernels[*kernel];
                    let (flops, bytes) = (kernel.flops as f64, kernel.bytes as f64);
                    let seconds = self.machine.kernel_seconds(flops, bytes);
                    out.kernels += seconds;
                    *now += seconds;
                    continue;
                }
                Instr::Loop { count, body, .. } => {
                    let followed = (*count).min(3);
                    for n in 1..=followed {
                        let (before, mut once) = (state.now, Times::default());
                        self.follow(body, state, &mut once);
                        let times = if n == followed { count - followed + 1 } else { 1 };
                        out.add(&once, times as f64);
                        state.pass((times - 1) as f64 * (state.now - before));
                    }
                    continue;
                }
                Instr::Collective { kind, axis, shape, event, .. } => {
                    let (ranks, whole) =
                        (self.plan.along(axis, 0).0, shape.iter().product::<u64>());
                    if *kind == Collective::TakePart {
                        let seconds = self.machine.kernel_seconds(0.0, 8.0 * whole as f64);
                        out.kernels += seconds;
                        *now += seconds;
                        continue;
                    }
                    // Of the iteration before.
                    if let Some((there, axis)) = event.and_then(|e| events.remove(&e)) {
                        out.wait(now, there, axis);
                    }
                    let seconds = self.link(axis).seconds(kind.sent(whole, ranks) as f64);
                    out.links.entry(axis.clone()).or_default().busy += seconds;
                    let free = streams.entry(axis).or_default();
                    *free = free.max(*now) + seconds;
                    match event {
                        Some(event) => {
                            events.insert(*event, (*free, axis));
                            continue;
                        }
                        None => (*free, axis.as_str()),
                    }
                }
                Instr::Wait { event } => match events.remove(event) {
                    Some(wait) => wait,
                    None => continue,
                },
            };
            let (there, axis) = wait;
            out.wait(now, there, axis);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use neoxc_ir::target::Target;
    use neoxc_plan::{Kernel, parse_program};

    /// Kernels take 3 ms; 4000 floats over two ranks take 1 ms as a gather, 2 ms as an all-reduce.
    fn times(text: &str) -> Times {
        let kernel = Kernel {
            name: "k".into(),
            family: "rowwise".into(),
            tasks: 1,
            scratch: 0,
            args: vec![],
            operands: 0,
            loc: "-".into(),
            flops: 2,
            ..Kernel::default()
        };
        let mut plan = Plan::default();
        plan.tables.kernels = vec![kernel];
        plan.tables.mesh = vec![("data".into(), 2), ("tensor".into(), 2)];
        let mut machine = Machine::of(Target::X86V4);
        machine.rates.launch_seconds = 1e-3;
        machine.rates.flops = 1e3;
        machine.within = Link { bandwidth: 8e6, latency: 0.0 };
        let body = parse_program(text, &["a".to_string()], &["k".to_string()]).unwrap();
        Clock { plan: &plan, machine }.times(&body)
    }

    /// Kernels, and what they wait for.
    fn seconds(t: &Times) -> f64 {
        t.kernels + t.links.values().map(|t| t.exposed).sum::<f64>()
    }

    fn on_link(t: &Times, axis: &str) -> (f64, f64) {
        let t = t.links[axis];
        let round = |s: f64| (s * 1e7).round() / 1e4;
        (round(t.busy), round(t.exposed))
    }

    #[test]
    fn what_kernels_wait_for_is_exposed() {
        let gather = "all_gather data 1 4000 1 a+0 a+0";
        let t = times(&format!("{gather} ; -\nlaunch 0 k ; -\n"));
        assert_eq!(on_link(&t, "data"), (1.0, 1.0));
        assert!((t.kernels - 3e-3).abs() < 1e-12 && (seconds(&t) - 4e-3).abs() < 1e-12);
        // Beside a kernel all of it is hidden; of four on one stream, one.
        let t = times(&format!("start {gather} @0 ; -\nlaunch 0 k ; -\nwait 0\n"));
        assert_eq!(on_link(&t, "data"), (1.0, 0.0));
        let all =
            |n: usize, what: &str| (0..n).map(|i| what.replace('#', &i.to_string())).collect();
        let starts: String = all(4, &format!("start {gather} @# ; -\n"));
        let waits: String = all(4, "wait #\n");
        let t = times(&format!("{starts}launch 0 k ; -\n{waits}"));
        assert_eq!(on_link(&t, "data"), (4.0, 1.0));
        // Another axis is another stream; loops are multiplied.
        let other = "start all_reduce tensor 1 4000 1 a+0 a+0 @1 ; -";
        let body = format!("start {gather} @0 ; -\n{other}\nwait 0\nwait 1\nlaunch 0 k ; -\n");
        let t = times(&format!("loop i 5\n{body}end\n"));
        assert_eq!((on_link(&t, "data"), on_link(&t, "tensor")), ((5.0, 5.0), (10.0, 5.0)));
        assert!((seconds(&t) - 25e-3).abs() < 1e-9);
    }
}
