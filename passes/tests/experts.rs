//! A whole layer of experts, forward and backward, against plain loops: routing, dropping, experts,
//! weights and the load-balancing loss, written without any of the ops.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{Random, arch, moe};
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, Builder, Function, Module, TensorType};
use neoxc_models::arch::{Arch, Capacity, Moe, Router};
use neoxc_models::blocks::activations::Activation;
use neoxc_models::blocks::experts::{Experts, mlp};
use neoxc_passes::{PassCx, pass, pipeline};

/// The layer's operands; the last two are of experts with a gate.
const NAMES: [&str; 8] = ["x", "router", "up", "up_bias", "down", "down_bias", "gate", "gate_bias"];

fn types(a: &Arch, m: &Moe) -> Vec<TensorType> {
    let (x, e, f) = (("experts", m.experts), ("embed", a.embed), ("ffn", a.ffn));
    let mut types = [
        &[("batch", a.batch), ("seq", a.seq), e][..],
        &[x, e],
        &[x, f, e],
        &[x, f],
        &[x, e, f],
        &[x, e],
        &[x, f, e],
        &[x, f],
    ]
    .map(TensorType::f32)
    .to_vec();
    types.truncate(if a.gated { 8 } else { 6 });
    types
}

/// @loss = Σ c · layer(x): its gradients, and its value.
fn by_ops(a: &Arch, m: &Moe, values: &[Vec<f64>], c: &[f64]) -> (Vec<Vec<f64>>, f64) {
    let mut f = Function::new("loss");
    let mut ids = vec![];
    for (name, ty) in NAMES.iter().zip(types(a, m)) {
        let attrs = Attrs::new().with("neox.param", Attr::Str((*name).into()));
        ids.push(f.add_param(name, ty, attrs));
    }
    let batch = Attrs::new().with("neox.role", Attr::Str("batch".into()));
    let weights = f.add_param("c", types(a, m)[0].clone(), batch);
    let b = &mut Builder::new(&mut f);
    let e = Experts {
        router: ids[1],
        up: ids[2],
        up_bias: Some(ids[3]),
        gate: ids.get(6).copied(),
        gate_bias: ids.get(7).copied(),
        down: ids[4],
        down_bias: Some(ids[5]),
    };
    let y = mlp(b, a, m, e, ids[0], a.groups, true).unwrap();
    let product = b.mul(y, weights).unwrap();
    let sum = b.reduce_sum(product, &["batch", "seq", "embed"]).unwrap();
    f.results = vec![sum];
    let mut module = Module::new();
    module.insert(f);
    let cx = PassCx { degrees: pass::Degrees::ONE, ..PassCx::new(Target::X86V4) };
    let differentiate = pipeline::PASSES.iter().find(|p| p.1.name == "differentiate-loss").unwrap();
    (differentiate.1.run)(&mut module, &cx).unwrap();
    neoxc_ir::verify(&module).unwrap();
    let step = module.function("micro_step").unwrap();
    let inputs: Vec<Tensor> = step
        .params
        .iter()
        .map(|p| {
            let ty = step.ty(*p).clone();
            let name = step.values[p.index()].name.as_deref().unwrap();
            match NAMES.iter().position(|n| *n == name) {
                Some(i) => Tensor::new(ty, values[i].clone()),
                None if name == "c" => Tensor::new(ty, c.to_vec()),
                None => Tensor::fill(ty, 0.0),
            }
        })
        .collect();
    let mut out = run(&module, "micro_step", &inputs).unwrap();
    let loss = out.pop().unwrap().data[0];
    (out.into_iter().map(|t| t.data).collect(), loss)
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

/// The experts' factors of a group by Sinkhorn's iteration: what is chosen by.
fn balanced(logits: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (tokens, experts) = (logits.len(), logits[0].len());
    let c: Vec<Vec<f64>> = logits.iter().map(|r| r.iter().map(|x| x.exp()).collect()).collect();
    let mut d1 = vec![1.0; experts];
    let mut d0;
    loop {
        d0 = c
            .iter()
            .map(|row| {
                let s: f64 = row.iter().zip(&d1).map(|(a, b)| a * b).sum();
                1.0 / tokens as f64 / (s + 1e-8)
            })
            .collect::<Vec<f64>>();
        let new: Vec<f64> = (0..experts)
            .map(|e| {
                let s: f64 = (0..tokens).map(|t| d0[t] * c[t][e]).sum();
                1.0 / experts as f64 / (s + 1e-8)
            })
            .collect();
        let moved: f64 = new.iter().zip(&d1).map(|(a, b)| (a - b).abs()).sum();
        d1 = new;
        if moved / experts as f64 <= 1e-4 {
            break;
        }
    }
    (0..tokens).map(|t| (0..experts).map(|e| d0[t] * d1[e] * c[t][e]).collect()).collect()
}

/// What the loops saw, to know that a case has what it is for.
#[derive(Default)]
struct Seen {
    dropped: usize,
    loads: Vec<usize>,
}

/// (Σ c · layer(x), load-balancing loss of all groups together).
fn by_loops(a: &Arch, m: &Moe, v: &[Vec<f64>], c: &[f64], seen: &mut Seen) -> (f64, f64) {
    let (d, f, n) = (a.embed, a.ffn, m.experts);
    let tokens = a.batch * a.seq / a.groups;
    let slots = m.capacity.map_or(usize::MAX, |cap| {
        let even = cap.train_factor * (tokens * m.top_k) as f64 / n as f64;
        cap.minimum.max(even.ceil() as usize)
    });
    let (mut value, mut balance) = (0.0, 0.0);
    for g in 0..a.groups {
        let row = |t: usize| &v[0][(g * tokens + t) * d..(g * tokens + t + 1) * d];
        let logits: Vec<Vec<f64>> = (0..tokens)
            .map(|t| (0..n).map(|e| (0..d).map(|i| row(t)[i] * v[1][e * d + i]).sum()).collect())
            .collect();
        let softmax = |l: &Vec<f64>| -> Vec<f64> {
            let sum: f64 = l.iter().map(|x| x.exp()).sum();
            l.iter().map(|x| x.exp() / sum).collect()
        };
        let sigmoid =
            |l: &Vec<f64>| -> Vec<f64> { l.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect() };
        let alone = m.router == Router::Sinkhorn && m.top_k == 1;
        let p: Vec<Vec<f64>> =
            logits.iter().map(|l| if alone { sigmoid(l) } else { softmax(l) }).collect();
        let by = if m.router == Router::Sinkhorn { balanced(&logits) } else { p.clone() };
        let chosen: Vec<Vec<usize>> = by
            .iter()
            .map(|scores| {
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|i, j| scores[*j].partial_cmp(&scores[*i]).unwrap());
                order[..m.top_k].to_vec()
            })
            .collect();
        let mut load = vec![0; n];
        let mut share = vec![0.0; n];
        // First choices have precedence over second ones, earlier tokens over later ones.
        for choice in 0..m.top_k {
            for (t, of_token) in chosen.iter().enumerate() {
                let e = of_token[choice];
                share[e] += 1.0 / (tokens * m.top_k) as f64;
                if load[e] == slots {
                    seen.dropped += 1;
                    continue;
                }
                load[e] += 1;
                let project = |weight: usize, j: usize| {
                    let w = &v[weight][(e * f + j) * d..(e * f + j + 1) * d];
                    let s: f64 = w.iter().zip(row(t)).map(|(w, x)| w * x).sum();
                    s + v[weight + 1][e * f + j]
                };
                let wide: Vec<f64> = (0..f)
                    .map(|j| match a.gated {
                        true => gelu(project(6, j)) * project(2, j),
                        false => gelu(project(2, j)),
                    })
                    .collect();
                let sum: f64 = of_token.iter().map(|e| p[t][*e]).sum();
                let weight = p[t][e] / if m.normalize { sum } else { 1.0 };
                for i in 0..d {
                    let w = &v[4][(e * d + i) * f..(e * d + i + 1) * f];
                    let s: f64 = w.iter().zip(&wide).map(|(w, x)| w * x).sum();
                    value += c[(g * tokens + t) * d + i] * weight * (s + v[5][e * d + i]);
                }
            }
        }
        for (e, share) in share.iter().enumerate() {
            let mean = p.iter().map(|p| p[e]).sum::<f64>() / tokens as f64;
            balance += n as f64 * share * mean / a.groups as f64;
        }
        seen.loads.extend(load);
    }
    (value, balance)
}

#[test]
fn a_layer_of_experts_is_what_plain_loops_make() {
    let mut seen = Seen::default();
    for seed in 0..24u64 {
        let mut r = Random(seed);
        let mut pick = |n: u64| (r.next() % n) as usize;
        let top_k = 1 + pick(2);
        let router = [Router::TopK, Router::TopK, Router::Sinkhorn][pick(3)];
        let tight = Capacity {
            train_factor: [0.6, 1.0, 1.5][pick(3)],
            eval_factor: 1.0,
            minimum: 1 + pick(2),
        };
        let groups = 1 + pick(2);
        let m = Moe {
            experts: 2 * (1 + pick(3)),
            top_k,
            router,
            capacity: [None, Some(tight)][pick(2)],
            loss_coeff: if router == Router::TopK { 0.7 } else { 0.0 },
            normalize: router == Router::TopK && top_k > 1 && seed % 2 == 0,
            ..moe()
        };
        let a = Arch {
            batch: groups * (1 + pick(2)),
            groups,
            seq: 3 + pick(3),
            activation: Activation::GeluTanh,
            gated: pick(2) == 1,
            ..arch()
        };
        let values: Vec<Vec<f64>> =
            types(&a, &m).iter().map(|ty| (0..ty.elements()).map(|_| r.unit()).collect()).collect();
        let c: Vec<f64> = (0..values[0].len()).map(|_| r.unit()).collect();
        let (grads, loss) = by_ops(&a, &m, &values, &c);
        let (want, _) = by_loops(&a, &m, &values, &c, &mut seen);
        assert!((loss - want).abs() < 1e-10 * (1.0 + want.abs()), "seed {seed}: {loss} {want}");
        for (n, grad) in grads.iter().enumerate() {
            for _ in 0..6 {
                let i = r.next() as usize % grad.len();
                let at = |h: f64| {
                    let mut moved = values.to_vec();
                    moved[n][i] += h;
                    let (value, balance) = by_loops(&a, &m, &moved, &c, &mut Seen::default());
                    value + m.loss_coeff * balance
                };
                let want = (at(1e-5) - at(-1e-5)) / 2e-5;
                let close = (grad[i] - want).abs() < 1e-6 * (1.0 + want.abs());
                assert!(close, "seed {seed}: {} {i}: {} {want}; {m:?}", NAMES[n], grad[i]);
            }
        }
    }
    assert!(seen.dropped > 10 && seen.loads.contains(&0), "{} {:?}", seen.dropped, seen.loads);
}
