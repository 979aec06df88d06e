//! No argument is accepted and ignored: every key that counts as supported changes what is compiled or run, and every
//! other one is told of, by name.
//!
//! A row of [`ROWS`] is one supported argument with a value that nobody could take for its default. What a
//! configuration comes to is the model's IR, the settings that the runtime reads out of a plan, and the division among
//! ranks; a row's value must make another one of it. There are no patterns: an argument without a row fails.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_base::diag::{Diagnostic, Severity};
use neoxc_base::target::Target;
use neoxc_driver::{Phase, lower_config, phases};
use neoxc_frontend::arguments::{Argument, GROUPS, Kind, Preset, Status};
use neoxc_frontend::{Config, Loaded, load};
use neoxc_ir::{keys, text};
use neoxc_runtime::train::Settings;

const BASE: &str = "{num_layers: 4, hidden_size: 16, num_attention_heads: 2, seq_length: 16, \
    max_position_embeddings: 16, pos_emb: rotary, no_weight_tying: true, padded_vocab_size: 512, \
    train_micro_batch_size_per_gpu: 4, train_iters: 10, \
    optimizer: {type: Adam, params: {lr: 0.01}}}";

/// An argument, its value, and what must be given beside it to matter.
struct Row(&'static str, &'static str, &'static [&'static str]);

const PAIR: &[&str] = &["world_size=2"];
const STAGES: &[&str] = &["pipe_parallel_size=2", "gradient_accumulation_steps=2"];
const CHUNKS: &[&str] =
    &["pipe_parallel_size=2", "gradient_accumulation_steps=2", "pipe_schedule=interleaved"];
const BYTES: &[&str] = &["tokenizer_type=CharLevelTokenizer"];
const EXPERTS: &[&str] = &["moe_num_experts=4"];
const CHOSEN: &[&str] = &["moe_num_experts=4", "moe_router_type=topk"];
const LIMITED: &[&str] = &["moe_num_experts=4", "moe_token_dropping=true"];
const ALTERNATING: &[&str] =
    &["sliding_window_width=3", "attention_config=[[[\"sliding\", \"global\"], \"all\"]]"];
const SAVED: &[&str] = &["load=x"];

const ROWS: &[Row] = &[
    // Parallelism.
    Row("pipe_parallel_size", "2", &[]),
    Row("context_parallel_size", "2", &[]),
    Row("pipe_schedule", "gpipe", STAGES),
    Row("virtual_pipeline_chunks", "1", CHUNKS),
    Row("model_parallel_size", "2", &[]),
    Row("pipe_partition_method", "parameters", STAGES),
    Row("world_size", "2", &[]),
    Row("sequence_parallel", "true", &["model_parallel_size=2"]),
    Row("zero_optimization", "{stage: 1}", PAIR),
    // The model.
    Row("model_family", "llama", &[]),
    Row("use_bias_in_attn_dense", "false", &[]),
    Row("head_dim", "12", &[]),
    Row("norm_place", "after", &[]),
    Row("sliding_window_width", "3", &[]),
    Row("qk_norm", "head", &["norm=rmsnorm"]),
    Row("precision", "bfloat16", &[]),
    Row("fp16", "{enabled: true, type: bfloat16}", &[]),
    Row("bf16", "{enabled: true}", &[]),
    Row("num_layers", "2", &[]),
    Row("hidden_size", "32", &[]),
    Row("intermediate_size", "48", &[]),
    Row("mlp_multiple_of", "12", &[]),
    Row("expansion_factor", "2.0", &[]),
    Row("num_attention_heads", "4", &[]),
    Row("num_kv_heads", "1", &[]),
    Row("norm", "rmsnorm", &[]),
    Row("rms_norm_epsilon", "0.001", &["norm=rmsnorm"]),
    Row("scalenorm_epsilon", "0.001", &["norm=scalenorm"]),
    Row("zero_centred_norms", "true", &[]),
    Row("embedding_scale", "4.0", &[]),
    Row("query_pre_attn_scalar", "5", &[]),
    Row("sliding_rotary_emb_base", "100", ALTERNATING),
    Row("opt_pos_emb_offset", "2", &["pos_emb=learned", "max_position_embeddings=18"]),
    Row("activation", "mish", &[]),
    Row("seq_length", "8", &[]),
    Row("max_position_embeddings", "32", &["pos_emb=learned"]),
    Row("layernorm_epsilon", "0.001", &[]),
    Row("pos_emb", "none", &[]),
    Row("no_weight_tying", "false", &[]),
    Row("make_vocab_size_divisible_by", "100", &[BYTES[0], "padded_vocab_size=null"]),
    Row("bias_gelu_fusion", "true", &[]),
    Row("init_method_std", "0.05", &[]),
    Row("rotary_pct", "0.5", &[]),
    Row("rotary_emb_base", "500", &[]),
    Row("rope_scaling", "{rope_type: linear, factor: 2.0}", &[]),
    Row("init_method", "small_init", &[]),
    Row("output_layer_init_method", "wang_init", &[]),
    Row("gpt_j_residual", "true", &[]),
    Row("gpt_j_tied", "true", &["gpt_j_residual=true"]),
    Row("use_bias_in_norms", "false", &[]),
    Row("use_bias_in_attn_linear", "false", &[]),
    Row("use_bias_in_mlp", "false", &[]),
    Row("attention_dropout", "0.1", &[]),
    Row("hidden_dropout", "0.1", &[]),
    Row("checkpoint_activations", "true", &[]),
    Row("checkpoint_num_layers", "2", &["checkpoint_activations=true"]),
    // Experts.
    Row("moe_num_experts", "4", &[]),
    Row("moe_expert_interval", "2", EXPERTS),
    Row("moe_top_k", "2", EXPERTS),
    Row("moe_router_type", "topk", EXPERTS),
    Row("moe_norm_topk_prob", "true", &[CHOSEN[0], CHOSEN[1], "moe_top_k=2"]),
    Row("moe_intermediate_size", "20", EXPERTS),
    Row("moe_sinkhorn_rounds", "3", EXPERTS),
    Row("moe_token_dropping", "true", EXPERTS),
    Row("moe_train_capacity_factor", "2.0", LIMITED),
    Row("moe_eval_capacity_factor", "2.0", LIMITED),
    Row("moe_min_capacity", "40", LIMITED),
    Row("moe_loss_coeff", "0.1", CHOSEN),
    Row("moe_expert_parallel_size", "2", &[EXPERTS[0], PAIR[0]]),
    Row("enable_expert_tensor_parallelism", "true", &[EXPERTS[0], "model_parallel_size=2"]),
    // The optimizer.
    Row("optimizer", "{type: Adam, params: {lr: 0.01, eps: 0.001}}", &[]),
    Row("param_groups", "[{params: '*.mlp.*', lr_scale: 0.5}]", &[]),
    Row("freeze", "['*.mlp.*']", &[]),
    Row("optimizer_type", "lion", &["optimizer={params: {lr: 0.01}}"]),
    Row("lr", "0.5", &["optimizer={type: Adam, params: {}}", "lr=0.25"]),
    Row("weight_decay", "0.3", &[]),
    Row("gradient_clipping", "0.5", &[]),
    Row("clip_grad", "0.5", &[]),
    Row("lr_decay_style", "constant", &[]),
    Row("lr_decay_iters", "5", &[]),
    Row("lr_decay_fraction", "0.5", &[]),
    Row("min_lr", "0.0001", &[]),
    Row("warmup", "0.5", &[]),
    Row("wsd_decay_ratio", "0.5", &["lr_decay_style=wsd"]),
    Row("wsd_decay_style", "1-sqrt", &["lr_decay_style=wsd"]),
    // The run.
    Row("train_iters", "7", &[]),
    Row("train_batch_size", "8", &[]),
    Row("train_micro_batch_size_per_gpu", "2", &[]),
    Row("batch_size", "2", &["train_micro_batch_size_per_gpu=null", "train_batch_size=8"]),
    Row("gradient_accumulation_steps", "3", &[]),
    Row("seed", "7", &[]),
    Row("eval_interval", "3", &[]),
    Row("eval_iters", "3", &[]),
    Row("log_interval", "7", &[]),
    Row("exit_interval", "5", &[]),
    Row("save", "x", &[]),
    Row("load", "x", &[]),
    Row("iteration", "5", SAVED),
    Row("finetune", "true", SAVED),
    Row("no_load_optim", "true", SAVED),
    Row("checkpoint_factor", "5", &[]),
    Row("checkpoint_scale", "log", &["checkpoint_factor=2"]),
    Row("extra_save_iters", "[3]", &[]),
    Row("keep_last_n_checkpoints", "2", &[]),
    // Data.
    Row("data_path", "x", &[]),
    Row("train_data_paths", "[x]", &[]),
    Row("valid_data_paths", "[x]", &[]),
    Row("train_data_weights", "[2, 1]", &["train_data_paths=[x, y]"]),
    Row("valid_data_weights", "[2, 1]", &["valid_data_paths=[x, y]"]),
    Row("train_label_data_paths", "[y]", &["train_data_paths=[x]"]),
    Row("valid_label_data_paths", "[y]", &["valid_data_paths=[x]"]),
    Row("weight_by_num_documents", "true", &["train_data_paths=[x, y]"]),
    Row("weighted_sampler_alpha", "0.3", &["weight_by_num_documents=true"]),
    Row("pack_impl", "unpacked", &[]),
    Row("allow_chopped", "false", &["pack_impl=unpacked"]),
    Row("split", "\"1,1,1\"", &[]),
    Row("tokenizer_type", "CharLevelTokenizer", &[]),
    Row("padded_vocab_size", "1024", &[]),
    Row("vocab_file", "x", &[]),
    Row("merge_file", "x", &[]),
    Row("eod_mask_loss", "true", BYTES),
];

/// Supported arguments of which one value is all there is so far, or whose values mean the same here: another one
/// must be refused by name, or change something. The last word is what a refusal must name.
const ONE_VALUE: &[(Row, &str)] = &[
    (Row("attention_config", "[[[\"gmlp\"], 4]]", &[]), "gmlp"),
    (Row("data_impl", "lazy", &[]), "lazy"),
    (Row("data_types", "{grad_accum_dtype: bf16}", &["precision=bfloat16"]), "grad_accum_dtype"),
];

fn loaded(sets: &[&str]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yml");
    std::fs::write(&file, BASE).unwrap();
    load(&[file], None, &sets.iter().map(|s| s.to_string()).collect::<Vec<_>>())
}

/// What the configuration comes to; with the train step where the optimizer is what matters.
fn comes_to(c: &Config, step: bool) -> String {
    let phase = if step { Phase::Grad } else { Phase::Model };
    let module = phases(c, Target::X86V3, None, true, phase, &mut |_, _, _, _| {}).unwrap();
    // What the runtime reads of a plan is what was written.
    let settings = lower_config::run(c);
    let json = serde_json::to_value(&settings).unwrap();
    assert_eq!(serde_json::from_value::<Settings>(json).unwrap(), settings);
    // The configuration itself is kept in the module, whoever reads it; so are places of keys.
    let functions = module.functions.iter().map(text::print_function);
    let ir: String = functions.collect();
    let ir: Vec<&str> = ir.lines().map(|l| l.split(" loc(").next().unwrap()).collect();
    let precision = module.attrs.get(keys::PRECISION);
    format!("{}\n{precision:?}\n{settings:?}\n{:?}", ir.join("\n"), c.parallel)
}

fn errors(l: &Loaded) -> Vec<String> {
    let errors = l.diagnostics.iter().filter(|d| d.severity == Severity::Error);
    errors.map(|d| d.message.clone()).collect()
}

/// Whether the row's value changes what the configuration comes to, or why it is refused.
fn changes(row: &Row) -> Result<bool, Vec<String>> {
    let Row(name, value, beside) = row;
    let set = format!("{name}={value}");
    let without = loaded(beside);
    let was = without.config.as_ref().unwrap_or_else(|| panic!("{name}: {:?}", errors(&without)));
    let with = loaded(&[*beside, &[set.as_str()]].concat());
    let Some(is) = &with.config else { return Err(errors(&with)) };
    let step = [
        "optimizer",
        "param_groups",
        "freeze",
        "optimizer_type",
        "weight_decay",
        "gradient_clipping",
        "clip_grad",
    ]
    .contains(name);
    Ok(comes_to(was, step) != comes_to(is, step))
}

#[test]
fn every_supported_argument_changes_something() {
    let all = GROUPS.iter().flat_map(|g| g.arguments);
    let mut names: Vec<&str> =
        all.filter(|a| a.status == Status::Supported).map(|a| a.name).collect();
    let rows = ROWS.iter().chain(ONE_VALUE.iter().map(|(row, _)| row));
    let mut rows: Vec<&str> = rows.map(|r| r.0).collect();
    names.sort_unstable();
    rows.sort_unstable();
    assert_eq!(names, rows, "a supported argument needs one row here, and no other has one");
    let ignored: Vec<&str> = ROWS
        .iter()
        .filter(|row| match changes(row) {
            Ok(changes) => !changes,
            Err(why) => panic!("{} = {} is refused: {why:?}", row.0, row.1),
        })
        .map(|row| row.0)
        .collect();
    assert!(ignored.is_empty(), "accepted and not honoured: {ignored:?}");
    for (row, name) in ONE_VALUE {
        match changes(row) {
            Ok(changes) => assert!(changes, "{} = {} is accepted and not honoured", row.0, row.1),
            Err(why) => {
                let named = !why.is_empty() && why.iter().all(|w| w.contains(name));
                assert!(named, "{} = {}: {why:?}", row.0, row.1);
            }
        }
    }
}

/// What says the same in other words comes to the same: the comparison sees what is meant, not what is written.
#[test]
fn defaults_that_are_written_out_change_nothing() {
    for row in [
        Row("seed", "1234", &[]),
        Row("gpt_j_residual", "false", &[]),
        Row("intermediate_size", "64", &[]),
        Row("precision", "fp32", &[]),
        Row("gradient_accumulation_steps", "1", &[]),
        Row("optimizer", "{type: AdamW, params: {lr: 0.01, eps: 1.0e-8}}", &[]),
        Row("zero_optimization", "{stage: 0, overlap_comm: true}", &[]),
        Row("extra_save_iters", "[]", &[]),
    ] {
        assert_eq!(changes(&row), Ok(false), "{} = {}", row.0, row.1);
    }
}

/// A value that is not the default of an argument.
fn other(a: &Argument) -> &'static str {
    match (a.kind, a.default) {
        (Kind::Int | Kind::Any, _) => "7",
        (Kind::Float, _) => "0.37",
        (Kind::Bool, Preset::Bool(true)) => "false",
        (Kind::Bool, _) => "true",
        (Kind::Str, _) => "another",
        (Kind::List, _) => "[another]",
        (Kind::Dict, _) => "{enabled: true, another: 1}",
    }
}

/// What is not supported is refused, and what has no effect is warned of.
#[test]
fn every_other_argument_is_told_of_by_name() {
    for a in GROUPS.iter().flat_map(|g| g.arguments) {
        let code = match a.status {
            Status::Supported => continue,
            Status::NotYet { kind, .. } => kind.code,
            Status::WithoutEffect(_) | Status::Unread => "NX0108",
        };
        let l = loaded(&[&format!("{}={}", a.name, other(a))]);
        let named = |d: &&Diagnostic| d.kind.code == code && d.message.contains(a.name);
        assert_eq!(l.diagnostics.iter().filter(named).count(), 1, "{}: {:?}", a.name, errors(&l));
        assert_eq!(l.config.is_none(), code != "NX0108", "{}: {:?}", a.name, errors(&l));
    }
}
