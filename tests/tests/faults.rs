//! What machines do to jobs, done to the real binary: killed at random, killed or failed at every call that
//! writes, bits flipped. There is always a checkpoint that is whole, and a damaged one never passes for one.
//! `NEOXC_FAULTS=all` (make faults) takes every call and 50 kills instead of a sample.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use neoxc_runtime::checkpoint::{Reader, Save, Tensor, latest};
use rayon::prelude::*;

mod common;

use common::{all_tensors, data, plan, runtime};

fn all() -> bool {
    std::env::var("NEOXC_FAULTS").is_ok_and(|v| v == "all")
}

/// A plan on the disk, and what runs it.
struct Job {
    folder: tempfile::TempDir,
    binary: PathBuf,
    shim: PathBuf,
}

impl Job {
    fn new(sets: &[&str]) -> Job {
        let folder = tempfile::tempdir().unwrap();
        data(folder.path(), 0);
        plan(folder.path(), sets).write(&folder.path().join("plan")).unwrap();
        let shim = folder.path().join("inject.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/inject.c");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&shim, &source]).status();
        assert!(built.unwrap().success());
        Job { folder, binary: runtime(), shim }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, save: &Path, steps: u64) -> Command {
        let mut c = Command::new(&self.binary);
        c.arg("--plan").arg(self.at("plan")).args(["--steps", &steps.to_string()]);
        c.args(["--threads", "1"]).arg("--save").arg(save);
        c.arg("--metrics").arg(save.with_extension("jsonl"));
        if latest(save).unwrap().is_some() {
            c.arg("--resume");
        }
        c
    }

    /// A run in which call `at` below `save` meets `kind`; gives the calls too, each with its path.
    fn injected(&self, save: &Path, steps: u64, at: usize, kind: &str) -> (Output, Vec<String>) {
        let log = save.with_extension("calls");
        let _ = fs::remove_file(&log);
        let out = self
            .command(save, steps)
            .env("LD_PRELOAD", &self.shim)
            .env("FAULT_FOLDER", save)
            .env("FAULT_AT", at.to_string())
            .env("FAULT_KIND", kind)
            .env("FAULT_LOG", &log)
            .output()
            .unwrap();
        let calls = fs::read_to_string(&log).unwrap_or_default();
        (out, calls.lines().map(String::from).collect())
    }
}

/// Rank 1 writes elsewhere: rank 0 does not wait for it without end, and names it with the folder.
#[test]
fn a_save_that_a_rank_never_comes_to_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let plan = plan(folder.path(), &["world_size=2", "num_layers=1"]);
    let zeros = vec![0; 1 << 20];
    let save = Save {
        folder: folder.path().join("ck"),
        plan: &plan,
        seed: 1,
        draws: BTreeMap::new(),
        step: 7,
        samples: 0,
        scaling: None,
        attempt: 5,
        patience: Some(Duration::from_millis(500)),
    };
    let get = |rank: u64, t: &Tensor| &zeros[..t.block(&plan, rank).elements() as usize * 4];
    save.settle(save.write(&[0], &get, &|| false).unwrap()).unwrap();
    let e = save.publish(&AtomicBool::new(false)).unwrap_err();
    assert_eq!((e.code(), e.exit_code()), ("NXR0603", 7));
    let told = e.to_string();
    assert!(told.contains("rank 1 has written nothing that rank 0 sees in"), "{told}");
    assert!(told.contains("waited for rank 1 in the save of step 7"), "{told}");
    assert_eq!(fs::read_dir(folder.path().join("ck")).unwrap().count(), 0);
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Loss by step, to the bit; a step that was made twice must have come out alike.
fn losses(metrics: &Path) -> BTreeMap<u64, String> {
    let mut out = BTreeMap::new();
    for line in fs::read_to_string(metrics).unwrap_or_default().lines() {
        // The last line of a killed run may be cut.
        let Ok(json) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let key = format!("{} {} {}", json["loss"], json["grad_norm"], json["samples"]);
        let before = out.insert(json["step"].as_u64().unwrap(), key.clone());
        assert!(before.is_none_or(|b| b == key), "{line}");
    }
    out
}

#[test]
fn killed_at_any_moment_it_goes_on_as_if_nothing_had_been() {
    let job = Job::new(&["checkpoint_factor=1", "keep_last_n_checkpoints=2"]);
    const STEPS: u64 = 40;
    let start = Instant::now();
    assert!(job.command(&job.at("whole"), STEPS).output().unwrap().status.success());
    let whole = start.elapsed();
    let want = losses(&job.at("whole.jsonl"));
    assert_eq!(want.len(), STEPS as usize);
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut random = seed | 1;
    let save = job.at("killed");
    let mut got = BTreeMap::new();
    let (mut kills, mut found) = (0, 0);
    while kills < if all() { 50 } else { 10 } {
        let mut run = job.command(&save, STEPS);
        let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_nanos(random % (whole.as_nanos() as u64 / 2)));
        child.kill().unwrap();
        let killed = child.wait().unwrap().signal() == Some(9);
        kills += usize::from(killed);
        if let Some(newest) = latest(&save).unwrap() {
            found += 1;
            all_tensors(&newest);
        }
        let now = losses(&save.with_extension("jsonl"));
        assert!(now.iter().all(|(step, loss)| want[step] == *loss), "seed {seed}");
        got.extend(now);
        if !killed {
            // It was through: from the beginning.
            fs::remove_dir_all(&save).unwrap();
            fs::remove_file(save.with_extension("jsonl")).unwrap();
        }
    }
    assert!(found > kills / 2, "{found} of {kills} left a checkpoint");
    assert!(job.command(&save, STEPS).output().unwrap().status.success());
    assert_eq!(losses(&save.with_extension("jsonl")), want);
    let last = format!("global_step{STEPS}");
    assert!(all_tensors(&save.join(&last)) == all_tensors(&job.at("whole").join(&last)));
    let left = |e: fs::DirEntry| e.file_name().to_string_lossy().ends_with(".tmp");
    assert!(!fs::read_dir(&save).unwrap().any(|e| left(e.unwrap())));
}

/// A model whose files take several writes of each kind.
const LARGE: [&str; 4] =
    ["num_layers=1", "hidden_size=128", "num_attention_heads=2", "padded_vocab_size=2048"];

/// Whether files in `folder` can be written past the page cache.
fn has_direct(folder: &Path) -> bool {
    let mut how = fs::OpenOptions::new();
    let file = how.write(true).create(true).custom_flags(libc::O_DIRECT).open(folder.join("probe"));
    if let Err(e) = &file {
        assert_eq!(e.raw_os_error(), Some(libc::EINVAL));
        eprintln!("no O_DIRECT in {}: only ordinary writes are tested", folder.display());
    }
    file.is_ok()
}

/// Whether a call writes into a rank's file.
fn is_part(call: &str) -> bool {
    let how = call.split(' ').next().unwrap_or_default();
    ["direct", "pwrite", "refused"].contains(&how) && call.ends_with(".safetensors")
}

/// Step 1 is saved; then the run that saves step 2 (and, while it lasts, removes step 1) meets a fault at each call.
#[test]
fn no_fault_of_a_disk_loses_a_checkpoint_or_makes_a_bad_one() {
    let sets = [&LARGE[..], &["checkpoint_factor=1", "keep_last_n_checkpoints=1"]].concat();
    let job = Job::new(&sets);
    let (base, save) = (job.at("base"), job.at("save"));
    assert!(job.command(&base, 1).output().unwrap().status.success());
    let one = all_tensors(&base.join("global_step1"));
    copy(&base, &save);
    let (out, calls) = job.injected(&save, 2, usize::MAX, "");
    assert!(out.status.success());
    let two = all_tensors(&save.join("global_step2"));
    assert!(one != two && !save.join("global_step1").exists());
    let names =
        ["open ", "pwrite ", "fsync ", "rename ", "mkdir ", "unlink ", "unlinkat ", "write "];
    let direct = has_direct(job.folder.path()).then_some("direct ");
    for name in names.into_iter().chain(direct) {
        assert!(calls.iter().any(|c| c.starts_with(name)), "no {name}in {calls:?}");
    }
    let tensor_writes: Vec<usize> = (0..calls.len()).filter(|n| is_part(&calls[*n])).collect();
    // Between header and last tensors all writes are alike.
    let alike = |n: &usize| tensor_writes[2..tensor_writes.len() - 2].contains(n);
    let mut faults = vec![];
    for (n, call) in calls.iter().enumerate() {
        let write = call.starts_with("write ") || is_part(call);
        if call.contains(".probe.") || !all() && alike(&n) && n % 8 != 0 {
            continue;
        }
        for kind in ["kill", "after", "enospc", "eio", "edquot", "xfsz", "short", "flip"] {
            if write || !["short", "flip"].contains(&kind) {
                faults.push((n, call, kind));
            }
        }
    }
    faults.par_iter().for_each(|&(n, call, kind)| {
        let save = job.at(&format!("save-{n}-{kind}"));
        copy(&base, &save);
        let (out, seen) = job.injected(&save, 2, n, kind);
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        let about = format!("{kind} at {n}, {call}: {told}");
        assert_eq!(seen.get(n).map(|c| c.split(' ').next()), Some(call.split(' ').next()));
        let newest = match latest(&save) {
            // A name that is none is told with the one that is meant.
            Err(e) if kind == "flip" && call.contains(".latest.") => {
                assert!(e.to_string().contains("global_step2 is the newest"), "{about}: {e}");
                return;
            }
            found => found.unwrap().expect(&about),
        };
        if kind == "flip" && out.status.success() {
            let first = damage(&newest);
            // What the lock says is for people.
            let harmless = call.ends_with("/.lock");
            assert_eq!(first.is_none(), harmless, "{about}");
            let damage = first.unwrap_or_default();
            assert!(harmless || damage.contains("global_step2"), "{about}: {damage}");
            assert!(!tensor_writes.contains(&n) || named(&damage), "{about}: {damage}");
            return;
        }
        let found = all_tensors(&newest);
        assert!(found == one || found == two, "{about}");
        match kind {
            "kill" | "after" => assert_eq!(out.status.signal(), Some(9), "{about}"),
            "short" => assert!(out.status.success() && found == two, "{about}"),
            // Leaving something behind is no failure.
            _ if out.status.success() => assert!(found == two, "{about}"),
            "flip" => assert_eq!(out.status.code(), Some(3), "{about}"),
            _ => {
                assert_eq!(out.status.code(), Some(5), "{about}");
                assert!(told.contains("error[NXR0001]") && told.contains("/save-"), "{about}");
                assert!(!tensor_writes.contains(&n) || named(&told), "{about}");
            }
        }
        fs::remove_dir_all(&save).unwrap();
    });
    eprintln!("{} faults at {} calls", faults.len(), calls.len());
}

/// Whether a message names a tensor of the file, or what stands before them.
fn named(told: &str) -> bool {
    ["gpt_neox.", "embed_out.", "header"].iter().any(|what| told.contains(what))
}

/// The error of reading a whole checkpoint.
fn damage(folder: &Path) -> Option<String> {
    let read = || {
        let reader = Reader::open(folder)?;
        let mut whole = vec![];
        reader.manifest.tensors.keys().try_for_each(|name| reader.read(name, &mut whole))
    };
    read().err().map(|e| e.to_string())
}

/// Disks that cannot be written past the page cache, or not from anywhere in memory, get the same files.
#[test]
fn a_disk_without_direct_writes_gets_ordinary_ones() {
    let job = Job::new(&[&LARGE[..], &["checkpoint_factor=1"]].concat());
    let save = |name: &str, kind: &str| {
        let (out, mut calls) = job.injected(&job.at(name), 1, usize::MAX, kind);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        calls.retain(|c| is_part(c));
        let hows: Vec<String> = calls.iter().map(|c| c.split(' ').next().unwrap().into()).collect();
        (all_tensors(&job.at(name).join("global_step1")), hows)
    };
    let (want, hows) = save("whole", "");
    let count = |hows: &[String], what: &str| hows.iter().filter(|h| *h == what).count();
    let direct = has_direct(job.folder.path());
    assert_eq!(count(&hows, "direct") > 2, direct, "{hows:?}");
    // Each kind of refusal is met once, and the rest goes another way.
    for (kind, refused, after) in [("plain", 0, 0), ("refuse", 2, 0), ("picky", 1, 2)] {
        let (got, hows) = save(kind, kind);
        assert!(got == want, "{kind}");
        assert!(count(&hows, "refused") <= refused && count(&hows, "pwrite") > 0, "{hows:?}");
        assert_eq!(count(&hows, "refused") > 0, direct && refused > 0, "{kind}: {hows:?}");
        assert_eq!(count(&hows, "direct") > after, direct && after > 0, "{kind}: {hows:?}");
    }
}

/// A disk so slow that steps wait for it: what is saved is still the step's own.
#[test]
fn a_slow_disk_delays_steps_and_changes_nothing() {
    let job = Job::new(&[&LARGE[..], &["checkpoint_factor=1"]].concat());
    let (fast, slow) = (job.at("fast"), job.at("slow"));
    assert!(job.command(&fast, 4).output().unwrap().status.success());
    let (out, calls) = job.injected(&slow, 4, 0, "slow");
    assert!(out.status.success());
    // While a step waits, the page cache is tried too, and not only for a file's end.
    let parts: Vec<&String> = calls.iter().filter(|c| is_part(c)).collect();
    let tried = |w: &[&String]| {
        w[0].starts_with("pwrite ")
            && w[0].split_once(' ').map(|p| p.1) == w[1].split_once(' ').map(|p| p.1)
    };
    assert!(parts.windows(2).any(tried), "{parts:?}");
    for step in 1..=4 {
        let name = format!("global_step{step}");
        assert!(all_tensors(&fast.join(&name)) == all_tensors(&slow.join(&name)), "{name}");
    }
    let text = fs::read_to_string(slow.with_extension("jsonl")).unwrap();
    let waited: Vec<f64> = text
        .lines()
        .map(|l| {
            let json: serde_json::Value = serde_json::from_str(l).unwrap();
            json["checkpoint_seconds"].as_f64().unwrap()
        })
        .collect();
    assert!(waited[0] == 0.0 && waited[1..].iter().all(|s| *s > 0.1), "{waited:?}");
}
