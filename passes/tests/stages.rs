//! The programs of pipeline stages, run in the order of the schedule by the reference evaluator,
//! compute what the whole program computes: random models on meshes of stages × data × tensor ranks.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::collections::HashMap;

use common::{Random, arch, inputs, moe, without_latency};
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::eval_ranks::{group, run_ranks, run_stages};
use neoxc_ir::target::Target;
use neoxc_ir::{Attrs, Function, Module, Output, TensorType, text, verify};
use neoxc_models::arch::{Arch, Capacity, Moe, Positions};
use neoxc_passes::PassCx;
use neoxc_passes::assign_stages::Partition;
use neoxc_passes::entries::name_of;
use neoxc_passes::pass::Degrees;
use neoxc_passes::pipeline::{Phase, run_phase};
use neoxc_passes::schedule_pipeline::{Kind, Schedule, Step};

type Axes = Vec<(String, usize)>;

/// Where a rank stands.
#[derive(Clone, Copy)]
struct Here<'a> {
    axes: &'a Axes,
    rank: usize,
    /// Layers of a chunk of each stage.
    layers: &'a [usize],
    /// The one that is worked on; none where the stage's layers are all there.
    chunk: Option<usize>,
}

/// The part of `whole` that a rank has, where dims are divided as the types say. Chunk c of a stage is the
/// part of the layers behind those of all stages' chunks before c.
fn part(whole: &Tensor, local: &TensorType, attrs: &Attrs, here: Here<'_>) -> Tensor {
    let Here { axes, rank, layers, chunk } = here;
    let layout = attrs.strs("neox.layout").unwrap_or_default();
    let stage = rank / axes[1..].iter().map(|a| a.1).product::<usize>();
    let layer = |i: usize| {
        let size = layers[stage];
        let c = chunk.unwrap_or(i / size);
        c * layers.iter().sum::<usize>() + layers[..stage].iter().sum::<usize>() + i % size
    };
    let start: Vec<usize> = local
        .dims
        .iter()
        .enumerate()
        .map(|(i, d)| {
            let axis = layout.get(i).copied().unwrap_or_default();
            if &*d.name == "layer" {
                return 0;
            }
            group(axes, rank, axis).iter().position(|r| *r == rank).unwrap() * d.size
        })
        .collect();
    Tensor::from_fn(local.clone(), |i| {
        let mut at: Vec<usize> = i.iter().zip(&start).map(|(i, s)| i + s).collect();
        if local.dims.first().is_some_and(|d| &*d.name == "layer") {
            at[0] = layer(i[0]);
        }
        whole.at(&at)
    })
}

/// One rank's memory: by role and name, with the micro-batch for what lies in slots and the chunk for what
/// has its layers or lies in its slots.
type Memory = HashMap<(String, String, usize, usize), Tensor>;

struct Pipeline<'a> {
    m: &'a Module,
    axes: Axes,
    memory: Vec<Memory>,
    state: HashMap<(String, String), Tensor>,
    batch: HashMap<String, Tensor>,
    micro: usize,
    chunks: usize,
    layers: Vec<usize>,
    class: Vec<usize>,
}

impl Pipeline<'_> {
    fn stage_ranks(&self, stage: usize) -> Vec<usize> {
        let each = self.memory.len() / self.axes[0].1;
        (stage * each..(stage + 1) * each).collect()
    }

    /// Sums (`role`) of all chunks of the stage, one behind the other.
    fn whole_sum(&self, role: &str, name: &str, rank: usize, ty: &TensorType) -> Tensor {
        let get = |c| self.memory[rank].get(&(role.into(), name.into(), 0, c));
        let parts: Vec<&Tensor> = (0..self.chunks).filter_map(get).collect();
        let stacked = ty.dims.first().is_some_and(|d| &*d.name == "layer");
        let data = parts[..if stacked { parts.len() } else { 1 }].iter().flat_map(|t| &t.data);
        Tensor::new(ty.clone(), data.copied().collect())
    }

    fn input(&self, f: &Function, p: usize, rank: usize, n: usize, chunk: Option<usize>) -> Tensor {
        let (ty, attrs) = (f.ty(f.params[p]), &f.param_attrs[p]);
        let name = attrs.str("neox.param").or(attrs.str("neox.name")).unwrap_or("").to_string();
        let role = common::kind(attrs);
        let c = chunk.unwrap_or(0);
        let key = |n: usize, c: usize| (role.clone(), name.clone(), n, c);
        let here = Here { axes: &self.axes, rank, layers: &self.layers, chunk };
        match role.as_str() {
            "slot" => self.memory[rank][&key(n, c)].clone(),
            "losses" => self.memory[rank][&key(0, 0)].clone(),
            "grad" | "sum" if chunk.is_none() => self.whole_sum(&role, &name, rank, ty),
            "grad" => self.memory[rank][&key(0, if stacked(ty) { c } else { 0 })].clone(),
            "batch" => {
                let whole = &self.batch[&name];
                let data = group(&self.axes, rank, "data").iter().position(|r| *r == rank).unwrap();
                let one = TensorType::new(whole.ty.dtype, whole.ty.dims[1..].to_vec());
                let size = one.elements();
                let at = (data * self.micro + n) * size;
                let one = Tensor::new(one, whole.data[at..at + size].to_vec());
                part(&one, ty, attrs, here)
            }
            _ => part(&self.state[&(role, name)], ty, attrs, here),
        }
    }

    /// Runs one program on the ranks of a stage.
    fn run(&mut self, entry: &str, stage: usize, n: usize, chunk: usize) {
        let last = name_of(&format!("{entry}_last"), self.class[stage]);
        let is_last = n + 1 == self.micro && self.m.function(&last).is_some();
        let name = if is_last { last } else { name_of(entry, self.class[stage]) };
        let f = self.m.function(&name).unwrap();
        let ranks = self.stage_ranks(stage);
        let x: Vec<Vec<Tensor>> = ranks
            .iter()
            .map(|r| (0..f.params.len()).map(|p| self.input(f, p, *r, n, Some(chunk))).collect())
            .collect();
        let got = run_ranks(self.m, &name, &self.axes[1..], &x).unwrap();
        let names = f.attrs.strs("neox.results").unwrap();
        for (rank, got) in ranks.iter().zip(&got) {
            for (name, value) in names.iter().zip(got) {
                let memory = &mut self.memory[*rank];
                match name.split_once(' ') {
                    Some(("grad", name)) if entry == "train_start" && stacked(&value.ty) => {
                        for (c, value) in cut(value, self.chunks).into_iter().enumerate() {
                            memory.insert(("grad".into(), name.into(), 0, c), value);
                        }
                    }
                    Some((kind, name)) => {
                        let n = if kind == "slot" { n } else { 0 };
                        let c = if kind == "slot" || stacked(&value.ty) { chunk } else { 0 };
                        memory.insert((kind.into(), name.into(), n, c), value.clone());
                    }
                    None if *name == "loss" => {
                        let key = ("losses".into(), "losses".into(), 0, 0);
                        memory.get_mut(&key).unwrap().data[n] = value.data[0];
                    }
                    None => {
                        memory.insert(("losses".into(), (*name).into(), 0, 0), value.clone());
                    }
                }
            }
        }
    }

    /// Gives what one stage made to another.
    fn hand(&mut self, from: (usize, usize), what: &str, to: (usize, usize), name: &str, n: usize) {
        for (a, b) in self.stage_ranks(from.0).into_iter().zip(self.stage_ranks(to.0)) {
            let value = self.memory[a][&("slot".into(), what.into(), n, from.1)].clone();
            self.memory[b].insert(("slot".into(), name.into(), n, to.1), value);
        }
    }

    /// Runs a schedule; steps whose value is not there yet wait.
    fn go(&mut self, s: &Schedule) {
        let lists: Vec<_> = (0..s.stages.len()).map(|n| s.steps(n)).collect();
        let mut at = vec![0; lists.len()];
        let last = lists.len() - 1;
        let mut sent = std::collections::HashSet::new();
        while (0..lists.len()).any(|n| at[n] < lists[n].len()) {
            let before = at.clone();
            for stage in 0..lists.len() {
                while let Some((turn, n)) = lists[stage].get(at[stage]).copied() {
                    let (step, c) = (turn.step, turn.chunk);
                    let before = if stage > 0 { (stage - 1, c) } else { (last, c.wrapping_sub(1)) };
                    let behind = if stage < last { (stage + 1, c) } else { (0, c + 1) };
                    match step {
                        Step::Finish => break,
                        Step::SendY | Step::SendDx => {
                            sent.insert(((stage, c), step, n));
                        }
                        Step::ReceiveX if !sent.contains(&(before, Step::SendY, n)) => break,
                        Step::ReceiveX => self.hand(before, "y", (stage, c), "x", n),
                        Step::ReceiveDy if !sent.contains(&(behind, Step::SendDx, n)) => break,
                        Step::ReceiveDy => self.hand(behind, "dx", (stage, c), "dy", n),
                        _ => self.run(&format!("train_{}", step.name()), stage, n, c),
                    }
                    at[stage] += 1;
                }
            }
            if before == at {
                break;
            }
        }
    }
}

fn stacked(ty: &TensorType) -> bool {
    ty.dims.first().is_some_and(|d| &*d.name == "layer")
}

/// Equal parts along the first dim.
fn cut(t: &Tensor, parts: usize) -> Vec<Tensor> {
    let mut ty = t.ty.clone();
    ty.dims[0].size /= parts;
    t.data.chunks(ty.elements()).map(|data| Tensor::new(ty.clone(), data.to_vec())).collect()
}

#[test]
fn stages_compute_what_the_whole_does() {
    for seed in 0..8 {
        let mut r = Random(seed);
        let data = 1 + (seed as usize / 2) % 2;
        let expert = 1 + (seed as usize) / 3 % 2;
        let a = Arch {
            batch: 2 * expert,
            groups: expert,
            grad_accum: 2 * data,
            seq: [4, 6][(r.next() % 2) as usize],
            layers: 4,
            embed: 8,
            heads: 2,
            head_dim: 4,
            ffn: 12,
            vocab: [11, 12, 12][(r.next() % 3) as usize],
            positions: if seed % 2 == 0 {
                Positions::Rotary { dims: 2, base: 10_000.0, scaling: None }
            } else {
                Positions::Learned { rows: 16 }
            },
            parallel_residual: r.next().is_multiple_of(2),
            tied: r.next().is_multiple_of(2),
            checkpoint: (r.next().is_multiple_of(2)).then_some(1),
            hidden_dropout: if r.next().is_multiple_of(2) { 0.4 } else { 0.0 },
            attention_dropout: if r.next().is_multiple_of(2) { 0.3 } else { 0.0 },
            ..arch()
        };
        let interval = 1 + (seed as usize) / 2 % 2;
        let capacity = Capacity { train_factor: 0.8, eval_factor: 1.5, minimum: 1 };
        let capacity = (seed % 4 == 1).then_some(capacity);
        let experts = Moe { experts: 4, interval, capacity, loss_coeff: 0.1, ..moe() };
        let a = Arch { moe: (seed % 3 > 0).then_some(experts), ..a };
        let tensor = 1 + (seed as usize) % 2;
        for pipe in [2, 4] {
            let context = 1 + (seed as usize) / 4 % 2;
            let d = Degrees { pipe, data, expert, context, tensor };
            let schedule = Kind::ALL[(seed as usize) % 4].1;
            let chunks = match schedule {
                Kind::Interleaved => 8 / pipe,
                _ => 1,
            };
            let micro = if chunks > 1 { pipe } else { 2 };
            // In periods of layers of several kinds.
            let turns = if chunks > 1 { 8 } else { 7 + (seed as usize) % 2 };
            let layers = turns * a.moe.map_or(1, |m| m.interval);
            let a = Arch { grad_accum: micro * data, layers, ..a.clone() };
            let partition = match chunks {
                // Seven layers and five other modules would leave the last of four without any layer.
                1 if pipe == 4 && seed == 2 => Partition::Balanced,
                1 => Partition::ALL[(seed as usize / 2 + pipe / 4) % 4].1,
                _ => Partition::Layers,
            };
            let what = format!("seed {seed}: {d:?} {schedule:?} {partition:?} {a:?}");
            let zero_stage = (seed as u8) / 2 % 4;
            let sequence_parallel = r.next().is_multiple_of(2);
            let cx = PassCx {
                degrees: d,
                zero_stage,
                schedule,
                chunks,
                partition,
                sequence_parallel,
                machine: without_latency(),
                ..PassCx::new(Target::X86V4)
            };
            let mut m = common::build(&a).unwrap();
            if seed % 3 == 2 {
                common::freeze(&mut m, seed as usize / 3 % 2);
            }
            for phase in [Phase::Rewritten, Phase::Grad] {
                run_phase(&mut m, phase, &cx).unwrap();
            }
            let before = m.clone();
            run_phase(&mut m, Phase::Sharded, &cx).unwrap_or_else(|e| panic!("{what}: {e}"));
            verify(&m).unwrap();
            assert_eq!(text::print(&text::parse(&text::print(&m)).unwrap()), text::print(&m));

            let x = inputs(&before, "train_step", &mut r);
            let want = run(&before, "train_step", &x).unwrap();
            let f = before.function("train_step").unwrap();
            let (mut state, mut batch) = (HashMap::new(), HashMap::new());
            for ((p, attrs), t) in f.params.iter().zip(&f.param_attrs).zip(&x) {
                let name = attrs.str("neox.param").or(attrs.str("neox.name"));
                let label = f.values[p.index()].name.as_deref().unwrap_or_default();
                let name = name.unwrap_or(label).to_string();
                match common::kind(attrs).as_str() {
                    "batch" => {
                        batch.insert(name, t.clone());
                    }
                    role => {
                        state.insert((role.to_string(), name), t.clone());
                    }
                }
            }
            let axes: Axes = d.axes().map(|(n, s)| (n.to_string(), s)).to_vec();
            // As the module says; that all layers are there, in order, is checked here.
            let texts = m.attrs.strs("neox.stage_layers").unwrap();
            let count = |t: &&str| t.split(' ').next().unwrap().split_once('+').unwrap().1.parse();
            let layers: Vec<usize> = texts.iter().map(|t| count(t).unwrap()).collect();
            assert_eq!((layers.len(), layers.iter().sum::<usize>() * chunks), (pipe, turns));
            let class = m.attrs.ints("neox.stage_class").unwrap();
            let class: Vec<usize> = class.iter().map(|n| *n as usize).collect();
            let mut p = Pipeline {
                m: &m,
                axes: axes.clone(),
                memory: vec![Memory::new(); d.ranks()],
                state,
                batch,
                micro,
                chunks,
                layers: layers.clone(),
                class: class.clone(),
            };
            p.go(&Schedule::train(schedule, pipe, chunks, micro));
            let names: Vec<String> = class.iter().map(|c| name_of("train_finish", *c)).collect();
            let of = |rank: usize| m.function(&names[rank / (d.ranks() / pipe)]).unwrap();
            let parts: Vec<Vec<Tensor>> = (0..d.ranks())
                .map(|rank| {
                    let f = of(rank);
                    (0..f.params.len()).map(|i| p.input(f, i, rank, 0, None)).collect()
                })
                .collect();
            let got = run_stages(&m, &names, &axes, &parts).unwrap();
            // What every state of the whole became.
            let whole = before.function("train_step").unwrap();
            let new: HashMap<_, _> = Output::all(whole).unwrap().into_iter().zip(&want).collect();
            let mut seen = std::collections::HashSet::new();
            for (rank, got) in got.iter().enumerate() {
                let f = of(rank);
                for (i, (got, what)) in got.iter().zip(Output::all(f).unwrap()).enumerate() {
                    let state = what.replaces(f);
                    let attrs = state.map_or(Attrs::new(), |p| f.param_attrs[p].clone());
                    let want = new[&what];
                    seen.insert(what.clone());
                    let here = Here { axes: &axes, rank, layers: &layers, chunk: None };
                    let want = part(want, &got.ty, &attrs, here);
                    for (a, b) in want.data.iter().zip(&got.data) {
                        let close = (a - b).abs() < 1e-9 * (1.0 + a.abs());
                        assert!(close, "{what} rank {rank} result {i}: {a} {b}");
                    }
                }
                // Only the ends have what is outside the layers.
                let stage = rank / (d.ranks() / pipe);
                let outside = f.param_attrs.iter().filter_map(|a| a.str("neox.param"));
                let outside: Vec<&str> = outside.filter(|n| !n.contains("{layer")).collect();
                let input = outside.iter().any(|n| n.contains("embed_in"));
                let norm = outside.iter().any(|n| n.contains("final_layer_norm"));
                let last = stage + 1 == pipe;
                assert_eq!((input, norm), (stage == 0 || last && a.tied, last), "{what} {stage}");
                assert!(stage == 0 || last || outside.is_empty(), "{what} {stage}: {outside:?}");
            }
            assert_eq!(seen.len(), want.len(), "{what}: something is on no stage");
        }
    }
}
