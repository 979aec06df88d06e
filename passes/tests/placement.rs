//! Placement against memory itself: a scheduled program is executed with its values in byte-addressed
//! segments, where only addresses connect producers and readers, on random models.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::collections::BTreeMap;

use common::{Random, arch, inputs, moe};
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::op::Class;
use neoxc_ir::ops::repeat::totals;
use neoxc_ir::target::Target;
use neoxc_ir::{Attrs, Module, OpKind, TensorType};
use neoxc_models::arch::{Arch, Capacity, Moe, Positions, Router};
use neoxc_models::blocks::activations::Activation;
use neoxc_passes::PassCx;
use neoxc_passes::pipeline::{Phase, run_phase};
use neoxc_passes::place_memory::{GRADS, Place};

/// Segments of 4-byte elements; what nobody wrote is NaN.
#[derive(Default)]
struct Memory {
    segments: BTreeMap<String, Vec<f64>>,
    /// Value of each enclosing loop's counter.
    loops: Vec<(String, u64)>,
    /// Where gradients begin in the arena.
    grads: u64,
    /// Gradients as the loop over micro-batches left them.
    gradients: Vec<(Place, Tensor)>,
}

impl Memory {
    /// Whose bytes a place has.
    fn segment(p: &Place) -> &str {
        if p.segment == GRADS { "arena" } else { &p.segment }
    }

    fn start(&self, p: &Place) -> usize {
        let along = p.strides.iter().map(|(dim, stride)| {
            self.loops.iter().rev().find(|(d, _)| d == dim).unwrap().1 * stride
        });
        let before = if p.segment == GRADS { self.grads } else { 0 };
        let byte = before + p.offset + along.sum::<u64>();
        assert!(byte.is_multiple_of(4));
        (byte / 4) as usize
    }

    fn read(&self, p: &Place, ty: &TensorType) -> Tensor {
        let (at, n) = (self.start(p), ty.elements());
        let segment = self.segments.get(Self::segment(p)).map_or(&[][..], |s| s);
        let value = |i| segment.get(i).copied().unwrap_or(f64::NAN);
        Tensor::new(ty.clone(), (at..at + n).map(value).collect())
    }

    fn write(&mut self, p: &Place, t: &Tensor) {
        let at = self.start(p);
        let segment = self.segments.entry(Self::segment(p).to_string()).or_default();
        if segment.len() < at + t.data.len() {
            segment.resize(at + t.data.len(), f64::NAN);
        }
        segment[at..at + t.data.len()].copy_from_slice(&t.data);
    }

    fn execute(&mut self, m: &Module, name: &str) {
        let f = m.function(name).unwrap();
        let mut at = BTreeMap::new();
        for (p, a) in f.params.iter().zip(&f.param_attrs) {
            at.insert(*p, places(a).remove(0));
        }
        for op in &f.ops {
            at.extend(op.results.iter().copied().zip(places(&op.attrs)));
            let callee = op.attrs.symbol("callee").unwrap_or_default();
            match op.kind.def().class() {
                Class::View => {}
                _ if op.kind == OpKind::Repeat => {
                    let count = op.attrs.int("count").unwrap() as u64;
                    for step in 0..count {
                        let i = if op.attrs.flag("reverse") { count - 1 - step } else { step };
                        self.loops.push((op.attrs.str("dim").unwrap().to_string(), i));
                        self.execute(m, callee);
                        self.loops.pop();
                    }
                    if op.attrs.str("dim") == Some("micro") && name == "train_step" {
                        let total = |n: usize| {
                            let (place, ty) = (&at[&op.results[n]], f.ty(op.results[n]));
                            assert_eq!(place.segment, GRADS);
                            (place.clone(), self.read(place, ty))
                        };
                        self.gradients = totals(op).into_iter().map(total).collect();
                    }
                }
                _ => {
                    let x: Vec<Tensor> =
                        op.operands.iter().map(|v| self.read(&at[v], f.ty(*v))).collect();
                    let y = run(m, callee, &x).unwrap();
                    for (r, t) in op.results.iter().zip(&y) {
                        self.write(&at[r], t);
                    }
                }
            }
        }
    }
}

fn places(a: &Attrs) -> Vec<Place> {
    a.strs("neox.place").unwrap().into_iter().map(|p| Place::parse(p).unwrap()).collect()
}

fn random_arch(r: &mut Random) -> Arch {
    let mut pick = |n: u64| (r.next() % n) as usize;
    let (layers, group) = [(2, 1), (3, 3), (4, 2), (6, 2), (6, 3)][pick(5)];
    let heads = 1 + pick(3);
    let head_dim = 2 * (1 + pick(2));
    let capacity = Capacity { train_factor: 0.8, eval_factor: 1.5, minimum: 1 };
    let experts = Moe {
        experts: 2 + pick(3),
        interval: [1, group][pick(2)],
        top_k: 1 + pick(2),
        router: [Router::TopK, Router::Sinkhorn][pick(2)],
        capacity: [None, Some(capacity)][pick(2)],
        ..moe()
    };
    Arch {
        moe: [None, Some(experts)][pick(2)],
        batch: 1 + pick(3),
        grad_accum: 1 + pick(3),
        seq: 4 + pick(4),
        layers,
        embed: heads * head_dim,
        heads,
        head_dim,
        ffn: 3 + pick(9),
        vocab: 11 + pick(4),
        positions: [
            Positions::None,
            Positions::Learned { rows: 8 },
            Positions::Rotary { dims: 2, base: 1e4, scaling: None },
        ][pick(3)],
        parallel_residual: pick(2) == 0,
        activation: if pick(2) == 0 { Activation::GeluTanh } else { Activation::Gelu },
        norm_bias: pick(2) == 0,
        attention_bias: pick(2) == 0,
        mlp_bias: pick(2) == 0,
        tied: pick(2) == 0,
        checkpoint: [None, Some(group)][pick(2)],
        hidden_dropout: [0.0, 0.4][pick(2)],
        attention_dropout: [0.0, 0.4][pick(2)],
        ..arch()
    }
}

#[test]
fn addresses_alone_carry_every_value() {
    for seed in 0..14 {
        let mut r = Random(seed);
        let a = random_arch(&mut r);
        let cx =
            PassCx { chunk_bytes: 50 + (seed as usize) * 40, ..PassCx::new(Target::X86Native) };
        let clip = [0.0, 0.5][(r.next() % 2) as usize];
        let mut m = common::build_with(&a, common::OPTIMIZER, clip).unwrap();
        if seed % 4 == 3 {
            common::freeze(&mut m, seed as usize / 4 % 2);
        }
        for phase in Phase::ALL.into_iter().skip(1).take(2) {
            run_phase(&mut m, phase, &cx).unwrap();
        }
        let before = m.clone();
        for phase in Phase::ALL.into_iter().skip(3).take(3) {
            run_phase(&mut m, phase, &cx).unwrap_or_else(|e| panic!("{a:?}: {e}"));
        }
        for entry in ["train_step", "eval_step", "logits"] {
            let x = inputs(&before, entry, &mut r);
            let want = run(&before, entry, &x).unwrap();
            let f = m.function(entry).unwrap();
            let grads = m.attrs.int("neox.grads").unwrap() as u64;
            let mut memory = Memory { grads, ..Memory::default() };
            for ((p, a), t) in f.params.iter().zip(&f.param_attrs).zip(&x) {
                assert_eq!(f.ty(*p), &t.ty);
                memory.write(&places(a)[0], t);
            }
            memory.execute(&m, entry);
            assert_eq!(memory.gradients.is_empty(), entry != "train_step");
            for (place, then) in &memory.gradients {
                let now = memory.read(place, &then.ty);
                assert!(now.data.iter().zip(&then.data).all(|(a, b)| a == b), "{place} {a:?}");
            }
            let made: BTreeMap<_, _> = f
                .ops
                .iter()
                .flat_map(|op| op.results.iter().copied().zip(places(&op.attrs)))
                .collect();
            for (i, (v, want)) in f.results.iter().zip(&want).enumerate() {
                let got = memory.read(&made[v], f.ty(*v));
                for (x, y) in want.data.iter().zip(&got.data) {
                    let close = (x - y).abs() < 1e-9 * (1.0 + x.abs());
                    assert!(close, "seed {seed} {entry} result {i}: {x} {y}\n{a:?}");
                }
            }
        }
    }
}
