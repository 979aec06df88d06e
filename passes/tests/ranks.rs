//! One rank's program, on all ranks in step, computes what the whole program computes: for random
//! models, every mesh of data × tensor ranks, training, evaluation and logits.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{Random, arch, inputs, moe, without_latency};
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::eval_ranks::{group, run_ranks};
use neoxc_ir::target::Target;
use neoxc_ir::{Attrs, Module, Output, TensorType, text, verify};
use neoxc_models::arch::{Arch, Attention, Capacity, Moe, Norm, Positions};
use neoxc_models::blocks::activations::Activation;
use neoxc_passes::PassCx;
use neoxc_passes::pass::Degrees;
use neoxc_passes::pipeline::{Phase, run_phase};

/// The part of `whole` that `rank` has of a parameter with this type and layout.
fn part(
    whole: &Tensor,
    local: &TensorType,
    attrs: &Attrs,
    axes: &[(String, usize)],
    rank: usize,
) -> Tensor {
    let layout = attrs.strs("neox.layout").unwrap_or_default();
    let start: Vec<usize> = local
        .dims
        .iter()
        .enumerate()
        .map(|(i, d)| {
            let axis = layout.get(i).copied().unwrap_or_default();
            let at = group(axes, rank, axis).iter().position(|r| *r == rank).unwrap();
            at * d.size
        })
        .collect();
    Tensor::from_fn(local.clone(), |i| {
        let at: Vec<usize> = i.iter().zip(&start).map(|(i, s)| i + s).collect();
        whole.at(&at)
    })
}

fn compare(before: &Module, after: &Module, entry: &str, d: Degrees, r: &mut Random, what: &str) {
    let axes: Vec<(String, usize)> = d.axes().map(|(n, s)| (n.to_string(), s)).to_vec();
    let x = inputs(before, entry, r);
    let want = run(before, entry, &x).unwrap();
    let f = after.function(entry).unwrap();
    let parts: Vec<Vec<Tensor>> = (0..d.ranks())
        .map(|rank| {
            f.params
                .iter()
                .zip(&f.param_attrs)
                .zip(&x)
                .map(|((p, a), t)| part(t, f.ty(*p), a, &axes, rank))
                .collect()
        })
        .collect();
    let got = run_ranks(after, entry, &axes, &parts).unwrap();
    for (rank, got) in got.iter().enumerate() {
        let outputs = Output::all(f).unwrap();
        for (i, (want, got)) in want.iter().zip(got).enumerate() {
            // State comes back as it went in; everything else is whole.
            let state = outputs[i].replaces(f);
            let attrs = state.map_or(Attrs::new(), |p| f.param_attrs[p].clone());
            let want = part(want, &got.ty, &attrs, &axes, rank);
            for (a, b) in want.data.iter().zip(&got.data) {
                let close = (a - b).abs() < 1e-9 * (1.0 + a.abs());
                assert!(close, "{what} {entry} rank {rank} result {i}: {a} {b}");
            }
        }
    }
}

#[test]
fn every_mesh_computes_the_same() {
    for seed in 0..8 {
        let mut r = Random(seed);
        let mut pick = |n: u64| (r.next() % n) as usize;
        let heads = [2, 4][pick(2)];
        let a = Arch {
            batch: 1 + pick(2),
            grad_accum: 4,
            heads,
            seq: [4, 8][pick(2)],
            head_dim: 2,
            embed: 2 * heads,
            ffn: [4, 8, 12][pick(3)],
            layers: 2,
            checkpoint: [None, Some(1), Some(2)][pick(3)],
            positions: [
                Positions::None,
                Positions::Learned { rows: 8 },
                Positions::Rotary { dims: 2, base: 1e4, scaling: None },
                Positions::Sinusoidal,
            ][pick(4)],
            norm: [Norm::LayerNorm, Norm::LayerNorm, Norm::ScaleNorm, Norm::NonParametric][pick(4)],
            zero_centred: pick(4) == 0,
            embedding_scale: [1.0, 2.0][pick(2)],
            parallel_residual: pick(2) == 0,
            shared_norm: pick(3) == 0,
            activation: if pick(2) == 0 { Activation::GeluTanh } else { Activation::Gelu },
            norm_bias: pick(2) == 0,
            attention_bias: pick(2) == 0,
            mlp_bias: pick(2) == 0,
            tied: pick(2) == 0,
            hidden_dropout: [0.0, 0.4][pick(2)],
            attention_dropout: [0.0, 0.4][pick(2)],
            // Ids go up to 10, so that the last part of 12 has some.
            vocab: [11, 12, 12][pick(3)],
            // Layers without a window rotate by another base.
            attention: vec![Attention::Sliding; pick(3)],
            window: Some(2),
            sliding_base: [None, Some(100.0)][pick(2)],
            ..arch()
        };
        let clip = [0.0, 0.5][pick(2)];
        // Every other model is a Llama.
        let llama = |a: Arch| match seed % 2 {
            0 => a,
            _ => Arch {
                norm: Norm::RmsNorm,
                norm_bias: false,
                kv_heads: (heads > 2).then_some(heads / 2),
                activation: Activation::Silu,
                gated: a.moe.is_none(),
                ..a
            },
        };
        for (data, expert, context, tensor) in [
            (1, 1, 1, 2),
            (2, 1, 1, 1),
            (2, 1, 1, 2),
            (4, 1, 1, 1),
            (1, 1, 1, heads),
            (2, 1, 1, heads),
            (1, 1, 2, 1),
            (2, 1, 4, 1),
            (1, 1, 2, 2),
            (1, 2, 1, 1),
            (2, 3, 1, 1),
            (1, 2, 2, 1),
            (2, 2, 1, 2),
        ] {
            // Dropless experts, experts of limited capacity, none.
            let capacity = Capacity { train_factor: 0.8, eval_factor: 1.5, minimum: 1 };
            let experts =
                Moe { experts: 6, top_k: 1 + seed as usize % 2, loss_coeff: 0.1, ..moe() };
            let moe = [Some(experts), Some(Moe { capacity: Some(capacity), ..experts }), None]
                [(seed as usize) % 3];
            let a = llama(Arch { batch: a.batch * expert, groups: expert, moe, ..a.clone() });
            if !a.key_heads().is_multiple_of(tensor * context) {
                continue;
            }
            let d = Degrees { pipe: 1, data, expert, context, tensor };
            let what = format!("seed {seed}, {d:?}");
            let zero_stage = seed as u8 % 4;
            let sequence_parallel = seed % 3 == 0;
            let expert_tensor = seed % 2 == 0;
            let cx = PassCx {
                degrees: d,
                zero_stage,
                sequence_parallel,
                expert_tensor,
                machine: without_latency(),
                ..PassCx::new(Target::X86V4)
            };
            let mut m = common::build_with(&a, common::OPTIMIZER, clip).unwrap();
            if seed % 3 == 1 {
                common::freeze(&mut m, zero_stage as usize % 2);
            }
            for phase in [Phase::Rewritten, Phase::Grad] {
                run_phase(&mut m, phase, &cx).unwrap();
            }
            let before = m.clone();
            run_phase(&mut m, Phase::Sharded, &cx).unwrap_or_else(|e| panic!("{what}: {e}\n{a:?}"));
            verify(&m).unwrap();
            assert!(text::parse(&text::print(&m)).unwrap() == m);
            for entry in ["train_step", "eval_step", "logits"] {
                compare(&before, &m, entry, d, &mut r, &what);
            }
        }
    }
}
