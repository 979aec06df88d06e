//! Every kernel of a real model for every GPU target: PTX through ptxas, AMD objects through ld.lld.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::path::Path;
use std::process::Command;

use neoxc_driver::{Options, compile};
use neoxc_ir::target::Target;

/// Sizes that leave tails everywhere, and everything that has kernels of its own.
const SETS: [&str; 14] = [
    "num_layers=2",
    "hidden_size=24",
    "num_attention_heads=3",
    "seq_length=13",
    "padded_vocab_size=61",
    "pos_emb=rotary",
    "rotary_pct=0.5",
    "gpt_j_residual=true",
    "no_weight_tying=true",
    "train_micro_batch_size_per_gpu=2",
    "train_iters=1",
    "hidden_dropout=0.1",
    "attention_dropout=0.1",
    "optimizer={type: Adam, params: {lr: 0.001}}",
];

/// Models whose kernels differ: dense; with parts of the vocabulary; dropless experts; experts of limited
/// capacity; with bfloat16; with fp16.
const MODELS: [&[&str]; 6] = [
    &[],
    &["model_parallel_size=3", "padded_vocab_size=63"],
    &["moe_num_experts=3", "moe_top_k=2"],
    &[
        "moe_num_experts=3",
        "moe_router_type=topk",
        "moe_token_dropping=true",
        "moe_loss_coeff=0.1",
        "moe_expert_interval=2",
    ],
    &[
        "precision=bfloat16",
        "model_parallel_size=3",
        "padded_vocab_size=63",
        "moe_num_experts=3",
        "moe_top_k=2",
        "moe_expert_interval=2",
    ],
    &["precision=fp16"],
];

#[test]
fn every_kernel_assembles_for_every_gpu() {
    for model in MODELS {
        assembles(model);
    }
}

fn assembles(model: &[&str]) {
    let sets: Vec<String> = SETS.iter().chain(model).map(|s| s.to_string()).collect();
    let loaded = neoxc_frontend::load(&[], None, &sets);
    let config = loaded.config.unwrap();
    let gpus = [Target::Sm80, Target::Sm90a, Target::Gfx90a, Target::Gfx942];
    let targets = [&[Target::X86Native][..], &gpus].concat();
    let cache = Some(common::kernels());
    let options = Options { targets, cache, threads: 1, machine: None, overlap: true };
    let plan = compile(&config, &options).unwrap().plan;
    let kernels = plan.tables.kernels.len();
    for target in ["sm_80", "sm_90a"] {
        let ptx = &plan.files[&format!("kernels/{target}.ptx")];
        let text = String::from_utf8_lossy(ptx);
        assert_eq!(text.matches(".visible .entry").count(), kernels, "{target}");
        let ptxas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv-test/bin/ptxas");
        if !ptxas.exists() {
            eprintln!("skipped: ptxas is not installed (tools/setup.sh --test)");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("k.ptx");
        std::fs::write(&file, ptx).unwrap();
        let out = Command::new(ptxas)
            .arg(format!("-arch={target}"))
            .arg("-O1")
            .arg("-o")
            .arg(folder.path().join("k.cubin"))
            .arg(&file)
            .output()
            .unwrap();
        assert!(out.status.success(), "{target}: {}", String::from_utf8_lossy(&out.stderr));
    }
    for target in ["gfx90a", "gfx942"] {
        let object = &plan.files[&format!("kernels/{target}.hsaco")];
        // ELF, 64 bit, machine 224 (AMD GPU).
        assert_eq!((&object[..5], object[18]), (&b"\x7fELF\x02"[..], 224), "{target}");
        // Every kernel has its descriptor.
        let text = String::from_utf8_lossy(object);
        for k in &plan.tables.kernels {
            assert!(text.contains(&format!("{}.kd", k.name)), "{target} lacks {}", k.name);
        }
    }
}
