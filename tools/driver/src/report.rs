//! What a plan asks of a cluster: per rank class memory, FLOPs and bytes over each link per step.

use std::collections::BTreeMap;

use neoxc_ir::cluster::{Cluster, Reach};
use neoxc_plan::{Exchange, Instr, Memory, Move, Plan, parse_schedule};
use serde::Serialize;

/// Traffic of one rank along one mesh axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Traffic {
    /// Mesh axis.
    pub axis: String,
    /// Ranks that meet.
    pub ranks: u64,
    /// `within` a node, or `between` nodes.
    pub link: &'static str,
    /// Exchanges of a step.
    pub exchanges: u64,
    /// Bytes that the rank sends in a step; reductions and gathers go around a ring.
    pub bytes: u64,
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
    /// By axis.
    pub traffic: Vec<Traffic>,
}

/// Counts of one stage: executions of each part, FLOPs, traffic by axis as (exchanges, bytes).
#[derive(Default, PartialEq)]
struct Count {
    flops: f64,
    traffic: BTreeMap<String, (u64, u64)>,
}

/// The classes of a plan's ranks; `flops` are those of each program of one rank, run once.
pub fn classes(plan: &Plan, flops: &BTreeMap<String, f64>, cluster: &Cluster) -> Vec<RankClass> {
    let stages = plan.along("pipe", 0).0;
    let mut out: Vec<(Count, RankClass)> = vec![];
    for stage in 0..stages {
        let count = of_stage(plan, flops, stage);
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
            traffic: traffic(plan, &count, cluster),
        };
        out.push((count, class));
    }
    out.into_iter().map(|(_, class)| class).collect()
}

fn of_stage(plan: &Plan, flops: &BTreeMap<String, f64>, stage: u64) -> Count {
    let mut count = Count::default();
    let Some(s) = plan.tables.schedules.get("train_step") else {
        if let Some(p) = plan.program("train_step") {
            exchanges(plan, &p.body, 1, &mut count);
        }
        count.flops = flops.get("train_step").copied().unwrap_or(0.0);
        return count;
    };
    let text = s.stages.get(stage as usize).map_or("", String::as_str);
    for (times, moves) in parse_schedule(text).unwrap_or_default() {
        for step in moves {
            match step {
                Move::Run(name) => {
                    if let Some((_, _, body)) = plan.part(s, &name) {
                        exchanges(plan, body, times, &mut count);
                    }
                    let once = flops.get(&format!("{}_{name}", s.prefix)).copied();
                    count.flops += times as f64 * once.unwrap_or(0.0);
                }
                Move::Send(value) => {
                    let elements = s.values.get(&value).map_or(0, |v| v.elements);
                    let slot = count.traffic.entry("pipe".into()).or_default();
                    slot.0 += times;
                    slot.1 += times * elements * 4;
                }
                Move::Receive(_) => {}
            }
        }
    }
    count
}

fn exchanges(plan: &Plan, body: &[Instr], times: u64, count: &mut Count) {
    for instr in body {
        match instr {
            Instr::Launch { .. } | Instr::Wait { .. } => {}
            Instr::Loop { count: n, body, .. } => exchanges(plan, body, times * n, count),
            Instr::Exchange { kind, axis, shape, .. } => {
                let ranks = plan.along(axis, 0).0;
                if *kind == Exchange::TakePart {
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
    let mut out = vec![];
    for (axis, ranks) in &plan.tables.mesh {
        stride /= ranks;
        let Some((exchanges, bytes)) = count.traffic.get(axis).copied() else { continue };
        let link = match cluster.reach(stride as usize, *ranks as usize) {
            Reach::Within => "within",
            Reach::Between => "between",
        };
        out.push(Traffic { axis: axis.clone(), ranks: *ranks, link, exchanges, bytes });
    }
    out
}
