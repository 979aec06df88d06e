//! What users of such systems have had trouble with, through the command line: a folder of small inputs, and the right
//! answer to each.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::Path;
use std::process::{Command, Output, Stdio};

use neoxc_runtime::data::IndexedWriter;
use neoxc_runtime::data::idx::TokenType;
use neoxc_runtime::text::TextTokenizer;

const MODEL: &str = "{num_layers: 1, hidden_size: 16, num_attention_heads: 2, seq_length: 8, \
    max_position_embeddings: 8, pos_emb: none, no_weight_tying: true, padded_vocab_size: 64, \
    train_micro_batch_size_per_gpu: 4, data_path: d, split: \"50,50,0\", log_interval: 1, \
    train_iters: 4, eval_iters: 0, optimizer: {type: Adam, params: {lr: 0.01}}}";

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neoxc"));
    command.args(args).current_dir(folder).env("NEOXC_CACHE", folder.join("cache"));
    command
}

fn neoxc(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().unwrap()
}

fn told(out: &Output) -> String {
    let text = [&out.stdout[..], &out.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// A model of one layer, and 40 sequences of 20 random tokens below 50.
fn prepare(folder: &Path) {
    std::fs::write(folder.join("model.yml"), MODEL).unwrap();
    let mut w = IndexedWriter::create(&folder.join("d"), TokenType::U16, true).unwrap();
    let mut x = 1u64;
    for _ in 0..40 {
        let mut next = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (x >> 33) as u32 % 50
        };
        w.document(&[(); 20].map(|()| next())).unwrap();
    }
    w.finish().unwrap();
}

/// `neoxc run model.yml --set …`, which must succeed.
fn run(folder: &Path, sets: &[&str], more: &[&str]) -> String {
    let out = neoxc(folder, &args(sets, more));
    assert!(out.status.success(), "{sets:?}: {}", told(&out));
    told(&out)
}

fn args<'a>(sets: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    ["run", "model.yml"].into_iter().chain(sets).chain(more.iter().copied()).collect()
}

/// The same 32 sequences are evaluated, however a step is divided: their losses' mean does not depend on it.
#[test]
fn an_evaluation_has_as_many_steps_sequences() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let still = ["train_iters=1", "eval_interval=1", "optimizer.params.lr=0.0"];
    let loss = |sets: &[&str]| {
        let text = run(f, &[&still[..], sets].concat(), &[]);
        let line = text.lines().find(|l| l.starts_with("validation loss")).unwrap().to_string();
        line.split(' ').nth(2).unwrap().parse::<f64>().unwrap()
    };
    let many = loss(&["eval_iters=8"]);
    let accumulated = loss(&["eval_iters=2", "gradient_accumulation_steps=4"]);
    let ranks = loss(&["eval_iters=4", "world_size=2"]);
    let fewer = loss(&["eval_iters=7"]);
    assert!((many - accumulated).abs() < 2e-4 && (many - ranks).abs() < 2e-4);
    assert!((many - fewer).abs() > 2e-4, "{many} {fewer}");
}

/// A run goes on from what `load` names as one that was never interrupted, and no run replaces another's checkpoints.
#[test]
fn load_is_honoured_and_nothing_is_replaced() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let last = |name: &str| {
        let text = std::fs::read_to_string(f.join(name)).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        (
            line["step"].as_u64().unwrap(),
            line["loss"].as_f64().unwrap().to_bits(),
            text.lines().count(),
        )
    };
    run(f, &["save=whole", "extra_save_iters=[2]"], &["--metrics", "whole.jsonl"]);
    let first = run(f, &["save=out", "load=out"], &["--steps", "2"]);
    assert!(first.contains("no checkpoint in out yet"), "{first}");
    run(f, &["save=out", "load=out"], &["--metrics", "loaded.jsonl"]);
    let (whole, loaded) = (last("whole.jsonl"), last("loaded.jsonl"));
    assert_eq!((loaded.0, loaded.1, loaded.2), (4, whole.1, 2));

    let other = ["load=whole", "save=other"];
    run(f, &[&other[..], &["finetune=true"]].concat(), &["--metrics", "tuned.jsonl"]);
    assert_eq!(last("tuned.jsonl").2, 4);
    assert!(last("tuned.jsonl").1 != whole.1);
    // With the optimizer's state begun anew behind step 2: other numbers, which a resumed run comes to as well, as its
    // checkpoints say since when the state is; and another optimizer may go on.
    let anew = ["load=whole", "iteration=2", "no_load_optim=true"];
    run(f, &[&anew[..], &["save=anew"]].concat(), &["--metrics", "anew.jsonl"]);
    run(f, &[&anew[..], &["save=cut"]].concat(), &["--steps", "3"]);
    run(f, &[&anew[..], &["save=cut"]].concat(), &["--resume", "--metrics", "cut.jsonl"]);
    assert_eq!((last("anew.jsonl").0, last("anew.jsonl").2, last("cut.jsonl").2), (4, 2, 1));
    assert_eq!(last("anew.jsonl").1, last("cut.jsonl").1);
    assert!(last("anew.jsonl").1 != whole.1);
    let lion = ["optimizer.type=Lion", "save=lion"];
    run(f, &[&anew[..], &lion].concat(), &["--metrics", "lion.jsonl"]);
    assert_eq!(last("lion.jsonl").2, 2);
    for (sets, more, code, why) in [
        (&["save=out"][..], &[][..], 5, "out/global_step4 exists already"),
        (&["save=out"], &["--resume", "--force"], 2, "cannot be used with"),
        (&["save=new"], &["--threads", "0"], 2, "a whole number from 1 to "),
    ] {
        let out = neoxc(f, &args(sets, more));
        assert_eq!(out.status.code(), Some(code), "{sets:?}: {}", told(&out));
        assert!(told(&out).contains(why), "{sets:?}: {}", told(&out));
    }
    run(f, &["save=out"], &["--force", "--steps", "1"]);
    assert!(f.join("out/global_step1").exists());

    // A reader that has seen enough does not end a run.
    let mut child = command(f, &args(&["save=unread"], &[]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(f.join("unread/global_step4").exists());
    // What a full disk keeps from its output is told.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = command(f, &args(&["save=null"], &["--steps", "1"])).stdout(full).output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", told(&out));
    assert!(told(&out).contains("cannot write to standard output"), "{}", told(&out));
    for args in [&["dialect"][..], &["--help"], &["--version"], &["help", "run"], &["run", "-h"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = command(f, args).stdout(full).output().unwrap();
        let told = told(&out);
        assert_eq!(out.status.code(), Some(5), "{args:?}: {told}");
        assert_eq!(told.matches("cannot write to standard output").count(), 1, "{args:?}: {told}");
    }
}

#[test]
fn sampling_out_of_range_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, value, why) in [
        ("--temperature", "-1", "from 0 on"),
        ("--temperature", "nan", "from 0 on"),
        ("--temperature", "inf", "from 0 on"),
        ("--top-p", "1.5", "from 0 to 1"),
        ("--top-p", "-0.1", "from 0 to 1"),
        ("--top-p", "nan", "from 0 to 1"),
        ("--threads", "0", "a whole number from 1 to "),
    ] {
        let flag = format!("{flag}={value}");
        let out = neoxc(folder.path(), &["generate", "--plan", "p", "--prompt", "a", &flag]);
        assert_eq!(out.status.code(), Some(2), "{flag}: {}", told(&out));
        assert!(told(&out).contains(why), "{flag}: {}", told(&out));
    }
}

/// The configuration's reader and the tokenizer itself count alike, where ids have gaps and where the end of a text is
/// in the vocabulary, beside it, or nowhere.
#[test]
fn every_command_counts_a_vocabulary_alike() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let token = |id: u32, text: &str| {
        format!(
            r#"{{"id": {id}, "content": "{text}", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}}"#
        )
    };
    let hf = |vocab: &str, added: &str| {
        format!(
            r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{added}],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {{"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "vocab": {{{vocab}}}, "merges": []}}}}"#
        )
    };
    let end = "<|endoftext|>";
    std::fs::write(f.join("m.txt"), "#version: 0.2\n").unwrap();
    for (kind, text, count, ends) in [
        ("HFTokenizer", hf(r#""a": 0, "b": 1"#, ""), 2, false),
        ("HFTokenizer", hf(r#""a": 0, "b": 6"#, ""), 7, false),
        ("HFTokenizer", hf(r#""a": 0, "b": 1"#, &token(2, end)), 3, true),
        ("HFTokenizer", hf(r#""<|endoftext|>": 0, "b": 1"#, &token(0, end)), 2, true),
        ("HFTokenizer", hf(r#""<|endoftext|>": 0, "b": 1"#, ""), 2, true),
        ("GPT2BPETokenizer", r#"{"a": 0, "b": 1}"#.to_string(), 2, false),
        ("GPT2BPETokenizer", r#"{"a": 0, "<|endoftext|>": 4}"#.to_string(), 5, true),
    ] {
        let (vocab, merges) = (f.join("v.json"), f.join("m.txt"));
        std::fs::write(&vocab, &text).unwrap();
        let t = TextTokenizer::open(kind, Some(&vocab), Some(&merges)).unwrap();
        assert_eq!((t.size(), t.end_of_text().is_some()), (count, ends), "{kind} {text}");
        std::fs::write(f.join("model.yml"), MODEL.replace("padded_vocab_size: 64, ", "")).unwrap();
        let sets = [
            format!("tokenizer_type={kind}"),
            format!("vocab_file={}", vocab.display()),
            "make_vocab_size_divisible_by=1".to_string(),
            "eod_mask_loss=true".to_string(),
        ];
        let load = |sets: &[String]| neoxc_frontend::load(&[f.join("model.yml")], None, sets);
        let config = load(&sets[..3]).config.unwrap();
        assert_eq!(config.model.vocab_size, Some(count), "{kind} {text}");
        assert_eq!(load(&sets).config.is_some(), ends, "{kind} {text}");
    }
}

/// A checkpoint that the last version of format 3 wrote (of 0bc8945's parent): a run goes on from it with the losses that
/// that version came to, and `inspect` reads it.
#[test]
fn a_run_goes_on_from_a_checkpoint_of_format_3() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let (from, to) = ("tests/format-3/global_step2", f.join("old/global_step2"));
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(from);
    std::fs::create_dir_all(&to).unwrap();
    for file in ["manifest.json", "rank-00000.safetensors"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    assert!(std::fs::read_to_string(to.join("manifest.json")).unwrap().contains("\"format\": 3"));
    run(f, &["load=old"], &["--metrics", "m.jsonl"]);
    let text = std::fs::read_to_string(f.join("m.jsonl")).unwrap();
    let losses = text.lines().map(|line| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap()
    });
    for (got, want) in losses.zip([4.916381, 4.6697073]) {
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }
    assert_eq!(text.lines().count(), 2);
    let out = neoxc(f, &["inspect", "checkpoint", "old/global_step2"]);
    assert!(out.status.success() && told(&out).contains("48 tensors"), "{}", told(&out));
}
