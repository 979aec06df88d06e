//! What `neoxc check` calls fine, `neoxc compile` compiles: random configurations, of which many are refused, none is an
//! internal error, and those that are fine become plans. So do files that users of GPT-NeoX have. `NEOXC_CONFIGS=N`
//! (make agreement) takes N random ones, and all files.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::path::{Path, PathBuf};

use common::kernels;
use neoxc_driver::{Options, check, compile};
use neoxc_frontend::load;
use neoxc_ir::target::Target;
use proptest::prelude::*;

/// Keys and values that make sense by themselves: usual ones, odd ones and the ends of ranges. The first is the usual one,
/// and comes most often.
const KEYS: &[(&str, &[&str])] = &[
    (
        "model_family",
        &[
            "null",
            "gpt_neox",
            "llama",
            "mistral",
            "qwen2",
            "qwen3",
            "olmo2",
            "gemma3_text",
            "mixtral",
            "qwen3_moe",
            "falcon",
            "palm",
        ],
    ),
    ("num_layers", &["2", "1", "3", "6", "100000"]),
    ("hidden_size", &["24", "8", "48", "7", "65536", "1048576"]),
    ("num_attention_heads", &["2", "1", "3", "4", "8"]),
    ("head_dim", &["null", "6", "16"]),
    ("qk_norm", &["none", "head", "width"]),
    ("norm_place", &["before", "after", "around"]),
    ("num_kv_heads", &["null", "1", "2"]),
    ("seq_length", &["16", "1", "13", "64"]),
    (
        "attention_config",
        &["null", "[[[sliding, global], all]]", "[[[sliding, sliding, global], 1]]"],
    ),
    ("sliding_rotary_emb_base", &["null", "1", "100"]),
    ("query_pre_attn_scalar", &["null", "1", "100"]),
    ("sliding_window_width", &["null", "5", "0", "64"]),
    ("max_position_embeddings", &["64", "16"]),
    ("padded_vocab_size", &["64", "1", "50", "67108864"]),
    ("intermediate_size", &["null", "1", "30", "96"]),
    ("mlp_multiple_of", &["null", "8"]),
    ("pos_emb", &["rotary", "learned", "none"]),
    ("rotary_pct", &["1.0", "0.5", "0.25"]),
    ("norm", &["layernorm", "rmsnorm"]),
    ("activation", &["gelu", "swiglu", "relu", "geglu", "geglu_tanh", "mish", "silu"]),
    ("no_weight_tying", &["true", "false"]),
    ("gpt_j_residual", &["true", "false"]),
    ("gpt_j_tied", &["false", "true"]),
    ("use_bias_in_norms", &["true", "false"]),
    ("use_bias_in_attn_linear", &["true", "false"]),
    ("use_bias_in_attn_dense", &["null", "true", "false"]),
    ("use_bias_in_mlp", &["true", "false"]),
    ("precision", &["fp32", "bfloat16", "fp16"]),
    ("hidden_dropout", &["0", "0.1"]),
    ("attention_dropout", &["0", "0.1"]),
    ("checkpoint_activations", &["false", "true"]),
    ("checkpoint_num_layers", &["1", "2"]),
    ("train_micro_batch_size_per_gpu", &["2", "1", "3", "1048576"]),
    ("gradient_accumulation_steps", &["1", "2", "4", "1048576"]),
    ("moe_num_experts", &["1", "1", "1", "2", "4"]),
    ("moe_top_k", &["1", "2"]),
    ("moe_router_type", &["sinkhorn", "topk"]),
    ("moe_norm_topk_prob", &["false", "false", "true"]),
    ("moe_intermediate_size", &["null", "20"]),
    ("moe_token_dropping", &["false", "true"]),
    ("world_size", &["1", "2", "3", "4", "8"]),
    ("pipe_parallel_size", &["1", "1", "2", "3"]),
    ("model_parallel_size", &["1", "1", "2", "4"]),
    ("context_parallel_size", &["1", "1", "2"]),
    ("moe_expert_parallel_size", &["1", "1", "2"]),
    ("sequence_parallel", &["false", "true"]),
    ("zero_optimization.stage", &["0", "1", "2", "3"]),
    ("pipe_schedule", &["1f1b", "gpipe", "zb-h1", "interleaved"]),
    ("pipe_partition_method", &["type:transformer|mlp", "parameters", "balanced", "uniform"]),
    ("optimizer.type", &["Adam", "SGD", "Lion"]),
    ("gradient_clipping", &["1.0", "0"]),
];

const BASE: &str = r#"{"train_iters": 4, "eval_iters": 1, "lr": 0.01, "optimizer": {"type": "Adam", "params": {"lr": 0.01}}}"#;

/// Settings of all keys: mostly usual ones.
fn settings() -> impl Strategy<Value = Vec<String>> {
    let one = |(key, values): &(&'static str, &'static [&'static str])| {
        let (key, values) = (*key, *values);
        let usual = Just(0usize);
        let any = 0..values.len();
        prop_oneof![3 => usual, 1 => any].prop_map(move |n| format!("{key}={}", values[n]))
    };
    KEYS.iter().map(one).collect::<Vec<_>>()
}

#[derive(Default)]
struct Seen {
    refused: usize,
    late: usize,
    fine: usize,
    compiled: usize,
}

fn agree(sets: &[String], compiles: usize, seen: &mut Seen) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("base.yml");
    std::fs::write(&file, BASE).unwrap();
    let loaded = load(&[file], None, sets);
    let Some(config) = loaded.config else {
        prop_assert!(!loaded.diagnostics.is_empty());
        seen.refused += 1;
        return Ok(());
    };
    let options = Options {
        targets: vec![Target::X86Native],
        cache: Some(kernels()),
        threads: 2,
        machine: None,
        overlap: true,
    };
    if let Err(e) = check(&config, &options) {
        let d = e.diagnostic(folder.path());
        prop_assert_eq!(d.kind.exit, 3, "{}: {}", d.kind.code, d.message);
        seen.late += 1;
        return Ok(());
    }
    seen.fine += 1;
    // Kernels of attention whose heads are tens of thousands wide take LLVM minutes.
    if seen.compiled < compiles && config.model.hidden_size < 1024 {
        let compiled = compile(&config, &options);
        let told = compiled.as_ref().err().map(ToString::to_string);
        prop_assert!(told.is_none(), "{told:?}");
        let checked = compiled.unwrap().plan.check().map_err(|e| e.to_string());
        prop_assert_eq!(checked, Ok(()));
        seen.compiled += 1;
    }
    Ok(())
}

#[test]
fn what_check_calls_fine_compile_compiles() {
    let asked: Option<u32> = std::env::var("NEOXC_CONFIGS").ok().map(|n| n.parse().unwrap());
    let (cases, compiles) = asked.map_or((60, 1), |n| (n, n as usize / 20));
    let mut seed = [11u8; 32];
    if asked.is_some() {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        seed[..16].copy_from_slice(&now.to_le_bytes());
    }
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    };
    let random =
        prop::test_runner::TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &seed);
    let mut runner = prop::test_runner::TestRunner::new_with_rng(config, random);
    let seen = std::cell::RefCell::new(Seen::default());
    let done = runner.run(&settings(), |sets| agree(&sets, compiles, &mut seen.borrow_mut()));
    done.unwrap_or_else(|e| panic!("{e}"));
    let s = seen.into_inner();
    eprintln!(
        "{} refused at once, {} by what the model shows, {} fine, {} of them compiled",
        s.refused, s.late, s.fine, s.compiled
    );
    assert!(s.refused > 0 && s.fine > 0 && s.compiled == compiles.min(s.fine));
}

/// The files of GPT-NeoX's users that the frontend takes, alone and together, compile: `../shared/upstream`, where it
/// is. Some of them each time, and all with NEOXC_CONFIGS.
#[test]
fn files_of_users_compile() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let upstream = root.join("../../shared/upstream");
    if !upstream.exists() {
        eprintln!("skipped: there is no ../shared/upstream");
        return;
    }
    // What the frontend says of each is held by a test of its own, whose file this is.
    let answers = root.join("../frontend/tests/snapshots/upstream.txt");
    let answers = std::fs::read_to_string(answers).unwrap();
    let fine: Vec<&str> = answers.lines().filter_map(|l| l.strip_suffix(": exit 0")).collect();
    assert!(fine.len() > 50, "{} files", fine.len());
    let all = std::env::var_os("NEOXC_CONFIGS").is_some();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos() as usize;
    let (stride, first) = if all { (1, 0) } else { (10, now / 1000 % 10) };
    for names in fine.iter().skip(first).step_by(stride) {
        let files: Vec<PathBuf> = names.split(' ').map(|name| upstream.join(name)).collect();
        let config = load(&files, None, &[]).config.unwrap_or_else(|| panic!("{names}"));
        let options = Options {
            targets: vec![Target::X86Native],
            cache: None,
            threads: 2,
            machine: None,
            overlap: true,
        };
        check(&config, &options).unwrap_or_else(|e| panic!("{names}: {e}"));
    }
}
