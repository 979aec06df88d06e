//! Mixture of experts, from the configuration to training: losses fall, runs repeat to the bit and resume,
//! recomputation routes as before, the repository's configurations are complete.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::path::Path;

use common::{data, plan, run};
use neoxc_plan::Plan;
use neoxc_runtime::train::StepReport;

/// Dropless, of limited capacity, and with experts in every second layer.
const MODELS: [&[&str]; 4] = [
    &["moe_num_experts=4", "moe_router_type=topk", "moe_top_k=2"],
    &["moe_num_experts=4", "gpt_j_residual=false", "use_bias_in_mlp=false"],
    &[
        "moe_num_experts=3",
        "moe_router_type=topk",
        "moe_top_k=2",
        "moe_token_dropping=true",
        "moe_train_capacity_factor=0.8",
        "moe_min_capacity=2",
        "moe_loss_coeff=0.02",
    ],
    &["moe_num_experts=5", "moe_expert_interval=2", "num_layers=4", "moe_token_dropping=true"],
];

fn key(r: &[StepReport]) -> Vec<(u64, u32, u32)> {
    r.iter().map(|r| (r.step, r.loss.to_bits(), r.grad_norm.to_bits())).collect()
}

fn with<'a>(model: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [model, more].concat()
}

#[test]
fn training_learns_repeats_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let at = |name: String| folder.path().join(name);
    for (i, model) in MODELS.iter().enumerate() {
        let plan = plan(folder.path(), model);
        let whole = run(&plan, &at(format!("whole{i}")), 6, 2, false);
        assert!((whole[0].loss - (64f32).ln()).abs() < 0.3, "{model:?}: {}", whole[0].loss);
        assert!(whole[5].loss < whole[0].loss - 0.3, "{model:?}: {}", whole[5].loss);
        let threads = run(&plan, &at(format!("threads{i}")), 6, 3, false);
        assert_eq!(key(&whole), key(&threads), "{model:?}");
        let mut halves = run(&plan, &at(format!("parts{i}")), 2, 1, false);
        halves.extend(run(&plan, &at(format!("parts{i}")), 6, 2, true));
        assert_eq!(key(&whole), key(&halves), "{model:?}");
        for file in ["manifest.json", "rank-00000.safetensors"] {
            let read =
                |name: String| std::fs::read(at(name).join("global_step6").join(file)).unwrap();
            assert_eq!(read(format!("whole{i}")), read(format!("parts{i}")), "{model:?}: {file}");
        }
    }
}

#[test]
fn experts_have_names_of_their_layers() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let plan = plan(folder.path(), MODELS[3]);
    let names: Vec<String> = plan.tables.parameters.iter().flat_map(|p| p.names()).collect();
    for layer in 0..4 {
        let has = |what: &str| {
            names.iter().filter(|n| **n == format!("gpt_neox.layers.{layer}.{what}")).count()
        };
        let experts = usize::from(layer % 2 == 0);
        assert_eq!(has("mlp.router.weight"), experts, "{layer}");
        assert_eq!(has("mlp.experts.dense_4h_to_h.weight"), experts, "{layer}");
        assert_eq!(has("mlp.dense_4h_to_h.weight"), 1 - experts, "{layer}");
        assert_eq!(has("attention.dense.weight"), 1, "{layer}");
    }
    let up = |p: &&neoxc_plan::Parameter| p.name.ends_with("experts.dense_h_to_4h.weight");
    let up = plan.tables.parameters.iter().find(up).unwrap();
    assert_eq!(up.shape, [5, 96, 24]);
}

/// What is recomputed routes as it did: the same losses to rounding, less memory.
#[test]
fn recomputation_changes_memory_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    for i in [0, 2] {
        let model = MODELS[i];
        let plain = plan(folder.path(), &with(model, &["num_layers=4"]));
        let again = with(model, &["num_layers=4", "checkpoint_activations=true"]);
        let again = plan(folder.path(), &again);
        let losses = |plan: &Plan, name: String| -> Vec<f32> {
            run(plan, &folder.path().join(name), 4, 2, false).iter().map(|r| r.loss).collect()
        };
        let (a, b) = (losses(&plain, format!("a{i}")), losses(&again, format!("b{i}")));
        for (x, y) in a.iter().zip(&b) {
            assert!((x - y).abs() < 1e-5, "{model:?}: {x} {y}");
        }
        let memory = |p: &Plan| p.tables.memory.activations;
        assert!(memory(&again) < memory(&plain), "{model:?}");
    }
}

/// Two ranks along each axis train as one does. Every token goes to both experts, and none is dropped, so
/// that rounding has no choice to change; dropping happens per micro-batch, which data ranks keep whole.
#[test]
fn ranks_train_experts_as_one_does() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let shape = [
        "num_layers=4",
        "num_attention_heads=4",
        "hidden_size=32",
        "seq_length=16",
        "train_batch_size=8",
        "train_micro_batch_size_per_gpu=1",
        "optimizer.params.lr=0.002",
    ];
    let both: &[&str] = &["moe_num_experts=2", "moe_top_k=2", "moe_expert_interval=2"];
    let zero = "zero_optimization={\"stage\": 3}";
    let cases: [(&[&str], &[&str]); 5] = [
        (both, &["pipe_parallel_size=2", "gradient_accumulation_steps=8"]),
        (both, &["model_parallel_size=2", "gradient_accumulation_steps=8"]),
        (both, &["context_parallel_size=2", "gradient_accumulation_steps=8"]),
        (both, &["gradient_accumulation_steps=4", zero]),
        (MODELS[2], &["gradient_accumulation_steps=4"]),
    ];
    for (i, (model, layout)) in cases.into_iter().enumerate() {
        let losses = |name: String, sets: &[&str]| -> Vec<f32> {
            let made = plan(folder.path(), &[&shape[..], model, sets].concat());
            run(&made, &folder.path().join(name), 4, 2, false).iter().map(|r| r.loss).collect()
        };
        let one = losses(format!("one{i}"), &["gradient_accumulation_steps=8"]);
        let two = losses(format!("two{i}"), &with(layout, &["world_size=2"]));
        for (a, b) in one.iter().zip(&two) {
            assert!((a - b).abs() < 2e-5, "{layout:?}: {one:?} {two:?}");
        }
    }
}

/// FLOPs are those of the choices, not of all experts.
#[test]
fn flops_are_those_of_chosen_experts() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let flops = |sets: &[&str]| plan(folder.path(), sets).tables.flops_per_step;
    // Wide enough that matmuls are most of it.
    let base = ["moe_router_type=topk", "num_layers=1", "hidden_size=48"];
    let one = flops(&with(&base, &["moe_num_experts=2", "moe_top_k=1"]));
    let two = flops(&with(&base, &["moe_num_experts=2", "moe_top_k=2"]));
    let eight = ["moe_num_experts=8", "moe_top_k=1"];
    let many = flops(&with(&base, &eight));
    // 4 micro-batches' sequences of 13 tokens through two matrices of 192 × 48, forward and twice backward.
    let choice = (4 * 13 * 2 * 192 * 48 * 2 * 3) as f64;
    // Activations, which backward makes again, biases and moving tokens come on top.
    let more = (two - one) / choice;
    assert!((1.0..1.2).contains(&more), "{one} {two} {choice}");
    // Eight experts have more weights to update than two, but twice the tokens cost them only the router more.
    assert!(many - one < choice, "{one} {many}");
    let tokens = with(&base, &["gradient_accumulation_steps=4", "moe_top_k=1"]);
    let one_more = flops(&with(&tokens, &["moe_num_experts=2"])) - one;
    let many_more = flops(&with(&tokens, &["moe_num_experts=8"])) - many;
    assert!(many_more - one_more < 0.2 * choice, "{one_more} {many_more} {choice}");
}

#[test]
fn the_repositorys_configurations_compile() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/moe");
    let mut seen = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let loaded = neoxc_frontend::load(std::slice::from_ref(&path), None, &[]);
        let told: Vec<&String> = loaded.diagnostics.iter().map(|d| &d.message).collect();
        assert!(told.is_empty(), "{}: {told:?}", path.display());
        let config = loaded.config.unwrap();
        let options = neoxc_driver::Options {
            targets: vec![neoxc_ir::target::Target::X86Native],
            cache: Some(common::kernels()),
            threads: 1,
            machine: None,
            overlap: true,
        };
        let plan = neoxc_driver::compile(&config, &options).unwrap().plan;
        let experts = plan.tables.parameters.iter().filter(|p| p.name.contains(".experts."));
        assert_eq!(experts.count(), 4, "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 2);
}
