//! Work is never lost: what a command finds where it is to write stays, unless it is an older result of the same kind.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use neoxc_runtime::data::IndexedWriter;
use neoxc_runtime::data::idx::TokenType;

const MODEL: &str = "{num_layers: 1, hidden_size: 16, num_attention_heads: 2, seq_length: 8, \
    max_position_embeddings: 8, pos_emb: none, no_weight_tying: true, padded_vocab_size: 64, \
    train_micro_batch_size_per_gpu: 4, data_path: d, split: \"100,0,0\", log_interval: 1, \
    train_iters: 4, eval_iters: 0, optimizer: {type: Adam, params: {lr: 0.01}}}";

/// Ends after the first step with weights that are not finite, though the step's loss and gradients are.
const SPOILED: [&str; 4] =
    ["--set", "optimizer.params.lr=3.0e+38", "--set", "optimizer.params.weight_decay=100.0"];

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_neoxc"));
    let kernels = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    command.args(args).current_dir(folder).env("NEOXC_CACHE", kernels);
    command
}

fn neoxc(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    ended(&command(folder, args).output().unwrap())
}

fn ended(out: &Output) -> (Option<i32>, String) {
    let text = [&out.stdout[..], &out.stderr].concat();
    (out.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn prepare(folder: &Path) {
    std::fs::write(folder.join("model.yml"), MODEL).unwrap();
    let mut w = IndexedWriter::create(&folder.join("d"), TokenType::U16, true).unwrap();
    (0..40u32).for_each(|i| w.document(&[(); 20].map(|()| i % 50)).unwrap());
    w.finish().unwrap();
    assert_eq!(neoxc(folder, &["compile", "model.yml", "-o", "plan"]).0, Some(0));
}

/// All names under `folder`.
fn names(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().unwrap().is_dir() {
            found.extend(names(&entry.path()).iter().map(|n| format!("{name}/{n}")));
        }
        found.insert(name);
    }
    found
}

#[test]
fn a_plan_replaces_only_a_plan_and_sweeps_what_was_left_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let save = ["run", "--plan", "plan", "--save", "plan/checkpoints", "--steps", "1"];
    assert_eq!(neoxc(f, &save).0, Some(0));
    let saved = "plan/checkpoints/global_step1";
    for (out, why) in [("plan", "it holds checkpoints/"), (saved, "is not that of a plan")] {
        let before = names(&f.join("plan"));
        let (code, told) = neoxc(f, &["compile", "model.yml", "--set", "seed=7", "-o", out]);
        assert!(code == Some(3) && told.contains(why) && told.contains("NXR02"), "{told}");
        assert_eq!(names(&f.join("plan")), before);
    }
    std::fs::rename(f.join("plan/checkpoints"), f.join("checkpoints")).unwrap();
    // As a compile leaves it that is killed while it writes, or after it has given the new plan its name.
    std::fs::create_dir(f.join(".plan.0123456789abcdef.tmp")).unwrap();
    std::fs::write(f.join(".plan.0123456789abcdef.tmp/plan.json"), "").unwrap();
    let (code, told) = neoxc(f, &["compile", "model.yml", "--set", "seed=7", "-o", "plan"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(names(f).iter().all(|n| !n.contains(".tmp")), "{:?}", names(f));
}

#[test]
fn weights_that_are_not_finite_are_not_saved_and_those_before_stay() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let base = ["run", "model.yml", "--set", "keep_last_n_checkpoints=1", "--save", "s"];
    let (code, told) = neoxc(f, &[&base[..], &["--steps", "2"]].concat());
    assert_eq!(code, Some(0), "{told}");
    let go_on = ["--set", "warmup=0.0", "--steps", "3", "--resume"];
    let (code, told) = neoxc(f, &[&base[..], &SPOILED, &go_on].concat());
    assert!(code == Some(4) && told.contains("NXR0403"), "{told}");
    assert!(told.contains("after step 3") && told.contains("no checkpoint was written"), "{told}");
    let left: Vec<String> = names(&f.join("s")).into_iter().filter(|n| !n.contains('/')).collect();
    assert_eq!(left, ["global_step2", "latest"]);
}

#[test]
fn a_folder_of_checkpoints_belongs_to_one_run_at_a_time() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let base = ["run", "--plan", "plan", "--save", "s", "--force"];
    let long = ["--steps", "1000000", "--synthetic"];
    let all: Vec<&str> = base.iter().chain(&long).copied().collect();
    let quiet = |c: &mut Command| c.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = quiet(&mut command(f, &all));
    let lock = f.join("s/.lock");
    let waited = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        std::fs::read_to_string(&lock).is_ok_and(|text| text.contains("process"))
    });
    assert!(waited, "the first run has taken the folder");
    let (code, told) = neoxc(f, &[&base[..], &["--steps", "1"]].concat());
    let owner = format!("process {} on", first.id());
    assert!(code == Some(5) && told.contains("NXR0003") && told.contains(&owner), "{told}");
    // Killed and not waited for: a zombie has no lock, whatever /proc says of it.
    first.kill().unwrap();
    let freed = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        neoxc(f, &[&base[..], &["--steps", "1"]].concat()).0 == Some(0)
    });
    assert!(freed, "the lock ends with its process");
    first.wait().unwrap();
    assert!(names(f).iter().all(|n| !n.contains(".tmp") && !n.contains(".lock")), "{:?}", names(f));
}

/// What the machine lacks is said with exit code 5, and leaves nothing; a run goes on without those who read of it.
#[test]
fn a_machine_that_lacks_something_is_named_and_a_run_goes_on_without_its_readers() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let before = names(f);
    let other = ["compile", "model.yml", "--set", "num_layers=2", "-o", "other"];
    for (name, value, why) in [
        ("PATH", "/nonexistent", "cannot compile kernels: ld.lld"),
        ("TMPDIR", "/nonexistent", "cannot use /nonexistent: No such file"),
    ] {
        let mut other = command(f, &other);
        let lacking = other.env(name, value).env("NEOXC_CACHE", f.join("cache"));
        let (code, told) = ended(&lacking.output().unwrap());
        assert!(code == Some(5) && told.contains("NXR0001") && told.contains(why), "{told}");
    }
    let limited = |limit: &str, args: &[&str]| {
        let shell = format!("ulimit {limit}; exec \"$0\" \"$@\"");
        let mut command = Command::new("bash");
        command.args(["-c", &shell, env!("CARGO_BIN_EXE_neoxc")]).args(args).current_dir(f);
        ended(&command.env("NEOXC_CACHE", f.join("cache")).output().unwrap())
    };
    // Files of at most 1 KiB.
    let train = ["run", "--plan", "plan", "--save", "s", "--steps", "2"];
    for (args, exit) in [(&other[..], 5), (&train, 4)] {
        let (code, told) = limited("-f 1", args);
        assert!(code == Some(exit) && told.contains("File too large"), "{told}");
    }
    let new: Vec<String> = names(f).difference(&before).cloned().collect();
    assert!(new.iter().all(|n| n == "s" || n == "cache" || n.starts_with("cache/")), "{new:?}");

    let steps =
        ["run", "--plan", "plan", "--steps", "2", "--save", "kept", "--metrics", "/dev/full"];
    let (code, told) = neoxc(f, &steps);
    assert!(code == Some(5) && told.contains("goes on without metrics from step 1 on"), "{told}");
    assert!(f.join("kept/global_step2/manifest.json").exists());
    // What another launcher left behind.
    for name in ["PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"] {
        let run = ["run", "--plan", "plan", "--steps", "1"];
        let (code, told) = ended(&command(f, &run).env(name, "1").output().unwrap());
        assert!(code == Some(0) && told.contains("step 1: training loss"), "{name}: {told}");
    }
}

/// A plan is code: every command that would run one asks whose it is.
#[test]
fn a_plan_that_others_may_write_is_not_run_unless_told() {
    use std::os::unix::fs::PermissionsExt;
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f);
    let open = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(f.join("plan/plan.json"), open).unwrap();
    let train = ["run", "--plan", "plan", "--steps", "1"];
    for args in [
        &train[..],
        &["profile", "--plan", "plan", "--steps", "1"],
        &["tune", "--plan", "plan"],
        &["generate", "--plan", "plan", "--prompt", "x"],
    ] {
        let (code, told) = neoxc(f, args);
        assert!(
            code == Some(3) && told.contains("plan.json: may be written by everybody"),
            "{told}"
        );
        assert!(told.contains("NXR0201") && told.contains("--trust-plan"), "{told}");
    }
    let (code, told) = neoxc(f, &[&train[..], &["--trust-plan"]].concat());
    assert_eq!(code, Some(0), "{told}");
}
