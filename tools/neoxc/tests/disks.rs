//! Disks and kills, at every call by which a command changes a file: there is the older result whole, or the new one,
//! and what is left behind goes with the next command. (`tests/tests/faults.rs` has the same of a run's checkpoints.)
//! `NEOXC_FAULTS=all` (make faults) takes every call with every kind of fault instead of a sample (which has none of
//! `profile`); `NEOXC_FAULTS=tune` those of one case.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

const MODEL: &str = "{num_layers: 1, hidden_size: 32, num_attention_heads: 2, seq_length: 8, \
    max_position_embeddings: 8, pos_emb: rotary, rotary_pct: 0.5, no_weight_tying: true, padded_vocab_size: 512, \
    train_micro_batch_size_per_gpu: 2, data_path: d_text_document, split: \"100,0,0\", train_iters: 2, eval_iters: 0, \
    tokenizer_type: CharLevelTokenizer, optimizer: {type: Adam, params: {lr: 0.01}}}";

/// What happens to a call.
const KINDS: [&str; 6] = ["kill", "after", "enospc", "eio", "edquot", "xfsz"];

/// Faults of a case in a sample.
const SAMPLE: usize = 3;

/// Files below a folder by name; drafts, the kernel cache and the folder of temporary files are none.
type Tree = BTreeMap<String, Vec<u8>>;

/// A command, and what may be there when a fault has met it.
struct Case {
    name: &'static str,
    args: &'static [&'static str],
    /// Makes what is there before, in a folder that has a plan, text, a tokenizer and a data set.
    before: fn(&Path),
    /// Whether the command has a kernel cache of its own, which lacks the library and an object.
    own_cache: bool,
    /// Whether `now` may be there after a fault, beside what was there before and what is there after the command.
    part: fn(now: &Tree, before: &Tree, after: &Tree, killed: bool) -> bool,
    /// Whether the command replaces what it has made when it is run once more.
    again: bool,
}

fn never(_: &Tree, _: &Tree, _: &Tree, _: bool) -> bool {
    false
}

/// Files of a folder that are looked at one by one: each is the older or the new one.
fn each(now: &Tree, before: &Tree, after: &Tree, _: bool) -> bool {
    let known = |(name, bytes): (&String, &Vec<u8>)| {
        [before, after].iter().any(|tree| tree.get(name) == Some(bytes))
    };
    now.iter().all(known) && before.keys().all(|name| now.contains_key(name))
}

/// A data set that a kill has met between its two names: without an index it is none.
fn without_index(now: &Tree, before: &Tree, after: &Tree, killed: bool) -> bool {
    let others = |tree: &Tree| -> Tree {
        tree.iter()
            .filter(|(n, _)| !n.starts_with("d_text"))
            .map(|(n, b)| (n.clone(), b.clone()))
            .collect()
    };
    let bin = now.get("d_text_document.bin");
    let whole = [before, after].iter().any(|t| t.get("d_text_document.bin") == bin);
    killed
        && !now.contains_key("d_text_document.idx")
        && others(now) == others(before)
        && (bin.is_none() || whole)
}

/// A trace has the times of its run: any that is whole will do.
fn any_trace(now: &Tree, before: &Tree, _: &Tree, _: bool) -> bool {
    let (mut now, mut before) = (now.clone(), before.clone());
    let (got, _) = (now.remove("t.json"), before.remove("t.json"));
    let json = got.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    json.is_some_and(|json| json.as_array().is_some_and(|all| all.len() > 10)) && now == before
}

/// A certificate whose folder has not got its name yet, as a kill leaves it.
fn certificate(now: &Tree, before: &Tree, after: &Tree, killed: bool) -> bool {
    let name = "back.certificate.json";
    let mut rest = now.clone();
    killed && rest.remove(name).as_ref() == after.get(name) && rest == *before
}

const CASES: [Case; 9] = [
    Case {
        name: "compile",
        args: &["compile", "m.yml", "--set", "seed=7", "-o", "plan"],
        before: |_| (),
        own_cache: true,
        part: never,
        again: true,
    },
    Case {
        name: "compile --dump",
        args: &["compile", "m.yml", "--dump", "all=ir", "-o", "plan"],
        before: |f| {
            fs::create_dir(f.join("ir")).unwrap();
            fs::write(f.join("ir/model.mlir"), "older").unwrap();
        },
        own_cache: false,
        part: each,
        again: true,
    },
    Case {
        name: "preprocess",
        args: &["data", "preprocess", "text.jsonl", "--vocab-file", "t.json", "-o", "d", "--force"],
        before: |f| {
            ok(
                f,
                None,
                &["tokenizer", "train", "text.jsonl", "--vocab-size", "280", "-o", "t.json"],
            );
        },
        own_cache: false,
        part: without_index,
        again: true,
    },
    Case {
        name: "tokenizer",
        args: &[
            "tokenizer",
            "train",
            "text.jsonl",
            "--vocab-size",
            "300",
            "-o",
            "t.json",
            "--force",
        ],
        before: |f| fs::write(f.join("t.json"), "older").unwrap(),
        own_cache: false,
        part: never,
        again: true,
    },
    Case {
        name: "tune",
        args: &["tune", "--plan", "plan", "--threads", "1"],
        before: |_| (),
        own_cache: true,
        part: never,
        again: true,
    },
    Case {
        name: "profile",
        args: &["profile", "--plan", "plan", "--steps", "1", "--threads", "1", "--trace", "t.json"],
        before: |f| fs::write(f.join("t.json"), "older").unwrap(),
        own_cache: false,
        part: any_trace,
        again: true,
    },
    Case {
        name: "neox-to-hf",
        args: &["convert", "neox-to-hf", "ck/global_step2", "back"],
        before: |_| (),
        own_cache: false,
        part: certificate,
        again: false,
    },
    Case {
        name: "hf-to-neox",
        args: &["convert", "hf-to-neox", "hf", "neox"],
        before: |f| ok(f, None, &["convert", "neox-to-hf", "ck/global_step2", "hf"]),
        own_cache: false,
        part: never,
        again: false,
    },
    Case {
        name: "check --fix",
        args: &["check", "wrong.yml", "--fix"],
        before: |f| {
            fs::write(f.join("wrong.yml"), MODEL.replace("lr: 0.01", "lr: 1e-2")).unwrap();
            fs::write(f.join("wrong.fixed.yml"), "older").unwrap();
        },
        own_cache: false,
        part: never,
        again: true,
    },
];

/// What was asked for: all cases, or the one of this name.
fn asked() -> Option<String> {
    std::env::var("NEOXC_FAULTS").ok()
}

/// `neoxc` in `folder`, with a kernel cache and with one linker at most.
fn command(folder: &Path, cache: Option<&Path>, args: &[&str]) -> Command {
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    let mut c = Command::new(env!("CARGO_BIN_EXE_neoxc"));
    c.args(args).current_dir(folder).env("NEOXC_CACHE", cache.unwrap_or(&shared));
    c.env("TMPDIR", folder.join("tmp")).env("RAYON_NUM_THREADS", "1");
    c
}

fn told(out: &Output) -> String {
    String::from_utf8_lossy(&[&out.stdout[..], &out.stderr].concat()).into_owned()
}

fn ok(folder: &Path, cache: Option<&Path>, args: &[&str]) {
    let out = command(folder, cache, args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", told(&out));
}

/// Every file below `folder` by name, and every folder, which ends with a slash.
fn files(folder: &Path) -> Tree {
    let mut found = Tree::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|(n, b)| (format!("{name}/{n}"), b)));
            found.insert(format!("{name}/"), vec![]);
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// What is in a folder beside its cache; and the temporary names in it, in the cache and in TMPDIR.
fn results(folder: &Path) -> (Tree, Vec<String>) {
    let (mut tree, mut left) = (Tree::new(), vec![]);
    for (name, bytes) in files(folder) {
        if name.contains(".tmp") || name.starts_with("tmp/") && name != "tmp/" {
            left.push(name);
        } else if !name.starts_with("cache/") && name != "tmp/" {
            tree.insert(name, bytes);
        }
    }
    (tree, left)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, target) = entry.map(|e| (e.path(), to.join(e.file_name()))).unwrap();
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            fs::copy(entry, target).unwrap();
        }
    }
}

/// What faults are put into.
struct Bench {
    temporary: tempfile::TempDir,
    /// Where no more than one linker is.
    path: PathBuf,
    shim: PathBuf,
}

impl Bench {
    /// A folder with a trained model, a kernel cache that has all but what one compilation makes anew, and text.
    fn new() -> Bench {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        let shim = at("inject.so");
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tests/common/inject.c");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&shim, &source]).status();
        assert!(built.unwrap().success());
        fs::create_dir(at("bin")).unwrap();
        let folders: Vec<PathBuf> =
            std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
        let mut linkers =
            ["ld.lld-22", "ld.lld"].iter().flat_map(|l| folders.iter().map(move |f| f.join(l)));
        let linker = linkers.find(|l| l.exists()).expect("make setup installs lld");
        std::os::unix::fs::symlink(&linker, at("bin").join(linker.file_name().unwrap())).unwrap();
        let f = at("base");
        fs::create_dir_all(f.join("tmp")).unwrap();
        fs::write(f.join("m.yml"), MODEL).unwrap();
        let lines: Vec<String> = (0..30)
            .map(|n| format!("{{\"text\": \"line {n} of a text that is {} long\"}}\n", n * 17))
            .collect();
        fs::write(f.join("text.jsonl"), lines.concat()).unwrap();
        ok(
            &f,
            None,
            &["tokenizer", "train", "text.jsonl", "--vocab-size", "270", "-o", "first.json"],
        );
        ok(
            &f,
            None,
            &["data", "preprocess", "text.jsonl", "--vocab-file", "first.json", "-o", "d"],
        );
        let cache = f.join("cache");
        ok(&f, Some(&cache), &["compile", "m.yml", "-o", "plan"]);
        ok(&f, None, &["run", "--plan", "plan", "--save", "ck", "--threads", "1"]);
        // The largest entry is the library.
        let mut entries: Vec<(usize, String)> = files(&cache)
            .into_iter()
            .filter(|e| !e.1.is_empty())
            .map(|(n, b)| (b.len(), n))
            .collect();
        entries.sort();
        for (_, name) in [&entries[0], &entries[entries.len() - 1]] {
            fs::remove_file(cache.join(name)).unwrap();
        }
        Bench { path: at("bin"), temporary, shim }
    }

    /// Runs a case in a new copy of `from`, and has call `at` meet `kind`; gives the calls too.
    fn run(
        &self,
        case: &Case,
        from: &Path,
        name: &str,
        at: usize,
        kind: &str,
    ) -> (PathBuf, Output, Vec<String>) {
        let folder = self.temporary.path().join(name);
        copy(from, &folder);
        let [log, count] = ["calls", "count"].map(|end| folder.with_extension(end));
        fs::write(&count, [0; 8]).unwrap();
        let mut c =
            command(&folder, case.own_cache.then(|| folder.join("cache")).as_deref(), case.args);
        c.env("PATH", &self.path).env("LD_PRELOAD", &self.shim).env("FAULT_FOLDER", &folder);
        c.env("FAULT_AT", at.to_string()).env("FAULT_KIND", kind);
        let out = c.env("FAULT_LOG", &log).env("FAULT_COUNT", &count).output().unwrap();
        let calls = fs::read_to_string(&log).unwrap_or_default();
        (folder, out, calls.lines().map(String::from).collect())
    }
}

/// Numbers that are as good as random.
fn random() -> impl FnMut() -> usize {
    let state = RandomState::new();
    let mut n = 0u64;
    move || {
        n += 1;
        state.hash_one(n) as usize
    }
}

/// Calls by number: of those that differ only in numbers and drawn names (the linker's 80 objects), the first, the last
/// and every eighth.
fn different(calls: &[String]) -> Vec<usize> {
    let mut kinds: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        let parts = call.split('/').map(|part| match part.strip_suffix(".tmp") {
            Some(drawn) => drawn.rsplit_once('.').map_or(part, |(name, _)| name),
            None if part.len() == 64 => "entry",
            None => part.trim_start_matches(|c: char| c.is_ascii_digit()),
        });
        kinds.entry(parts.collect::<Vec<_>>().join("/")).or_default().push(at);
    }
    let some = |all: Vec<usize>| -> Vec<usize> {
        let last = all.len() - 1;
        (0..=last).filter(|i| i % 8 == 0 || *i == last).map(|i| all[i]).collect()
    };
    kinds.into_values().flat_map(some).collect()
}

/// Meets one case with faults, and gives how many, at how many calls.
fn met(bench: &Bench, case: &Case) -> (usize, usize) {
    let about = |text: &str| format!("{}: {text}", case.name);
    let name = |n: &str| format!("{}-{n}", case.name.replace([' ', '-'], ""));
    let base = bench.temporary.path().join(name("base"));
    copy(&bench.temporary.path().join("base"), &base);
    (case.before)(&base);
    let (before, left) = results(&base);
    assert!(left.is_empty(), "{left:?}");
    let (folder, out, calls) = bench.run(case, &base, &name("whole"), usize::MAX, "");
    assert!(out.status.success(), "{}", about(&told(&out)));
    let (after, left) = results(&folder);
    assert!(left.is_empty(), "{}", about(&left.join(" ")));
    let in_cache = case.name == "tune";
    assert_eq!(before == after, in_cache, "{}", case.name);
    fs::remove_dir_all(&folder).unwrap();
    for call in ["open ", "write ", "rename"] {
        assert!(calls.iter().any(|c| c.starts_with(call)), "{}: no {call} in {calls:?}", case.name);
    }
    let mut faults: Vec<(usize, &str)> =
        different(&calls).into_iter().flat_map(|at| KINDS.map(|kind| (at, kind))).collect();
    if asked().is_none() {
        let mut random = random();
        let count = faults.len();
        (0..SAMPLE).for_each(|i| faults.swap(i, i + random() % (count - i)));
        faults.truncate(SAMPLE);
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while let Some((at, kind)) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    one(bench, case, &base, (&before, &after), *at, kind);
                }
            });
        }
    });
    (faults.len(), calls.len())
}

/// One fault, and what may be there after it.
fn one(
    bench: &Bench,
    case: &Case,
    base: &Path,
    (before, after): (&Tree, &Tree),
    at: usize,
    kind: &str,
) {
    let name = format!("{}-{at}-{kind}", case.name.replace([' ', '-'], ""));
    let (folder, out, calls) = bench.run(case, base, &name, at, kind);
    let call = calls.get(at).cloned().unwrap_or_default();
    let text = told(&out);
    let about = format!("{}: {kind} at {at}, {call}: {:?} {text}", case.name, out.status);
    let killed = out.status.signal() == Some(9);
    let (now, left) = results(&folder);
    let is_after = now == *after || (case.part)(&now, before, after, killed);
    let different: Vec<&String> =
        now.keys().chain(before.keys()).filter(|n| now.get(*n) != before.get(*n)).collect();
    assert!(now == *before || is_after, "{about}: {different:?}");
    let removes = call.starts_with("unlink") || call.starts_with("rmdir");
    assert!(killed || removes || left.is_empty(), "{about}: {left:?}");
    match out.status.code() {
        // Of what is only for speed, or is removed, the fault is no failure.
        Some(0) => assert!(is_after, "{about}"),
        Some(code) => {
            assert!(code == 5 && text.contains("error[NXR0001]"), "{about}");
            assert!(!text.contains("panicked"), "{about}");
        }
        None => assert!(killed && ["kill", "after"].contains(&kind), "{about}"),
    }
    // Most commands that failed aloud need no proof that they work another time.
    let looked_at = killed || !left.is_empty() || at.is_multiple_of(4);
    if looked_at && (case.again || now != *after) {
        let cache = case.own_cache.then(|| folder.join("cache"));
        let out = command(&folder, cache.as_deref(), case.args).output().unwrap();
        assert!(out.status.success(), "{about}, and then {}", told(&out));
        let (now, left) = results(&folder);
        assert!(now == *after || (case.part)(&now, before, after, false), "{about}, and then");
        assert!(left.is_empty(), "{about}, and then {left:?}");
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn no_fault_of_a_disk_loses_or_mixes_what_a_command_writes() {
    let bench = Bench::new();
    let mut sum = (0, 0);
    let is_asked = |case: &&Case| match asked().as_deref() {
        Some("all") => true,
        Some(name) => name == case.name,
        // It measures the machine for seconds.
        None => case.name != "profile",
    };
    for case in CASES.iter().filter(is_asked) {
        let (faults, calls) = met(&bench, case);
        sum = (sum.0 + faults, sum.1 + calls);
        eprintln!("{}: {faults} faults at {calls} calls", case.name);
    }
    eprintln!("{} faults at {} calls of {} commands", sum.0, sum.1, CASES.len());
}
