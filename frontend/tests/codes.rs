//! The examples of diagnostics that a configuration gives are what they say.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_base::codes::ALL;
use neoxc_base::diag::Example;
use neoxc_frontend::{Loaded, lints, load};

/// A configuration that is right, a key a line.
const GOOD: &str = "\
num_layers: 2
hidden_size: 8
num_attention_heads: 2
seq_length: 16
padded_vocab_size: 64
train_micro_batch_size_per_gpu: 4
train_iters: 10
lr: 0.001
";

/// Loads the good configuration with `lines` in the place of its own of the same keys.
fn with(lines: &str) -> Loaded {
    let key = |line: &str| line.split(':').next().unwrap_or_default().to_string();
    let given: Vec<String> = lines.lines().map(key).collect();
    let kept = GOOD.lines().filter(|l| !given.contains(&key(l)));
    let text: String = kept.chain(lines.lines()).map(|l| format!("{l}\n")).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yml");
    std::fs::write(&file, text).unwrap();
    load(&[file], None, &[])
}

/// Every lint is told of its own example, once, and not of the other; `with` has what a model needs beside.
#[test]
fn lints_are_told_of_their_examples() {
    assert!(lints::ALL.is_sorted_by(|a, b| a.name < b.name));
    for lint in lints::ALL {
        let end = format!("[{}]", lint.name);
        let times = |lines: &str| {
            let told = with(lines).diagnostics;
            let told = told.iter().filter(|d| d.kind.code == "NX0115" && d.message.ends_with(&end));
            told.count()
        };
        assert_eq!((times(lint.wrong), times(lint.right)), (1, 0), "{}", lint.name);
        assert!(lint.text.len() > 80 && lint.text.ends_with('.'), "{}", lint.name);
    }
}

#[test]
fn examples_give_their_diagnostic_and_what_is_meant_does_not() {
    assert!(with("").diagnostics.is_empty(), "{:?}", with("").diagnostics);
    let mut tried = 0;
    for kind in ALL {
        let Example::Config { wrong, right } = kind.example else { continue };
        let codes = |lines| with(lines).diagnostics.iter().map(|d| d.kind.code).collect::<Vec<_>>();
        assert_eq!(codes(wrong), [kind.code], "{wrong}");
        assert_eq!(codes(right), [""; 0], "{right}");
        assert_eq!(with(wrong).config.is_none(), kind.exit != 0, "{wrong}");
        tried += 1;
    }
    assert!(tried >= 10, "{tried} codes have a configuration as example");
}

/// A word that the table has is one that the types know, and the other way round.
#[test]
fn words_of_the_tables_are_those_of_the_types() {
    use neoxc_frontend::arguments::{Range, find};
    use neoxc_frontend::config::{Decay, PipePartition, PipeSchedule, Router};
    let sorted = |mut words: Vec<&'static str>| {
        words.sort_unstable();
        words
    };
    let words = |name: &str| match find(name).unwrap().range {
        Range::Words { supported, .. } => sorted(supported.to_vec()),
        range => panic!("{name}: {range}"),
    };
    let routers = Router::ALL.map(|(n, _)| n).to_vec();
    assert_eq!(words("moe_router_type"), sorted(routers));
    let decays = Decay::ALL.map(|(n, _)| n).to_vec();
    assert_eq!(words("lr_decay_style"), sorted(decays));
    let schedules = PipeSchedule::ALL.map(|(n, _)| n).to_vec();
    assert_eq!(words("pipe_schedule"), sorted(schedules));
    let methods = PipePartition::ALL.map(|(n, _)| n).to_vec();
    assert_eq!(words("pipe_partition_method"), sorted(methods));
}

/// Every message is a sentence: of a few that used to be none, word for word.
#[test]
fn messages_are_sentences() {
    let known = format!("use one of {}; adam is AdamW", neoxc_optimizers::names());
    for (lines, message, hint) in [
        (
            "init_method: orthogonal",
            "`init_method: orthogonal` is not supported yet",
            "use `normal`, `scaled_normal`, `single_residual_scaled_normal`, `small_init`, `wang_init`, \
             `xavier_normal` or `xavier_uniform`",
        ),
        (
            "norm: batchnorm",
            "`norm` is \"batchnorm\"; it must be `layernorm`, `rmsnorm`, `scalenorm`, \
             `non_parametric_layernorm`, `te_layernorm` or `te_rmsnorm`",
            "",
        ),
        (
            "optimizer: {type: Lamb, params: {lr: 0.1}}",
            "the optimizer `Lamb` is not supported yet",
            &known,
        ),
        (
            "use_qk_layernorm: true",
            "`use_qk_layernorm` is not supported yet: GPT-NeoX normalises queries and keys with one weight for the heads of a tensor rank, which is another model for each number of ranks",
            "`qk_norm: head` has a norm for queries and one for keys",
        ),
        ("hidden_dropout: 1.0", "`hidden_dropout` is 1; it must be from 0 to below 1", ""),
        (
            "optimizer: {type: Adam, params: {lr: 0.1, betas: [0.9, 1.0]}}",
            "`optimizer.params.betas` is 1; it must be from 0 to below 1",
            "",
        ),
        (
            "optimizer: {type: Adam, params: {lr: 1e-3}}",
            "`optimizer.params.lr` is the text \"1e-3\", not a number",
            "YAML 1.1 reads this as text; write 1.0e-3",
        ),
    ] {
        let l = with(lines);
        let [d] = &l.diagnostics[..] else { panic!("{lines}: {:?}", l.diagnostics) };
        assert_eq!((d.message.as_str(), d.hint.as_deref().unwrap_or("")), (message, hint));
    }
}

/// A group of parameters that is none, and optimizers that are known but not to be had, each with its reason.
#[test]
fn groups_and_optimizers_are_refused_with_their_reason() {
    for (line, why) in [
        ("param_groups: [{params: a, lr_scale: -1}]", "`param_groups.lr_scale` is -1"),
        ("param_groups: [{params: a, weight_decay: x}]", "`param_groups.weight_decay` is the text"),
        ("param_groups: [{params: 3}]", "`param_groups.params` is the whole number 3"),
        ("param_groups: [{lr_scale: 3}]", "does not say which parameters it has"),
        ("param_groups: [{params: a, lr: 3}]", "`lr`"),
        ("param_groups: [a]", "a group of `param_groups` is a dictionary"),
        ("optimizer: {type: OneBitAdam, params: {lr: 0.1}}", "supported yet: ranks sum gradients"),
        (
            "optimizer: {type: SM3, params: {lr: 0.1}}",
            "supported yet: it keeps a number for each row",
        ),
        ("optimizer: {type: adafactor, params: {lr: 0.1}}", "supported yet: it keeps a number for"),
        ("optimizer: {type: adam8bit, params: {lr: 0.1}}", "supported yet: optimizer state is f32"),
        ("optimizer: {type: Muon, params: {lr: 0.1, adjust_lr_fn: x}}", "it must be `original` or"),
    ] {
        let l = with(line);
        let [d] = &l.diagnostics[..] else { panic!("{line}: {:?}", l.diagnostics) };
        assert!(d.message.contains(why) && l.config.is_none(), "{line}: {}", d.message);
    }
    let l = with("optimizer: {type: Muon, params: {lr: 0.1, adjust_lr_fn: match_rms_adamw}}");
    assert_eq!(l.config.unwrap().optimizer.hypers["adjust_lr_fn"], 1.0);
}
