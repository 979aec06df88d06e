//! The programs of pipeline stages, run in the order of the schedule by the reference evaluator,
//! compute what the whole program computes: random models on meshes of stages × data × tensor ranks.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::collections::HashMap;

use common::{Random, arch, inputs, moe};
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::eval_ranks::{group, run_ranks};
use neoxc_ir::target::Target;
use neoxc_ir::{Attrs, Function, Module, TensorType, text, verify};
use neoxc_models::arch::{Arch, Capacity, Moe, Positions};
use neoxc_passes::PassCx;
use neoxc_passes::pass::Degrees;
use neoxc_passes::pipeline::{Phase, run_phase};
use neoxc_passes::schedule_pipeline::{Kind, Schedule, Step};

type Axes = Vec<(String, usize)>;

/// The part of `whole` that the ranks at `first` have, where dims are divided as the types say.
fn part(whole: &Tensor, local: &TensorType, attrs: &Attrs, axes: &Axes, rank: usize) -> Tensor {
    let layout = attrs.strs("neox.layout").unwrap_or_default();
    let stage = rank / axes[1..].iter().map(|a| a.1).product::<usize>();
    let start: Vec<usize> = local
        .dims
        .iter()
        .enumerate()
        .map(|(i, d)| {
            let axis = layout.get(i).copied().unwrap_or_default();
            if axis.is_empty() && whole.ty.dims[i].size != d.size {
                assert_eq!(&*d.name, "layer");
                return stage * d.size;
            }
            group(axes, rank, axis).iter().position(|r| *r == rank).unwrap() * d.size
        })
        .collect();
    Tensor::from_fn(local.clone(), |i| {
        let at: Vec<usize> = i.iter().zip(&start).map(|(i, s)| i + s).collect();
        whole.at(&at)
    })
}

/// One rank's memory: by role and name, with the micro-batch for what lies in slots.
type Memory = HashMap<(String, String, usize), Tensor>;

struct Pipeline<'a> {
    m: &'a Module,
    axes: Axes,
    memory: Vec<Memory>,
    state: HashMap<(String, String), Tensor>,
    batch: HashMap<String, Tensor>,
    micro: usize,
}

impl Pipeline<'_> {
    fn stage_ranks(&self, stage: usize) -> Vec<usize> {
        let each = self.memory.len() / self.axes[0].1;
        (stage * each..(stage + 1) * each).collect()
    }

    fn input(&self, f: &Function, p: usize, rank: usize, n: usize) -> Tensor {
        let (ty, attrs) = (f.ty(f.params[p]), &f.param_attrs[p]);
        let name = attrs.str("neox.param").or(attrs.str("neox.name")).unwrap_or("").to_string();
        let role = attrs.str("neox.role").unwrap_or("param").to_string();
        let key = |n: usize| (role.clone(), name.clone(), n);
        match role.as_str() {
            "slot" => self.memory[rank][&key(n)].clone(),
            "grad" | "losses" => self.memory[rank][&key(0)].clone(),
            "batch" => {
                let whole = &self.batch[&name];
                let data = group(&self.axes, rank, "data").iter().position(|r| *r == rank).unwrap();
                let one = TensorType::new(whole.ty.dtype, whole.ty.dims[1..].to_vec());
                let size = one.elements();
                let at = (data * self.micro + n) * size;
                let one = Tensor::new(one, whole.data[at..at + size].to_vec());
                part(&one, ty, attrs, &self.axes, rank)
            }
            _ => part(&self.state[&(role, name)], ty, attrs, &self.axes, rank),
        }
    }

    /// Runs one program on the ranks of a stage.
    fn run(&mut self, entry: &str, stage: usize, n: usize) -> Vec<Vec<Tensor>> {
        let f = self.m.function(entry).unwrap();
        let ranks = self.stage_ranks(stage);
        let x: Vec<Vec<Tensor>> = ranks
            .iter()
            .map(|r| (0..f.params.len()).map(|p| self.input(f, p, *r, n)).collect())
            .collect();
        let got = run_ranks(self.m, entry, &self.axes[1..], &x).unwrap();
        let names = f.attrs.strs("neox.results").unwrap();
        for (rank, got) in ranks.iter().zip(&got) {
            for (name, value) in names.iter().zip(got) {
                let memory = &mut self.memory[*rank];
                match name.split_once(' ') {
                    Some((kind, name)) => {
                        let n = if kind == "slot" { n } else { 0 };
                        memory.insert((kind.into(), name.into(), n), value.clone());
                    }
                    None if *name == "loss" => {
                        let key = ("losses".into(), "losses".into(), 0);
                        memory.get_mut(&key).unwrap().data[n] = value.data[0];
                    }
                    None => {
                        memory.insert(("losses".into(), (*name).into(), 0), value.clone());
                    }
                }
            }
        }
        got
    }

    /// Gives what one stage made to another.
    fn hand(&mut self, from: usize, what: &str, to: usize, name: &str, n: usize) {
        for (a, b) in self.stage_ranks(from).into_iter().zip(self.stage_ranks(to)) {
            let value = self.memory[a][&("slot".into(), what.into(), n)].clone();
            self.memory[b].insert(("slot".into(), name.into(), n), value);
        }
    }

    /// Runs a schedule; steps whose value is not there yet wait.
    fn go(&mut self, s: &Schedule) {
        let lists: Vec<_> = (0..s.stages.len()).map(|n| s.steps(n)).collect();
        let mut at = vec![0; lists.len()];
        let mut sent = std::collections::HashSet::new();
        while (0..lists.len()).any(|n| at[n] < lists[n].len()) {
            let before = at.clone();
            for stage in 0..lists.len() {
                while let Some((step, n)) = lists[stage].get(at[stage]).copied() {
                    match step {
                        Step::Finish => break,
                        Step::SendY | Step::SendDx => {
                            sent.insert((stage, step, n));
                        }
                        Step::ReceiveX if !sent.contains(&(stage - 1, Step::SendY, n)) => break,
                        Step::ReceiveX => self.hand(stage - 1, "y", stage, "x", n),
                        Step::ReceiveDy if !sent.contains(&(stage + 1, Step::SendDx, n)) => break,
                        Step::ReceiveDy => self.hand(stage + 1, "dx", stage, "dy", n),
                        _ => {
                            self.run(&format!("train_{}", step.name()), stage, n);
                        }
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
                Positions::Rotary { dims: 2, base: 10_000.0 }
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
        // Layers in turns of two make stages of at least two.
        let interval = 1 + (seed as usize) / 2 % 2;
        let capacity = Capacity { train_factor: 0.8, eval_factor: 1.5, minimum: 1 };
        let capacity = (seed % 4 == 1).then_some(capacity);
        let experts = Moe { experts: 4, interval, capacity, loss_coeff: 0.1, ..moe() };
        let layers = 4 * interval;
        let a = Arch { moe: (seed % 3 > 0).then_some(experts), layers, ..a };
        let tensor = 1 + (seed as usize) % 2;
        for pipe in [2, 4] {
            let context = 1 + (seed as usize) / 4 % 2;
            let d = Degrees { pipe, data, expert, context, tensor };
            let schedule = Kind::ALL[(seed as usize) % 3].1;
            let what = format!("seed {seed}: {d:?} {schedule:?} {a:?}");
            let zero_stage = (seed as u8) / 2 % 4;
            let sequence_parallel = r.next().is_multiple_of(2);
            let cx = PassCx {
                degrees: d,
                zero_stage,
                schedule,
                sequence_parallel,
                ..PassCx::new(Target::X86V4)
            };
            let mut m = neoxc_models::build(&a).unwrap();
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
                match attrs.str("neox.role").unwrap_or("param") {
                    "batch" => {
                        batch.insert(name, t.clone());
                    }
                    role => {
                        state.insert((role.to_string(), name), t.clone());
                    }
                }
            }
            let axes: Axes = d.axes().map(|(n, s)| (n.to_string(), s)).to_vec();
            let mut p = Pipeline {
                m: &m,
                axes: axes.clone(),
                memory: vec![Memory::new(); d.ranks()],
                state,
                batch,
                micro: 2,
            };
            p.go(&Schedule::train(schedule, pipe, 2));
            let f = m.function("train_finish").unwrap();
            let parts: Vec<Vec<Tensor>> = (0..d.ranks())
                .map(|rank| (0..f.params.len()).map(|i| p.input(f, i, rank, 0)).collect())
                .collect();
            let got = run_ranks(&m, "train_finish", &axes, &parts).unwrap();
            for (rank, got) in got.iter().enumerate() {
                for (i, (want, got)) in want.iter().zip(got).enumerate() {
                    let state = i + 2 < f.results.len();
                    let attrs = if state { f.param_attrs[i].clone() } else { Attrs::new() };
                    let want = part(want, &got.ty, &attrs, &axes, rank);
                    for (a, b) in want.data.iter().zip(&got.data) {
                        let close = (a - b).abs() < 1e-9 * (1.0 + a.abs());
                        assert!(close, "{what} rank {rank} result {i}: {a} {b}");
                    }
                }
            }
        }
    }
}
