//! How long a rank's instructions take by a machine's rates, and how much of its exchanges that hides: the model
//! that `overlap-exchanges` orders by, run over the plan itself.
//!
//! The clock is that of the compute stream. Every axis' stream does one exchange after the other. A loop is
//! its body so many times: nothing is on its way when a body ends.

use std::collections::BTreeMap;

use neoxc_ir::cluster::{Link, Machine};
use neoxc_plan::{ENDS, Exchange, Instr, Plan};

/// Seconds along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OnLink {
    /// Of exchanges on the link.
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

    /// All of it: kernels, and what they wait for.
    pub fn seconds(&self) -> f64 {
        self.kernels + self.links.values().map(|t| t.exposed).sum::<f64>()
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
        let mut now = 0.0;
        let mut streams: BTreeMap<&str, f64> = BTreeMap::new();
        // When each event has happened, and on which axis.
        let mut events: BTreeMap<usize, (f64, &str)> = BTreeMap::new();
        for instr in body {
            let wait = match instr {
                Instr::Launch { kernel, .. } => {
                    let kernel = &self.plan.tables.kernels[*kernel];
                    let (flops, bytes) = (kernel.flops as f64, kernel.bytes as f64);
                    let seconds = self.machine.kernel_seconds(flops, bytes);
                    out.kernels += seconds;
                    now += seconds;
                    continue;
                }
                Instr::Loop { count, body, .. } => {
                    let once = self.times(body);
                    out.add(&once, *count as f64);
                    now += *count as f64 * once.seconds();
                    continue;
                }
                Instr::Exchange { kind, axis, shape, event, .. } => {
                    let (ranks, whole) =
                        (self.plan.along(axis, 0).0, shape.iter().product::<u64>());
                    if *kind == Exchange::TakePart {
                        let seconds = self.machine.kernel_seconds(0.0, 8.0 * whole as f64);
                        out.kernels += seconds;
                        now += seconds;
                        continue;
                    }
                    let seconds = self.link(axis).seconds(kind.sent(whole, ranks) as f64);
                    out.links.entry(axis.clone()).or_default().busy += seconds;
                    let free = streams.entry(axis).or_default();
                    *free = free.max(now) + seconds;
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
            out.links.entry(axis.to_string()).or_default().exposed += (there - now).max(0.0);
            now = now.max(there);
        }
        out
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
            bytes: 0,
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
        assert!((t.kernels - 3e-3).abs() < 1e-12 && (t.seconds() - 4e-3).abs() < 1e-12);
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
        assert!((t.seconds() - 25e-3).abs() < 1e-9);
    }
}
