//! Ranks as processes of mpirun: the same numbers as ranks of one process, and faults that have a name.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use neoxc_runtime::checkpoint::{Reader, latest};
use neoxc_runtime::data::IndexedWriter;
use neoxc_runtime::data::idx::TokenType;

const NEOXC: &str = env!("CARGO_BIN_EXE_neoxc");

const MODEL: &str = r#"{
  "num_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "seq_length": 16,
  "max_position_embeddings": 16, "padded_vocab_size": 64, "pos_emb": "rotary", "rotary_pct": 0.5,
  "no_weight_tying": true, "gpt_j_residual": true, "train_micro_batch_size_per_gpu": 1,
  "train_batch_size": 8, "train_iters": 4, "eval_interval": 2, "eval_iters": 1, "data_path": "d",
  "split": "80,20,0", "optimizer": {"type": "Adam", "params": {"lr": 0.01}},
}"#;

/// Compiles the model to `plan`, and makes data for it.
fn prepare(folder: &Path, plan: &str, sets: &[&str]) {
    std::fs::write(folder.join("model.yml"), MODEL).unwrap();
    let mut data = IndexedWriter::create(&folder.join("d"), TokenType::U16, true).unwrap();
    for n in 0..10 {
        data.document(&(0..40 + n).map(|i| (i * 3 + n) % 8).collect::<Vec<u32>>()).unwrap();
    }
    data.finish().unwrap();
    let mut command = Command::new(NEOXC);
    command.args(["compile", "model", "-o", plan]).current_dir(folder);
    // Only what is compiled here matters, not how: kernels of all tests lie in one place.
    command.env("NEOXC_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels"));
    for s in sets {
        command.args(["--set", s]);
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// mpirun as it works on any one machine, containers and root included.
fn mpirun(folder: &Path, ranks: &str) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["-n", ranks, "--oversubscribe", "--bind-to", "none", "--mca", "pml", "ob1"])
        .args(["--mca", "btl", "self,vader,tcp", "--mca", "btl_tcp_if_include", "lo"])
        .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")])
        .env("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        .current_dir(folder);
    command
}

fn run(mut command: Command, args: &[&str]) -> Output {
    command.args(["run", "--threads", "1"]).args(args).output().unwrap()
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Step, bits of loss and gradient norm, and samples of each line.
fn losses(file: &Path) -> Vec<(u64, u32, u32, String)> {
    let bits = |v: &serde_json::Value| (v.as_f64().unwrap() as f32).to_bits();
    let line = |l: &str| {
        let j: serde_json::Value = serde_json::from_str(l).unwrap();
        (
            j["step"].as_u64().unwrap(),
            bits(&j["loss"]),
            bits(&j["grad_norm"]),
            j["samples"].to_string(),
        )
    };
    std::fs::read_to_string(file).unwrap().lines().map(line).collect()
}

#[test]
fn processes_compute_what_threads_compute() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    let mesh = ["pipe_parallel_size=2", "model_parallel_size=2", "sequence_parallel=true"];
    let zero = "zero_optimization={\"stage\": 1}";
    prepare(f, "plan", &[&mesh[..], &["world_size=8", zero]].concat());
    let mut alone = Command::new(NEOXC);
    alone.current_dir(f);
    let args = ["--plan", "plan", "--metrics", "threads.jsonl", "--save", "threads"];
    let out = run(alone, &args);
    assert!(out.status.success() && text(&out).contains("as threads"), "{}", text(&out));
    let ranks = || {
        let mut command = mpirun(f, "8");
        command.arg(NEOXC);
        command
    };
    let go = |steps, more: &[&str]| {
        let args = ["--plan", "plan", "--metrics", "m.jsonl", "--save", "ck", "--steps", steps];
        let out = run(ranks(), &[&args[..], more].concat());
        assert!(out.status.success(), "{}", text(&out));
        text(&out)
    };
    let told = go("2", &[]);
    // Only rank 0 speaks.
    assert_eq!(told.matches("8 ranks as processes").count(), 1, "{told}");
    assert_eq!(told.matches("saved ck/global_step2").count(), 1, "{told}");
    go("4", &["--resume"]);
    let want = losses(&f.join("threads.jsonl"));
    assert_eq!(want.len(), 4);
    assert_eq!(losses(&f.join("m.jsonl")), want);
    // Each process has written its own parts; together they are the same checkpoint.
    let read = |save: &str, name: &str| std::fs::read(f.join(save).join("global_step4").join(name));
    let manifest = read("threads", "manifest.json").unwrap();
    assert_eq!(manifest, read("ck", "manifest.json").unwrap());
    for rank in 0..8 {
        let name = format!("rank-{rank:05}.safetensors");
        assert_eq!(read("threads", &name).unwrap(), read("ck", &name).unwrap(), "{name}");
    }
}

#[test]
fn processes_that_do_not_belong_together_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f, "plan", &["world_size=2"]);
    let mut command = mpirun(f, "3");
    command.arg(NEOXC);
    let out = run(command, &["--plan", "plan"]);
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    let want = "the plan is for 2 ranks, but there are 3 processes";
    assert_eq!(text(&out).matches(want).count(), 1, "{}", text(&out));
    // The last rank has another plan, other data, other options.
    prepare(f, "warmer", &["world_size=2", "optimizer.params.lr=0.02"]);
    std::fs::create_dir(f.join("other")).unwrap();
    prepare(&f.join("other"), "plan", &["world_size=2"]);
    let bin = f.join("other/d.bin");
    let mut tokens = std::fs::read(&bin).unwrap();
    tokens[100] ^= 1;
    std::fs::write(bin, tokens).unwrap();
    let elsewhere = f.join("other");
    let elsewhere = elsewhere.to_str().unwrap();
    for (place, second, key) in [
        (".", &["--plan", "warmer"][..], "configuration"),
        (".", &["--plan", "plan", "--steps", "3"], "option"),
        (elsewhere, &["--plan", "plan"], "data"),
    ] {
        let mut command = mpirun(f, "1");
        command.args([NEOXC, "run", "--plan", "plan", ":", "-n", "1", "-wdir", place, NEOXC]);
        let out = run(command, second);
        assert_eq!(out.status.code(), Some(3), "{key}: {}", text(&out));
        let told = format!("rank 1 has another {key}");
        assert!(text(&out).contains(&told), "{told}: {}", text(&out));
    }
}

#[test]
fn a_number_that_is_not_finite_is_named_once() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f, "plan", &["world_size=2", "optimizer.params.lr=1.0e+30", "gradient_clipping=0"]);
    let mut alone = Command::new(NEOXC);
    alone.current_dir(f);
    let threads = run(alone, &["--plan", "plan"]);
    let mut command = mpirun(f, "2");
    command.arg(NEOXC);
    let processes = run(command, &["--plan", "plan"]);
    let line = |out: &Output| {
        assert_eq!(out.status.code(), Some(4), "{}", text(out));
        let told = text(out);
        let lines: Vec<&str> = told.lines().filter(|l| l.contains("NXR0403")).collect();
        assert_eq!(lines.len(), 1, "{told}");
        lines[0].to_string()
    };
    let told = line(&processes);
    assert!(told.contains("(programs/train_step.txt:") && told.contains(", on rank 0"), "{told}");
    assert_eq!(told, line(&threads));
}

/// A job that trains until it is ended; `more` is for mpirun.
fn endless(f: &Path, more: &[&str]) -> Child {
    let mut command = mpirun(f, "4");
    command.args(more);
    // One after the other they begin anew in the same folder.
    let args =
        ["run", "--plan", "plan", "--threads", "1", "--timeout", "2", "--save", "ck", "--force"];
    command.arg(NEOXC).args(args).args(["--metrics", "m.jsonl"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    while std::fs::read_to_string(f.join("m.jsonl")).unwrap_or_default().lines().count() < 2 {
        assert!(Instant::now() < end, "the job does not train");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// The processes of a rank whose working folder is `f`.
fn processes(f: &Path, rank: u32) -> Vec<String> {
    let word = format!("OMPI_COMM_WORLD_RANK={rank}");
    let is = |process: &Path| {
        let words = std::fs::read(process.join("environ")).unwrap_or_default();
        words.split(|b| *b == 0).any(|w| w == word.as_bytes())
            && std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == f)
            && std::fs::read_link(process.join("exe")).is_ok_and(|exe| exe == Path::new(NEOXC))
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path());
    let number = |p: std::path::PathBuf| p.file_name().unwrap().to_str().unwrap().to_string();
    all.filter(|p| is(p)).map(number).collect()
}

/// Sends a signal to the process of a rank whose working folder is `f`.
fn signal(f: &Path, rank: u32, signal: &str) {
    let found = processes(f, rank);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(Command::new("kill").args(["-s", signal, &found[0]]).status().unwrap().success());
}

/// A rank that stops before the others can watch it ends the job in the time that was given for its start.
#[test]
fn a_rank_that_never_starts_is_not_waited_for_without_end() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f, "plan", &["world_size=2", "model_parallel_size=2"]);
    let mut command = mpirun(f, "1");
    command.args([NEOXC, "run", "--plan", "plan", "--start-timeout", "2"]);
    command.args([":", "-n", "1", "sh", "-c", "kill -s STOP $$"]);
    let start = Instant::now();
    let out = command.output().unwrap();
    let told = text(&out);
    let want = "the start of the job took more than 2 s; rank 1 has not come: ";
    assert!(told.contains(want) && told.contains(" is stopped"), "{told}");
    assert_eq!(out.status.code(), Some(4), "{told}");
    assert!(start.elapsed() < Duration::from_secs(60), "{told}");
}

/// A local folder by mistake is found before the first step; it would be the end of every save.
#[test]
fn a_save_folder_that_is_not_shared_is_named_at_the_start() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    prepare(f, "plan", &["world_size=2"]);
    let other = f.join("other");
    std::fs::create_dir(&other).unwrap();
    for name in ["d.bin", "d.idx"] {
        std::fs::copy(f.join(name), other.join(name)).unwrap();
    }
    let plan = f.join("plan");
    let plan = plan.to_str().unwrap();
    let each = [NEOXC, "run", "--plan", plan, "--save", "ck", "--timeout", "5"];
    let mut command = mpirun(f, "1");
    command.args(each).args([":", "-n", "1", "-wdir", other.to_str().unwrap()]).args(each);
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(3), "{}", text(&out));
    let want = "rank 1 does not see in ck what rank 0 writes there";
    assert!(text(&out).contains(want), "{}", text(&out));
    assert_eq!(std::fs::read_dir(f.join("ck")).unwrap().count(), 0);
}

/// Ports on which processes listen.
fn ports(processes: &[String]) -> Vec<u16> {
    let mut sockets = vec![];
    for p in processes {
        let files = std::fs::read_dir(format!("/proc/{p}/fd")).unwrap().flatten();
        let names = files.filter_map(|f| std::fs::read_link(f.path()).ok());
        sockets.extend(names.filter_map(|n| {
            Some(n.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_string())
        }));
    }
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let listens = words[3] == "0A" && sockets.iter().any(|s| s == words[9]);
        listens.then(|| u16::from_str_radix(words[1].split_once(':').unwrap().1, 16).unwrap())
    };
    table.lines().skip(1).filter_map(port).collect()
}

/// A byte to a port of the MPI library holds that up without end, while signs of life go on: ranks wait, and nothing
/// arrives. Then the job ends, and says so.
#[test]
fn a_job_in_which_nothing_arrives_any_more_is_ended() {
    let temporary = tempfile::tempdir().unwrap();
    let f = std::fs::canonicalize(temporary.path()).unwrap();
    prepare(&f, "plan", &["world_size=4", "model_parallel_size=4", "train_iters=1000000"]);
    let child = endless(&f, &[]);
    let all: Vec<String> = (0..4).flat_map(|rank| processes(&f, rank)).collect();
    let mut calls = vec![];
    for port in ports(&all) {
        let mut call = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::io::Write::write_all(&mut call, b"x").unwrap();
        calls.push(call);
    }
    assert!(!calls.is_empty(), "MPI listens");
    let start = Instant::now();
    let out = child.wait_with_output().unwrap();
    let told = text(&out);
    assert_eq!(out.status.code(), Some(7), "{told}");
    assert!(told.contains("has waited for 2 s, and so have all others"), "{told}");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// A random rank is killed at a random time, saving included: there is a whole checkpoint every time, and the job
/// goes on from it to the bit. `NEOXC_FAULTS=all` (make faults) does so 50 times.
#[test]
fn a_job_goes_on_after_the_death_of_any_rank() {
    let temporary = tempfile::tempdir().unwrap();
    let f = std::fs::canonicalize(temporary.path()).unwrap();
    let mesh = ["world_size=2", "model_parallel_size=2", "zero_optimization.stage=0"];
    let often = ["checkpoint_factor=1", "keep_last_n_checkpoints=2"];
    let long = ["train_iters=40", "eval_iters=0"];
    prepare(&f, "plan", &[mesh.as_slice(), &often, &long].concat());
    let mut alone = Command::new(NEOXC);
    alone.current_dir(&f);
    let out = run(alone, &["--plan", "plan", "--metrics", "want.jsonl", "--save", "threads"]);
    assert!(out.status.success(), "{}", text(&out));
    let want = losses(&f.join("want.jsonl"));
    let job = || {
        let mut command = mpirun(&f, "2");
        let args = ["run", "--plan", "plan", "--threads", "1", "--timeout", "2", "--save", "ck"];
        command.arg(NEOXC).args(args).args(["--metrics", "m.jsonl"]);
        command.args(latest(&f.join("ck")).unwrap().is_some().then_some("--resume"));
        let told = std::fs::File::create(f.join("told")).unwrap();
        command.stdout(Stdio::null()).stderr(told);
        command
    };
    let told = || std::fs::read_to_string(f.join("told")).unwrap();
    // A job that hangs fails the test.
    let ended = |mut child: Child| {
        let end = Instant::now() + Duration::from_secs(90);
        while Instant::now() < end {
            if let Some(status) = child.try_wait().unwrap() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        panic!("the job does not end: {}", told());
    };
    let steps = || std::fs::read_to_string(f.join("m.jsonl")).unwrap_or_default().lines().count();
    let start = Instant::now();
    assert!(ended(job().spawn().unwrap()), "{}", told());
    let whole = start.elapsed().as_nanos() as u64;
    let fresh = || {
        std::fs::remove_dir_all(f.join("ck")).unwrap();
        std::fs::remove_file(f.join("m.jsonl")).unwrap();
    };
    fresh();
    let all = std::env::var("NEOXC_FAULTS").is_ok_and(|v| v == "all");
    let mut random = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    let mut kills = 0;
    while kills < if all { 50 } else { 4 } {
        let before = steps();
        let mut child = job().spawn().unwrap();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Not while MPI is still starting, of which this is no test.
        while steps() == before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_nanos(random % (whole / 4)));
        for process in processes(&f, (random >> 40) as u32 % 2) {
            let mut kill = Command::new("kill");
            let done = kill.args(["-9", &process]).stderr(Stdio::null()).status().unwrap();
            kills += u32::from(done.success());
        }
        let through = ended(child);
        if let Some(newest) = latest(&f.join("ck")).unwrap() {
            let reader = Reader::open(&newest).unwrap();
            let mut bytes = vec![];
            reader.manifest.tensors.keys().for_each(|t| reader.read(t, &mut bytes).unwrap());
        }
        if f.join("m.jsonl").exists() {
            for line in losses(&f.join("m.jsonl")) {
                assert!(want.contains(&line), "{line:?}: {}", told());
            }
        }
        eprintln!("{kills} kills, {:?} is the newest", latest(&f.join("ck")).unwrap());
        if through {
            fresh();
        }
    }
    assert!(ended(job().spawn().unwrap()), "{}", told());
    let read = |save: &str, name: &str| {
        std::fs::read(f.join(save).join("global_step40").join(name)).unwrap()
    };
    for name in ["manifest.json", "rank-00000.safetensors", "rank-00001.safetensors"] {
        assert_eq!(read("threads", name), read("ck", name), "{name}");
    }
}

#[test]
fn faults_have_a_name() {
    let temporary = tempfile::tempdir().unwrap();
    let f = std::fs::canonicalize(temporary.path()).unwrap();
    let long = ["train_iters=30000", "eval_iters=0", "checkpoint_factor=1000000"];
    prepare(&f, "plan", &[&["world_size=4", "model_parallel_size=2"][..], &long].concat());
    for (what, how) in [("KILL", "rank 2 is gone"), ("STOP", "rank 2 was silent for 2 s")] {
        // The rank that is lost, who waited for whom, and where. A step is most of the time, but ranks may also
        // be between two: then once more.
        let inside = (0..5).any(|_| {
            let child = endless(&f, &[]);
            signal(&f, 2, what);
            let out = child.wait_with_output().unwrap();
            let told = text(&out);
            assert!(!out.status.success());
            std::fs::remove_file(f.join("m.jsonl")).unwrap();
            let named = |l: &&str| l.contains("NXR0603") && l.contains(how);
            assert!(told.lines().any(|l| named(&l)), "{what}: {told}");
            told.lines()
                .filter(named)
                .any(|l| l.contains("(programs/train_step.txt:") && l.contains("model.yml:"))
        });
        assert!(inside, "{what}: nobody was inside a program");
    }
    // Asked to end, all ranks save after the same step, whichever of them was asked.
    let child = endless(&f, &[]);
    signal(&f, 3, "TERM");
    let out = child.wait_with_output().unwrap();
    let told = text(&out);
    assert_eq!(out.status.code(), Some(6), "{told}");
    let step = losses(&f.join("m.jsonl")).len();
    assert!(told.contains(&format!("stopped by a signal after step {step}")), "{told}");
    let latest = std::fs::read_to_string(f.join("ck/latest")).unwrap();
    assert_eq!(latest, format!("global_step{step}"));
    std::fs::remove_file(f.join("m.jsonl")).unwrap();
    // mpirun hands SIGUSR1 on.
    let child = endless(&f, &[]);
    let mpirun = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "USR1", &mpirun]).status().unwrap().success());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(6), "{}", text(&out));
    assert!(text(&out).contains("stopped by a signal after step"), "{}", text(&out));
    std::fs::remove_file(f.join("m.jsonl")).unwrap();
    // SIGTERM too, and then kills, after as many seconds as it is told to wait.
    let child = endless(&f, &["--mca", "odls_base_sigkill_timeout", "5"]);
    let mpirun = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &mpirun]).status().unwrap().success());
    let out = child.wait_with_output().unwrap();
    let step = losses(&f.join("m.jsonl")).len();
    let told = format!("stopped by a signal after step {step}");
    assert!(text(&out).contains(&told), "{told}: {}", text(&out));
    let latest = std::fs::read_to_string(f.join("ck/latest")).unwrap();
    assert_eq!(latest, format!("global_step{step}"));
}
