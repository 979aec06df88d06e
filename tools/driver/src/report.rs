//! What a plan asks of a cluster: per rank class memory, FLOPs, bytes over each link per step, the time that they
//! take and how much of it is hidden.

use std::collections::BTreeMap;

use neoxc_ir::cluster::{Cluster, Reach};
use neoxc_plan::{Collective, ENDS, Instr, Memory, Move, Plan, Turn, name_of, parse_schedule};
use serde::Serialize;

use crate::Compiled;
use crate::clock::{Clock, Times};

/// Traffic of one rank along one mesh axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Traffic {
    /// Mesh axis.
    pub axis: String,
    /// Ranks that meet.
    pub ranks: u64,
    /// `within` a node, or `between` nodes.
    pub link: &'static str,
    /// Collectives of a step.
    pub collectives: u64,
    /// Bytes that the rank sends in a step; reductions and gathers go around a ring.
    pub bytes: u64,
    /// Seconds of a step that these take on the link.
    pub seconds: f64,
    /// How much of that goes on beside kernels. A stage's sends are not counted as hidden: what others wait
    /// for them is in the bubble.
    pub hidden: f64,
}

/// Ranks that do the same: those of one pipeline stage, or of several equal ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankClass {
    /// First and last stage.
    pub stages: (u64, u64),
    /// Number of ranks.
    pub ranks: u64,
    /// Memory of one rank, bytes: what the runtime allocates.
    pub memory: Memory,
    /// FLOPs of one rank and step.
    pub flops: f64,
    /// Seconds of its kernels by the machine's rates.
    pub seconds: f64,
    /// By axis.
    pub traffic: Vec<Traffic>,
}

/// Counts of one stage: executions of each part, FLOPs, traffic by axis as (collectives, bytes).
#[derive(Default, PartialEq)]
struct Count {
    flops: f64,
    traffic: BTreeMap<String, (u64, u64)>,
    times: Times,
}

/// The classes of the ranks of a plan that multiplies factors of `dtype`.
pub fn classes(compiled: &Compiled, cluster: &Cluster, dtype: &str) -> Vec<RankClass> {
    let (plan, flops) = (&compiled.plan, &compiled.program_flops);
    let machine = cluster.machine(dtype);
    let clock = Clock { plan, machine };
    let stages = plan.along("pipe", 0).0;
    let mut out: Vec<(Count, RankClass)> = vec![];
    for stage in 0..stages {
        let count = of_stage(plan, flops, &clock, stage);
        if let Some((last, class)) = out.last_mut()
            && *last == count
            && class.memory == plan.memory_of(stage)
        {
            class.stages.1 = stage;
            class.ranks += plan.ranks() / stages;
            continue;
        }
        let class = RankClass {
            stages: (stage, stage),
            ranks: plan.ranks() / stages,
            memory: plan.memory_of(stage),
            flops: count.flops,
            seconds: count.times.kernels,
            traffic: traffic(plan, &count, cluster),
        };
        out.push((count, class));
    }
    out.into_iter().map(|(_, class)| class).collect()
}

fn of_stage(plan: &Plan, flops: &BTreeMap<String, f64>, clock: &Clock<'_>, stage: u64) -> Count {
    let mut count = Count::default();
    let Some(s) = plan.tables.schedules.get("train_step") else {
        if let Some(p) = plan.program("train_step") {
            collectives(plan, &p.body, 1, &mut count);
            count.times = clock.times(&p.body);
        }
        count.flops = flops.get("train_step").copied().unwrap_or(0.0);
        return count;
    };
    // Of each part, run once.
    let mut parts: BTreeMap<String, Times> = BTreeMap::new();
    let text = s.stages.get(stage as usize).map_or("", String::as_str);
    let class = plan.class_of(stage);
    let places = s.places.get(class);
    let mut run = |count: &mut Count, name: &str, times: u64| {
        if let Some((_, body)) = plan.part(s, name, class) {
            collectives(plan, body, times, count);
            let once = parts.entry(name.to_string()).or_insert_with(|| clock.times(body));
            count.times.add(once, times as f64);
        }
        let once = flops.get(&name_of(&format!("{}_{name}", s.prefix), class)).copied();
        count.flops += times as f64 * once.unwrap_or(0.0);
    };
    let mut add = |(step, _): &Turn, times: u64| match step {
        Move::Run(name) => {
            let last = u64::from(plan.last_part(s, name, class).is_some() && times > 0);
            run(&mut count, name, times - last);
            run(&mut count, &format!("{name}_last"), last);
        }
        Move::Send(value) => {
            let elements = places.and_then(|p| p.values.get(value)).map_or(0, |v| v.elements);
            let slot = count.traffic.entry("pipe".into()).or_default();
            slot.0 += times;
            slot.1 += times * elements * 4;
            let seconds = clock.link("pipe").seconds(elements as f64 * 4.0) * times as f64;
            let slot = count.times.links.entry("pipe".into()).or_default();
            slot.busy += seconds;
            slot.exposed += seconds;
        }
        Move::Receive(_) => {}
    };
    // Of each chunk, in the order in which they come first.
    let mut all: Vec<(Turn, u64)> = vec![];
    for round in parse_schedule(text).unwrap_or_default() {
        for (times, turns) in &round.groups {
            for turn in turns {
                let times = round.times * times;
                match all.iter_mut().find(|(t, _)| t == turn) {
                    Some((_, n)) => *n += times,
                    None => all.push((turn.clone(), times)),
                }
            }
        }
    }
    all.iter().for_each(|(turn, times)| add(turn, *times));
    count
}

fn collectives(plan: &Plan, body: &[Instr], times: u64, count: &mut Count) {
    for instr in body {
        match instr {
            Instr::Launch { .. } | Instr::Wait { .. } => {}
            Instr::Loop { count: n, body, .. } => collectives(plan, body, times * n, count),
            Instr::Collective { kind, axis, shape, .. } => {
                let ranks = plan.along(axis, 0).0;
                if *kind == Collective::TakePart {
                    continue;
                }
                let bytes = kind.sent(shape.iter().product(), ranks);
                let slot = count.traffic.entry(axis.clone()).or_default();
                slot.0 += times;
                slot.1 += times * bytes;
            }
        }
    }
}

fn traffic(plan: &Plan, count: &Count, cluster: &Cluster) -> Vec<Traffic> {
    let mut stride = plan.ranks();
    let mut axes = vec![];
    for (axis, ranks) in &plan.tables.mesh {
        stride /= ranks;
        axes.push((axis.as_str(), stride, *ranks, stride * ranks));
    }
    // Stages are the slowest axis: the first and the last are as far apart as ranks can be.
    axes.push((ENDS, 1, 2, plan.ranks()));
    let mut out = vec![];
    for (axis, stride, ranks, span) in axes {
        let Some((collectives, bytes)) = count.traffic.get(axis).copied() else { continue };
        let link = match cluster.reach(stride as usize, (span / stride) as usize) {
            Reach::Within => "within",
            Reach::Between => "between",
        };
        let times = count.times.links.get(axis).copied().unwrap_or_default();
        let (seconds, hidden) = (times.busy, (times.busy - times.exposed).max(0.0));
        let axis = axis.to_string();
        out.push(Traffic { axis, ranks, link, collectives, bytes, seconds, hidden });
    }
    out
}
