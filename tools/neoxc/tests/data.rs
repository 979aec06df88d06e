//! Data sets through the command line: several with weights, labels, and whole documents in a sequence. The order of
//! samples is that of tests/golden/make_data_orders.py, which `neoxc_runtime::data::mixture` tests; here it reaches the
//! run, and is the same under every layout and after every resume.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use neoxc_runtime::data::IndexedWriter;
use neoxc_runtime::data::idx::TokenType;

const MODEL: &str = "{num_layers: 1, hidden_size: 16, num_attention_heads: 2, seq_length: 8, \
    max_position_embeddings: 8, pos_emb: none, no_weight_tying: true, padded_vocab_size: 64, \
    train_micro_batch_size_per_gpu: 4, log_interval: 1, train_data_paths: [a, b], \
    train_data_weights: [0.7, 0.3], train_iters: 4, eval_iters: 0, \
    optimizer: {type: Adam, params: {lr: 0.01}}}";

fn neoxc(folder: &Path, sets: &[&str], more: &[&str]) -> Output {
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    // The place that tests of other crates keep kernels in too.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    let mut command = Command::new(env!("CARGO_BIN_EXE_neoxc"));
    command.args(["run", "model.yml"]).args(sets).args(more);
    command.current_dir(folder).env("NEOXC_CACHE", cache).output().unwrap()
}

fn told(out: &Output) -> String {
    let text = [&out.stdout[..], &out.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Writes data set `name`: `documents` of odd lengths, and its labels `name_l` and their complement `name_m`, which say that
/// every second token is learned and the rest.
fn write(folder: &Path, name: &str, documents: u32, first: u32) {
    let mut x = u64::from(first);
    let mut files = [("", 0), ("_l", 1), ("_m", 2)].map(|(end, kind)| {
        let path: PathBuf = folder.join(format!("{name}{end}"));
        let dtype = if kind == 0 { TokenType::U16 } else { TokenType::I32 };
        (IndexedWriter::create(&path, dtype, true).unwrap(), kind)
    });
    for d in 0..documents {
        let mut next = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (x >> 33) as u32 % 50
        };
        let tokens: Vec<u32> = (0..2 + d * 5 % 7).map(|_| next()).collect();
        for (file, kind) in &mut files {
            let hidden = |i: usize| *kind > 0 && (i + *kind).is_multiple_of(2);
            let one = |(i, t): (usize, &u32)| if hidden(i) { -100i32 as u32 } else { *t };
            file.document(&tokens.iter().enumerate().map(one).collect::<Vec<_>>()).unwrap();
        }
    }
    files.into_iter().for_each(|(file, _)| file.finish().unwrap());
}

fn prepare(folder: &Path) {
    std::fs::write(folder.join("model.yml"), MODEL).unwrap();
    write(folder, "a", 23, 1);
    write(folder, "b", 9, 2);
}

/// A step's samples, sources and loss.
type Step = (Vec<u64>, Vec<u64>, f64);

/// The steps that a run makes, which must succeed.
fn steps(folder: &Path, sets: &[&str], more: &[&str]) -> Vec<Step> {
    let file = folder.join("metrics.jsonl");
    let _ = std::fs::remove_file(&file);
    let out = neoxc(folder, sets, &[more, &["--metrics", "metrics.jsonl"]].concat());
    assert!(out.status.success(), "{sets:?}: {}", told(&out));
    let text = std::fs::read_to_string(file).unwrap();
    let line = |line: &str| {
        let v: serde_json::Value = serde_json::from_str(line).unwrap();
        let list = |key: &str| serde_json::from_value(v[key].clone()).unwrap();
        (list("samples"), list("sources"), v["loss"].as_f64().unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn samples_of_every_packing_are_the_same_under_every_layout_and_after_a_resume() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    for pack in ["packed", "pack_until_overflow", "unpacked"] {
        let name = format!("pack_impl={pack}");
        let sets = [name.as_str(), "train_label_data_paths=[a_l, b_l]"];
        let whole = steps(f, &sets, &[]);
        // Of 16 samples, the greedy order takes 11 from the first set and 5 from the second.
        let sources = whole.iter().flat_map(|s| &s.1);
        assert_eq!(sources.filter(|s| **s == 1).count(), 5, "{pack}");
        // The first two steps on two ranks, the others on one.
        let save = format!("save=out_{pack}");
        let saved = [&sets[..], &[&save]].concat();
        let two = [&saved[..], &["world_size=2", "train_micro_batch_size_per_gpu=2"]].concat();
        let mut parts = steps(f, &two, &["--steps", "2"]);
        parts.extend(steps(f, &saved, &["--resume"]));
        assert_eq!(parts.len(), 4);
        for (a, b) in whole.iter().zip(&parts) {
            assert_eq!((&a.0, &a.1), (&b.0, &b.1), "{pack}");
        }
        // A run that draws other samples is another run.
        let other =
            if pack == "packed" { "train_data_weights=[0.5, 0.5]" } else { "train_iters=5" };
        let out = neoxc(f, &[&saved[..], &[other]].concat(), &["--resume", "--steps", "4"]);
        assert_eq!(out.status.code(), Some(3), "{}", told(&out));
        let key = other.split('=').next().unwrap();
        assert!(told(&out).contains(&format!("{key}: ")), "{}", told(&out));
    }
}

/// The mean over all tokens is that over both halves of them, which labels and their complement leave out.
#[test]
fn labels_choose_what_is_learned() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let still = ["optimizer.params.lr=0.0", "train_iters=1"];
    let loss = |more: &[&str]| steps(f, &[&still[..], more].concat(), &[])[0].2;
    let all = loss(&[]);
    assert_eq!(all, loss(&["train_label_data_paths=[a, b]"]));
    let [l, m] =
        ["[a_l, b_l]", "[a_m, b_m]"].map(|l| loss(&[&format!("train_label_data_paths={l}")]));
    // A share of the tokens that is strictly between none and all.
    let share = (all - m) / (l - m);
    assert!((l - m).abs() > 1e-4 && share > 0.2 && share < 0.8, "{all} {l} {m}");
    // The numbers of tokens make it exact: 32 predictions, of which so many are the labels'.
    let count = (share * 32.0).round();
    assert!((all - (l * count + m * (32.0 - count)) / 32.0).abs() < 1e-5, "{all} {l} {m} {count}");
}

#[test]
fn data_keys_that_do_not_fit_are_told_with_both_places() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    write(f, "c", 3, 5);
    for (sets, code, why) in [
        (&["train_data_weights=[1.0]"][..], 3, "has 1 entries, and `train_data_paths` has 2"),
        (&["train_label_data_paths=[a_l]"], 3, "has 1 entries, and `train_data_paths` has 2"),
        (&["train_data_weights=[0.0, 0]"], 3, "add up to 0"),
        (&["train_data_weights=[0.7, -1]"], 3, "weights from 0 to 1e12"),
        (&["train_data_weights=[0.7, x]"], 3, "a list with the text \"x\", not a list of numbers"),
        (&["train_data_paths=[a, 7]"], 3, "not a list of paths"),
        (&["data_path=a", "train_data_paths=[a, none]"], 5, "without effect here: data_path"),
        (
            &[
                "train_data_paths=[]",
                "train_data_weights=[]",
                "data_path=a",
                "train_label_data_paths=[a_l]",
            ],
            3,
            "is beside `train_data_paths`, which is not given",
        ),
        (&["train_label_data_paths=[a_l, c_l]"], 3, "c_l.bin: has labels of 3 documents"),
        (&["train_label_data_paths=[a_l, none]"], 5, "none.idx"),
    ] {
        let out = neoxc(f, sets, &[]);
        assert_eq!(out.status.code(), Some(code), "{sets:?}: {}", told(&out));
        assert!(told(&out).contains(why), "{sets:?}: {}", told(&out));
    }
}
