//! Random models on random layouts, odd sizes among them: losses, gradient norms and weights equal one
//! rank's. `layouts.rs` has the full table of a few models; `PROPTEST_CASES` sets the number of cases.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::path::Path;

use common::{data, far, floats, plan, run};
use neoxc_runtime::checkpoint::Reader;
use neoxc_runtime::train::StepReport;
use proptest::prelude::*;

const STEPS: u64 = 5;

/// A layout, and a model that it divides.
#[derive(Debug, Clone)]
struct Case {
    /// Keys of the model, the same on one rank.
    model: Vec<String>,
    /// Micro-batches of a step on all data ranks.
    micro: usize,
    /// Ranks that divide the micro-batches: data and expert ranks.
    data: usize,
    /// Keys of the layout, without the accumulation steps.
    layout: Vec<String>,
}

/// Models of families, by the keys that differ from a Llama whose heads are `heads`.
const FAMILIES: [&[&str]; 10] = [
    &["model_family=llama"],
    &["model_family=mistral", "sliding_window_width=5"],
    &["model_family=qwen2", "use_bias_in_attn_linear=true", "use_bias_in_attn_dense=false"],
    &["model_family=qwen3", "qk_norm=head", "head_dim=12"],
    &["model_family=olmo2", "qk_norm=width", "norm_place=after"],
    &[
        "model_family=gemma3_text",
        "qk_norm=head",
        "norm_place=around",
        "zero_centred_norms=true",
        "activation=geglu_tanh",
        "query_pre_attn_scalar=3",
        "sliding_window_width=2",
        "attention_config=[[[sliding,global],all]]",
        "sliding_rotary_emb_base=100",
    ],
    &[
        "model_family=falcon",
        "norm=layernorm",
        "activation=gelu",
        "use_bias_in_norms=true",
        "gpt_j_residual=true",
        "bias_gelu_fusion=false",
    ],
    &[
        "norm=layernorm",
        "gpt_j_residual=true",
        "gpt_j_tied=true",
        "no_weight_tying=false",
        "embedding_scale=4.0",
    ],
    &[
        "model_family=mixtral",
        "moe_num_experts=2",
        "moe_top_k=2",
        "moe_router_type=topk",
        "moe_norm_topk_prob=true",
        "moe_loss_coeff=0.01",
    ],
    &[
        "model_family=qwen3_moe",
        "qk_norm=head",
        "head_dim=12",
        "moe_num_experts=2",
        "moe_top_k=2",
        "moe_router_type=topk",
        "moe_intermediate_size=12",
    ],
];

/// A model of one of the families in the place of GPT-NeoX's options; keys that come later win.
fn of_family(family: &[&str], heads: usize) -> Vec<String> {
    let llama = [
        "norm=rmsnorm",
        "rms_norm_epsilon=1.0e-5",
        "activation=swiglu",
        "pos_emb=rotary",
        "rotary_pct=1.0",
        "gpt_j_residual=false",
        "bias_gelu_fusion=false",
        "hidden_dropout=0",
        "use_bias_in_norms=false",
        "use_bias_in_attn_linear=false",
        "use_bias_in_mlp=false",
    ];
    let kv = format!("num_kv_heads={heads}");
    let twice =
        [format!("num_attention_heads={}", 2 * heads), format!("hidden_size={}", 16 * heads), kv];
    // The embedding's scale is the root of the width.
    let root = family.contains(&"zero_centred_norms=true");
    let scale = root.then(|| format!("embedding_scale={:?}", ((16 * heads) as f64).sqrt()));
    llama.iter().chain(family).map(|k| k.to_string()).chain(twice).chain(scale).collect()
}

fn case() -> impl Strategy<Value = Case> {
    let mesh = (1usize..4, 1usize..4, 1usize..3, 1usize..3, 1usize..4)
        .prop_filter("at most eight ranks, at least two", |(p, d, e, c, t)| {
            (2..=8).contains(&(p * d * e * c * t))
        });
    let shape = (1usize..3, 1usize..4, 1usize..3, 1usize..3, 1usize..3, 1usize..3);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0usize..3);
    let layout = (0usize..4, any::<bool>(), 0usize..4, 0usize..4, 0usize..3);
    let dropout = (0usize..3, 0usize..3);
    let family = 0..2 * FAMILIES.len();
    let more = (dropout, 0usize..3, any::<bool>(), family);
    (mesh, shape, flags, layout, more).prop_map(|(mesh, shape, flags, layout, more)| {
        let (dropout, experts, expert_tensor, family) = more;
        let (pipe, data, expert, context, tensor) = mesh;
        // Every other model is of a family; only experts can be divided over expert ranks.
        let has_experts = |f: &&&[&str]| f.iter().any(|k| k.starts_with("moe_num_experts"));
        let family = FAMILIES.get(family).filter(|f| expert == 1 || has_experts(f));
        let experts = match family {
            Some(_) => 0,
            None if expert > 1 => experts.max(1),
            None => experts,
        };
        let (layers, per_rank, columns, tokens, batch, steps) = shape;
        let (parallel, tied, tanh, checkpoint, positions) = flags;
        let (zero, sequence, schedule, method, uneven) = layout;
        let interleaved = pipe > 1 && schedule == 3;
        let heads = tensor * context * per_rank;
        let data = data * expert;
        // Chunks take turns in groups of as many micro-batches as there are stages.
        let micro = data * steps * if interleaved { pipe } else { pipe.min(2) };
        // Chunks have equally many layers; whole stages need not.
        let more_layers = if interleaved || pipe == 1 { 0 } else { uneven.min(pipe - 1) };
        let mut model = vec![
            format!("num_layers={}", pipe * layers + more_layers),
            format!("num_attention_heads={heads}"),
            format!("hidden_size={}", heads * 8),
            format!("intermediate_size={}", tensor * (5 * columns + 2)),
            format!("seq_length={}", tensor * context * (2 * tokens + 1)),
            "max_position_embeddings=128".into(),
            format!("train_micro_batch_size_per_gpu={batch}"),
            format!("pos_emb={}", ["rotary", "learned", "none"][positions]),
            format!("gpt_j_residual={parallel}"),
            format!("no_weight_tying={}", !tied),
            format!("bias_gelu_fusion={tanh}"),
            "optimizer.params.lr=0.002".into(),
            // So that a gradient that is all rounding moves nothing: Adam divides by its size.
            "optimizer.params.eps=1.0e-5".into(),
        ];
        let rates = ["0", "0.1", "0.5"];
        model.push(format!("hidden_dropout={}", rates[dropout.0]));
        model.push(format!("attention_dropout={}", rates[dropout.1]));
        if let Some(family) = family {
            let keys = of_family(family, heads);
            let name = |k: &str| k.split('=').next().map(str::to_string);
            model.retain(|old| !keys.iter().any(|k| name(k) == name(old)));
            model.extend(keys);
            model.retain(|k| !k.starts_with("intermediate_size"));
            model.push(format!("intermediate_size={}", 3 * tensor * (5 * columns + 2)));
            // Layers are of two kinds in turn.
            if model.iter().any(|k| k.starts_with("attention_config")) {
                model.retain(|k| !k.starts_with("num_layers"));
                model.push(format!("num_layers={}", 2 * (pipe * layers + more_layers)));
            }
        }
        // Every token goes to every expert, and has room there: rounding has no choice to change.
        if experts > 0 {
            model.extend(["moe_num_experts=2".into(), "moe_top_k=2".into()]);
        }
        if experts == 2 {
            let keys = ["moe_token_dropping=true", "moe_train_capacity_factor=1.0"];
            model.extend(keys.map(String::from));
            model.extend(["moe_router_type=topk".into(), "moe_loss_coeff=0.01".into()]);
        }
        if checkpoint {
            model.push("checkpoint_activations=true".into());
        }
        let schedules = ["1f1b", "gpipe", "zb-h1", "interleaved"];
        let mut layout = vec![
            format!("world_size={}", pipe * data * context * tensor),
            format!("pipe_parallel_size={pipe}"),
            format!("context_parallel_size={context}"),
            format!("model_parallel_size={tensor}"),
            format!("zero_optimization.stage={zero}"),
            format!("sequence_parallel={sequence}"),
            format!("pipe_schedule={}", schedules[if pipe > 1 { schedule } else { 0 }]),
        ];
        if experts > 0 || family.as_ref().is_some_and(has_experts) {
            layout.push(format!("moe_expert_parallel_size={expert}"));
            layout.push(format!("enable_expert_tensor_parallelism={expert_tensor}"));
        }
        if interleaved {
            layout.push(format!("virtual_pipeline_chunks={layers}"));
        } else if pipe > 1 {
            // GPT-NeoX's modules, counted alike, leave the last of more stages without a layer, or of two with few.
            let methods = ["type:transformer|mlp", "parameters", "balanced", "uniform"];
            let uniform = pipe == 2 && pipe * layers + more_layers > 2;
            let method = methods[if uniform { method } else { method % 3 }];
            layout.push(format!("pipe_partition_method={method}"));
        }
        Case { model, micro, data, layout }
    })
}

fn trained(folder: &Path, name: &str, sets: &[String]) -> (Vec<StepReport>, Reader) {
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let save = folder.join(name);
    let reports = run(&plan(folder, &sets), &save, STEPS, 2, false);
    (reports, Reader::open(&save.join(format!("global_step{STEPS}"))).unwrap())
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let accumulate = |ranks: usize| {
        let steps = format!("gradient_accumulation_steps={}", case.micro / ranks);
        [case.model.clone(), vec![steps]].concat()
    };
    let (want, one) = trained(folder.path(), "one", &accumulate(1));
    let sets = [accumulate(case.data), case.layout.clone()].concat();
    let (got, many) = trained(folder.path(), "many", &sets);
    for (a, b) in got.iter().zip(&want) {
        let (loss, norm) = (a.loss / b.loss - 1.0, a.grad_norm / b.grad_norm - 1.0);
        prop_assert!(loss.abs() < 2e-5, "step {}: loss {} {}", a.step, a.loss, b.loss);
        prop_assert!(norm.abs() < 1e-4, "step {}: norm {} {}", a.step, a.grad_norm, b.grad_norm);
        prop_assert_eq!(&a.samples, &b.samples);
    }
    let (mut x, mut y) = (vec![], vec![]);
    for name in one.manifest.tensors.keys().filter(|n| !n.starts_with("exp_avg")) {
        // Softmax does not see a constant added to all keys: the key's bias is noise.
        if name.contains("query_key_value.bias") {
            continue;
        }
        many.read(name, &mut x).unwrap();
        one.read(name, &mut y).unwrap();
        let far = far(&floats(&x), &floats(&y));
        prop_assert!(far < 2e-5, "{name} is {far:.1e} away");
    }
    Ok(())
}

#[test]
fn random_layouts_train_random_models_the_same() {
    // The seed changes with the commit, so that over time much is seen; a failure names its case.
    let head = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output();
    let mut seed = [7u8; 32];
    seed.iter_mut().zip(head.map(|o| o.stdout).unwrap_or_default()).for_each(|(s, b)| *s = b);
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 20,
        ..ProptestConfig::default()
    };
    let random =
        prop::test_runner::TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &seed);
    let mut runner = prop::test_runner::TestRunner::new_with_rng(config, random);
    runner.run(&case(), |c| check(&c)).unwrap_or_else(|e| panic!("{e}"));
}
