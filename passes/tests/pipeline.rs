//! Whole models through all phases: every phase computes what the one before it did, the gradient
//! is the derivative, and the optimizer is AdamW.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{Random, arch, inputs, llama, moe};
use neoxc_ir::cluster::Machine;
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::target::Target;
use neoxc_ir::{Module, text, verify};
use neoxc_models::arch::{
    Arch, Attention, Capacity, Moe, Norm, NormPlace, Positions, QkNorm, Router,
};
use neoxc_models::blocks::activations::Activation;
use neoxc_passes::PassCx;
use neoxc_passes::assign_stages::Partition;
use neoxc_passes::pass::Degrees;
use neoxc_passes::pipeline::{Phase, run_phase};
use neoxc_passes::place_memory::{self, Place};
use neoxc_passes::schedule_pipeline::Kind;

fn variants() -> Vec<(&'static str, Arch)> {
    let a = arch();
    let m = moe();
    let dropping = Capacity { train_factor: 0.9, eval_factor: 1.6, minimum: 1 };
    let with = |m: Moe, a: Arch| Arch { moe: Some(m), ..a };
    vec![
        ("experts", with(m, a.clone())),
        ("experts dropping", with(Moe { capacity: Some(dropping), ..m }, a.clone())),
        (
            "experts balanced",
            with(
                Moe { capacity: Some(dropping), top_k: 2, loss_coeff: 0.3, ..m },
                Arch { grad_accum: 2, checkpoint: Some(1), parallel_residual: false, ..a.clone() },
            ),
        ),
        (
            "experts in turn",
            with(
                Moe { interval: 2, top_k: 2, loss_coeff: 0.2, ..m },
                Arch { layers: 4, mlp_bias: false, hidden_dropout: 0.2, ..a.clone() },
            ),
        ),
        (
            "experts in groups",
            with(
                Moe { interval: 2, router: Router::Sinkhorn, ..m },
                Arch { layers: 4, checkpoint: Some(4), ..a.clone() },
            ),
        ),
        ("parallel", a.clone()),
        (
            "sequential",
            Arch { parallel_residual: false, activation: Activation::GeluTanh, ..a.clone() },
        ),
        ("tied", Arch { tied: true, ..a.clone() }),
        ("llama", llama()),
        (
            "llama on one key head",
            Arch {
                kv_heads: Some(1),
                tied: true,
                attention_dropout: 0.2,
                attention_bias: true,
                activation: Activation::Gelu,
                checkpoint: Some(1),
                grad_accum: 2,
                ..llama()
            },
        ),
        (
            "mish without a gate",
            Arch { activation: Activation::Mish, gated: false, kv_heads: None, ..llama() },
        ),
        ("norms of heads", Arch { qk_norm: QkNorm::Head, head_dim: 4, ..llama() }),
        (
            "norms after branches",
            Arch { qk_norm: QkNorm::Width, norm_place: NormPlace::After, layers: 1, ..llama() },
        ),
        ("norms around", Arch { norm_place: NormPlace::Around, shared_norm: true, ..a.clone() }),
        (
            "scale norms and sines",
            Arch { norm: Norm::ScaleNorm, positions: Positions::Sinusoidal, ..a.clone() },
        ),
        (
            "norms without weights",
            Arch { norm: Norm::NonParametric, embedding_scale: 3.0, tied: true, ..a.clone() },
        ),
        ("zero-centred", Arch { zero_centred: true, qk_norm: QkNorm::Head, ..llama() }),
        (
            "zero-centred layer norms",
            Arch {
                zero_centred: true,
                positions: Positions::Learned { rows: 11 },
                position_offset: 3,
                ..a.clone()
            },
        ),
        (
            "two rotary bases",
            Arch {
                attention: vec![Attention::Sliding],
                window: Some(2),
                sliding_base: Some(10.0),
                query_scalar: Some(3),
                norm_place: NormPlace::Around,
                zero_centred: true,
                ..llama()
            },
        ),
        ("softsign", Arch { activation: Activation::Softsign, ..a.clone() }),
        ("relu", Arch { activation: Activation::Relu, ..a.clone() }),
        ("shared_norm", Arch { shared_norm: true, ..a.clone() }),
        ("learned", Arch { positions: Positions::Learned { rows: 8 }, ..a.clone() }),
        ("none", Arch { positions: Positions::None, norm_bias: false, ..a.clone() }),
        ("no_bias", Arch { attention_bias: false, mlp_bias: false, ..a.clone() }),
        ("accumulate", Arch { grad_accum: 3, ..a.clone() }),
        ("checkpoint", Arch { checkpoint: Some(1), layers: 3, ..a.clone() }),
        ("groups", Arch { checkpoint: Some(2), layers: 6, grad_accum: 2, ..a.clone() }),
        ("one group", Arch { checkpoint: Some(3), layers: 3, tied: true, ..a.clone() }),
        (
            "dropout",
            Arch { hidden_dropout: 0.3, attention_dropout: 0.2, grad_accum: 2, ..a.clone() },
        ),
        ("hidden", Arch { hidden_dropout: 0.5, parallel_residual: false, ..a.clone() }),
        ("weights", Arch { attention_dropout: 0.5, checkpoint: Some(2), layers: 4, ..a }),
    ]
}

fn same(a: &[Tensor], b: &[Tensor], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        for (p, q) in x.data.iter().zip(&y.data) {
            assert!((p - q).abs() < 1e-9 * (1.0 + p.abs()), "{what}: result {i}: {p} {q}");
        }
    }
}

/// Logits of the tests' models take 44 bytes a token: chunks of two tokens, so that there are several.
const CX: PassCx = PassCx {
    target: Target::X86Native,
    machine: Machine::of(Target::X86Native),
    overlap: true,
    chunk_bytes: 100,
    degrees: Degrees::ONE,
    zero_stage: 0,
    sequence_parallel: false,
    expert_tensor: false,
    schedule: Kind::OneForwardOneBackward,
    chunks: 1,
    partition: Partition::Layers,
};

fn through(m: &mut Module, phase: Phase) -> Vec<String> {
    let reports = run_phase(m, phase, &CX).unwrap_or_else(|e| panic!("{e}"));
    let printed = text::print(m);
    let parsed = text::parse(&printed).unwrap();
    assert!(&parsed == m, "{} does not round-trip", phase.name());
    verify(&parsed).unwrap();
    reports.into_iter().flat_map(|(_, r)| r.notes).collect()
}

#[test]
fn fused_forms_are_found() {
    for (name, a) in variants() {
        let mut m = common::build(&a).unwrap();
        let mut r = Random(5);
        let (x, y) = (inputs(&m, "loss", &mut r), inputs(&m, "logits", &mut r));
        let (want, want_logits) = (run(&m, "loss", &x).unwrap(), run(&m, "logits", &y).unwrap());
        let notes = through(&mut m, Phase::Rewritten);
        let count = |f: &str, op: &str| {
            m.function(f).unwrap().ops.iter().filter(|o| o.kind.name() == op).count()
        };
        // Two norms of one stream without weights are one.
        let one = a.shared_norm || (a.norm == Norm::NonParametric && a.parallel_residual);
        let before = if one { 1 } else { 2 };
        let sites = [(a.norm_place.before(), before), (a.norm_place.after(), 2)];
        // Those of queries and keys too, if they are over one dim; none of scale norms.
        let sites = [sites[0], sites[1], (a.qk_norm == QkNorm::Head, 2)];
        let norms: usize = sites.iter().filter(|s| s.0).map(|s| s.1).sum();
        let norms = if a.norm == Norm::ScaleNorm { 0 } else { norms };
        let attention = if a.attention_dropout > 0.0 { "dropout_attention" } else { "attention" };
        // A router's probabilities stay.
        let routers = a.moe.map_or(0, |m| usize::from(m.router == Router::TopK || m.top_k > 1));
        let norm = if a.norm == Norm::RmsNorm { "rms_norm" } else { "layer_norm" };
        assert_eq!(count("block", norm), norms * a.period().len(), "{name}: {notes:?}");
        assert_eq!(count("block", attention), a.period().len(), "{name}: {notes:?}");
        assert_eq!(count("block", "softmax"), routers, "{name}");
        assert_eq!(count("loss", "linear_cross_entropy"), 1, "{name}: {notes:?}");
        same(&want, &run(&m, "loss", &x).unwrap(), name);
        same(&want_logits, &run(&m, "logits", &y).unwrap(), name);
    }
}

#[test]
fn the_gradient_is_the_derivative() {
    for (name, a) in variants() {
        // A loss that no value carries is tested with whole layers of experts (`experts.rs`).
        let moe = a.moe.map(|m| Moe { loss_coeff: 0.0, ..m });
        let mut m = common::build(&Arch { grad_accum: 1, moe, ..a }).unwrap();
        through(&mut m, Phase::Rewritten);
        let forward = m.clone();
        through(&mut m, Phase::Grad);
        let step = m.function("micro_step").unwrap().clone();
        let mut r = Random(9);
        let eval = forward.function("loss").unwrap().clone();
        let x = inputs(&forward, "loss", &mut r);
        let by_name = |f: &neoxc_ir::Function, i: usize| f.values[f.params[i].index()].name.clone();
        let params: Vec<usize> = (0..eval.params.len())
            .filter(|i| eval.param_attrs[*i].get("neox.param").is_some())
            .collect();
        let operands: Vec<Tensor> = (0..step.params.len())
            .map(|i| {
                let at = (0..eval.params.len()).find(|j| by_name(&eval, *j) == by_name(&step, i));
                match at {
                    Some(j) => x[j].clone(),
                    None => Tensor::fill(step.ty(step.params[i]).clone(), 0.0),
                }
            })
            .collect();
        let out = run(&m, "micro_step", &operands).unwrap();
        for (g, p) in out.iter().zip(&params) {
            // A few elements of each tensor.
            for _ in 0..4 {
                let e = r.next() as usize % x[*p].data.len();
                let mut moved = x.clone();
                let h = 1e-5;
                moved[*p].data[e] += h;
                let up = run(&forward, "loss", &moved).unwrap()[0].data[0];
                moved[*p].data[e] -= 2.0 * h;
                let down = run(&forward, "loss", &moved).unwrap()[0].data[0];
                let want = (up - down) / (2.0 * h);
                let got = g.data[e];
                assert!(
                    (want - got).abs() < 1e-7 * (1.0 + want.abs()),
                    "{name} {p} {e}: {want} {got}"
                );
            }
        }
    }
}

/// Dropout is for training: evaluation and generation are the same programs as without.
#[test]
fn only_training_drops() {
    let a = Arch { hidden_dropout: 0.5, attention_dropout: 0.5, ..arch() };
    let mut with = common::build(&a).unwrap();
    let mut without = common::build(&arch()).unwrap();
    let mut r = Random(3);
    let x = inputs(&with, "loss", &mut r);
    let loss = run(&with, "loss", &x).unwrap();
    for phase in [Phase::Rewritten, Phase::Grad, Phase::Sharded, Phase::Fused] {
        through(&mut with, phase);
        through(&mut without, phase);
    }
    let text = |m: &Module, name: &str| {
        let mut text = text::print_function(m.function(name).unwrap());
        // Kernels and bodies have other names.
        let ops = m.function(name).unwrap().ops.iter();
        for callee in ops.filter_map(|o| o.attrs.symbol("callee")) {
            text = text.replace(callee, "callee");
        }
        text
    };
    for name in ["eval_step", "logits"] {
        assert_eq!(text(&with, name), text(&without, name), "{name}");
        let x = inputs(&with, name, &mut Random(8));
        assert_eq!(run(&with, name, &x).unwrap(), run(&without, name, &x).unwrap());
    }
    let same = |m: &Module| m.functions.iter().any(|f| text::print_function(f).contains("dropout"));
    assert!(same(&with) && !same(&without));
    let x = inputs(&with, "eval_step", &mut Random(3));
    let eval = run(&with, "eval_step", &x).unwrap();
    assert!((eval[0].data[0] - loss[0].data[0]).abs() > 1e-3, "nothing was dropped");
}

/// Recomputed activations have the masks that they had before: the same program to the bit.
#[test]
fn recomputation_makes_the_same_masks() {
    let step = |checkpoint| {
        let a = Arch {
            hidden_dropout: 0.4,
            attention_dropout: 0.3,
            layers: 4,
            grad_accum: 2,
            checkpoint,
            ..arch()
        };
        let mut m = common::build(&a).unwrap();
        through(&mut m, Phase::Rewritten);
        through(&mut m, Phase::Grad);
        let x = inputs(&m, "train_step", &mut Random(4));
        run(&m, "train_step", &x).unwrap()
    };
    let want = step(None);
    assert_eq!(step(Some(1)), want);
    assert_eq!(step(Some(2)), want);
}

#[test]
fn every_phase_computes_the_same_step() {
    for (name, a) in variants() {
        let mut m = common::build(&a).unwrap();
        through(&mut m, Phase::Rewritten);
        through(&mut m, Phase::Grad);
        let mut r = Random(21);
        let x = inputs(&m, "train_step", &mut r);
        let (e, l) = (inputs(&m, "eval_step", &mut r), inputs(&m, "logits", &mut r));
        let want = run(&m, "train_step", &x).unwrap();
        let (eval, logits) = (run(&m, "eval_step", &e).unwrap(), run(&m, "logits", &l).unwrap());
        for phase in [Phase::Sharded, Phase::Fused, Phase::Scheduled] {
            through(&mut m, phase);
            let chunks = |f: &neoxc_ir::Function| {
                let loops = f.ops.iter().filter(|o| o.attrs.str("dim") == Some("chunk"));
                loops.map(|o| o.attrs.int("count").unwrap()).collect::<Vec<_>>()
            };
            if phase == Phase::Fused {
                let all: Vec<i64> = m.functions.iter().flat_map(chunks).collect();
                assert_eq!(all, [5, 5], "{name}: two tokens a chunk in training and evaluation");
            }
            let what = format!("{name} after {}", phase.name());
            same(&want, &run(&m, "train_step", &x).unwrap(), &what);
            same(&eval, &run(&m, "eval_step", &e).unwrap(), &what);
            same(&logits, &run(&m, "logits", &l).unwrap(), &what);
        }
    }
}

#[test]
fn the_optimizer_is_adamw_with_clipping() {
    let mut m = common::build(&arch()).unwrap();
    through(&mut m, Phase::Rewritten);
    through(&mut m, Phase::Grad);
    let f = m.function("train_step").unwrap().clone();
    let x = inputs(&m, "train_step", &mut Random(33));
    let out = run(&m, "train_step", &x).unwrap();
    let params: Vec<usize> =
        (0..f.params.len()).filter(|i| f.param_attrs[*i].get("neox.param").is_some()).collect();
    let n = params.len();
    let norm = out[3 * n + 1].data[0];
    let scale = (0.5 / (norm + 1e-6)).min(1.0);
    // The gradient, recovered from the first moment: m' = 0.9 m + 0.1 g·scale.
    let mut squares = 0.0;
    for (k, i) in params.iter().enumerate() {
        let decay = if f.param_attrs[*i].flag("neox.decay") { 0.1 } else { 0.0 };
        for e in 0..x[*i].data.len() {
            let (p, m0, v0) = (x[*i].data[e], x[n + k].data[e], x[2 * n + k].data[e]);
            let m1 = out[n + k].data[e];
            let g = (m1 - 0.9 * m0) / 0.1;
            squares += (g / scale) * (g / scale);
            let v1 = 0.95 * v0 + 0.05 * g * g;
            assert!((out[2 * n + k].data[e] - v1).abs() < 1e-12);
            let want = p * (1.0 - 0.01 * decay) - 0.01 * (m1 / 0.4) / ((v1 / 0.4).sqrt() + 1e-8);
            assert!((out[k].data[e] - want).abs() < 1e-12, "{want} {}", out[k].data[e]);
        }
    }
    assert!((squares.sqrt() - norm).abs() < 1e-9 * norm, "{} {norm}", squares.sqrt());
}

/// Three micro-batches in one step give the mean of the gradients that each gives alone, and the mean of
/// their losses; with recomputation too.
#[test]
fn accumulated_gradients_are_the_mean_of_single_ones() {
    for checkpoint in [None, Some(2)] {
        let base = Arch { layers: 4, checkpoint, ..arch() };
        let build = |a: &Arch| common::build_with(a, common::OPTIMIZER, 0.0).unwrap();
        let mut whole = build(&Arch { grad_accum: 3, ..base.clone() });
        let mut single = build(&base);
        for m in [&mut whole, &mut single] {
            through(m, Phase::Rewritten);
            through(m, Phase::Grad);
        }
        let f = whole.function("train_step").unwrap().clone();
        let step = single.function("micro_step").unwrap().clone();
        let x = inputs(&whole, "train_step", &mut Random(71));
        let name = |f: &neoxc_ir::Function, i: usize| {
            f.values[f.params[i].index()].name.as_deref().unwrap_or_default().to_string()
        };
        let out = run(&whole, "train_step", &x).unwrap();
        let params: Vec<usize> =
            (0..f.params.len()).filter(|i| f.param_attrs[*i].get("neox.param").is_some()).collect();
        let n = params.len();
        let (mut sums, mut losses): (Vec<Vec<f64>>, f64) = (vec![], 0.0);
        for micro in 0..3 {
            let operands: Vec<Tensor> = (0..step.params.len())
                .map(|i| {
                    let ty = step.ty(step.params[i]).clone();
                    let Some(j) = (0..f.params.len()).find(|j| name(&f, *j) == name(&step, i))
                    else {
                        return Tensor::fill(ty, 0.0);
                    };
                    let size = ty.elements();
                    match f.param_attrs[j].str("neox.role") {
                        Some("batch") => {
                            let part = x[j].data[micro * size..(micro + 1) * size].to_vec();
                            Tensor::new(ty, part)
                        }
                        _ => x[j].clone(),
                    }
                })
                .collect();
            let got = run(&single, "micro_step", &operands).unwrap();
            losses += got[n].data[0] / 3.0;
            if micro == 0 {
                sums = got[..n].iter().map(|g| vec![0.0; g.data.len()]).collect();
            }
            for (sum, g) in sums.iter_mut().zip(&got) {
                sum.iter_mut().zip(&g.data).for_each(|(s, g)| *s += g / 3.0);
            }
        }
        for (k, sum) in sums.iter().enumerate() {
            for (e, want) in sum.iter().enumerate() {
                // m' = 0.9 m + 0.1 g without clipping.
                let g = (out[n + k].data[e] - 0.9 * x[n + k].data[e]) / 0.1;
                assert!((g - want).abs() < 1e-10 * (1.0 + g.abs()), "{k} {e}: {g} {want}");
            }
        }
        assert!((out[3 * n].data[0] - losses).abs() < 1e-12);
    }
}

#[test]
fn compile_time_does_not_grow_with_layers() {
    let size = |layers| {
        let mut m = common::build(&Arch { layers, ..arch() }).unwrap();
        for phase in [Phase::Rewritten, Phase::Grad, Phase::Sharded, Phase::Fused, Phase::Scheduled]
        {
            run_phase(&mut m, phase, &CX).unwrap();
        }
        m.functions.iter().map(|f| f.ops.len()).sum::<usize>()
    };
    assert_eq!(size(2), size(50));
}

/// A value moved onto another's bytes is noticed: each place of a loop body is put where a saved
/// activation lives.
#[test]
fn the_placement_check_refuses_overlaps() {
    let mut m = common::build(&arch()).unwrap();
    for phase in [Phase::Rewritten, Phase::Grad, Phase::Sharded, Phase::Fused, Phase::Scheduled] {
        run_phase(&mut m, phase, &CX).unwrap();
    }
    let check = place_memory::check;
    check(&m, "train_step").unwrap();
    let body = m.functions.iter().position(|f| f.name.ends_with("block.fwd")).unwrap();
    let places = |m: &Module, op: usize| -> Vec<String> {
        let list = m.functions[body].ops[op].attrs.strs("neox.place").unwrap();
        list.into_iter().map(str::to_string).collect()
    };
    let ops = m.functions[body].ops.len();
    let saved = (0..ops).flat_map(|i| places(&m, i)).find(|p| p.contains("+layer*")).unwrap();
    let fixed = saved.split("+layer*").next().unwrap().to_string();
    let mut refused = 0;
    for op in 0..ops {
        let mut moved = m.clone();
        let new: Vec<String> = places(&m, op).iter().map(|_| fixed.clone()).collect();
        if places(&m, op).iter().any(|p| p.contains("+layer*")) {
            continue;
        }
        moved.functions[body].ops[op].attrs.set("neox.place", neoxc_ir::Attr::strs(&new));
        assert!(check(&moved, "train_step").is_err(), "op {op} over {fixed}");
        refused += 1;
    }
    assert!(refused > 0);
}

/// What is done when gradients are written may have their bytes before, in a step of one micro-batch; nothing may
/// behind that.
#[test]
fn gradients_come_where_activations_were() {
    let of = |grad_accum: usize| {
        let mut m = common::build(&Arch { grad_accum, ..arch() }).unwrap();
        for phase in Phase::ALL.into_iter().skip(1).take(5) {
            run_phase(&mut m, phase, &CX).unwrap();
        }
        m
    };
    // The first byte of the arena is the gradients' first.
    let end = |m: &Module| {
        assert_eq!(m.attrs.int("neox.grads"), Some(0));
        let step = m.function("train_step").unwrap();
        let params = step.params.iter().zip(&step.param_attrs);
        let weights = params.filter(|(_, a)| a.get("neox.param").is_some());
        weights.map(|(p, _)| step.ty(*p).bytes().div_ceil(64) * 64).sum::<usize>() as u64
    };
    let arena = |f: &neoxc_ir::Function, i: usize| {
        let places = f.ops[i].attrs.strs("neox.place").unwrap();
        let places = places.into_iter().map(|p| Place::parse(p).unwrap());
        places.filter(|p| p.segment == "arena").map(|p| p.offset).min()
    };
    let shared = |m: &Module| {
        let inside = |f: &neoxc_ir::Function| {
            (0..f.ops.len()).filter(|i| arena(f, *i).is_some_and(|at| at < end(m))).count()
        };
        // Evaluation and text have the arena to themselves.
        let step = |f: &&neoxc_ir::Function| f.name.starts_with("train_step");
        m.functions
            .iter()
            .filter(|f| f.attrs.get("neox.kernel").is_none())
            .filter(step)
            .map(inside)
            .sum::<usize>()
    };
    assert!(shared(&of(1)) > 0);
    assert_eq!(shared(&of(2)), 0);

    // Behind everything that reads gradients, zeros come where one is, and then where nothing is.
    let m = of(1);
    let zeros_at = |place: String| {
        let mut late = m.clone();
        let step = late.functions.iter().position(|f| f.name == "train_step").unwrap();
        let step = &mut late.functions[step];
        let mut op = step.ops.iter().find(|op| op.operands.is_empty()).unwrap().clone();
        op.results = vec![step.add_value(step.ty(op.results[0]).clone())];
        op.attrs.set("neox.place", neoxc_ir::Attr::strs(&[place]));
        step.ops.push(op);
        place_memory::check(&late, "train_step")
    };
    let told = zeros_at("grads+0".into()).unwrap_err().to_string();
    assert!(told.contains("which is to stay"), "{told}");
    zeros_at(format!("arena+{}", m.attrs.int("neox.arena").unwrap())).unwrap();
}
