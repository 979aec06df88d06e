//! Nothing is accepted that cannot be meant: ranges of every number, and work that is bounded by the text.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::time::{Duration, Instant};

use neoxc_frontend::arguments::{Argument, Kind, NESTED, Preset, Range, Status, all};
use neoxc_frontend::{Loaded, load};

const GOOD: &str = r#"{
  "num_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "seq_length": 16, "padded_vocab_size": 64,
  "pos_emb": "none", "no_weight_tying": true, "lr": 0.001, "train_micro_batch_size_per_gpu": 4, "train_iters": 10
}"#;

/// [`GOOD`] with further keys, written to a file of its own.
fn with(sets: &[&str]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.yml");
    std::fs::write(&file, GOOD).unwrap();
    load(&[file], None, &sets.iter().map(|s| s.to_string()).collect::<Vec<_>>())
}

fn told(l: &Loaded) -> Vec<String> {
    l.diagnostics.iter().map(|d| format!("{} {}", d.kind.code, d.message)).collect()
}

/// A number as YAML 1.1 writes it.
fn yaml(x: f64) -> String {
    match x {
        x if x.is_nan() => ".nan".into(),
        x if x.is_infinite() => if x < 0.0 { "-.inf" } else { ".inf" }.into(),
        x if x.fract() == 0.0 && x.abs() < 1e15 => format!("{x:.0}"),
        x => {
            let text = format!("{x:e}");
            let (mantissa, exponent) = text.split_once('e').unwrap();
            let dot = if mantissa.contains('.') { "" } else { ".0" };
            let sign = if exponent.starts_with('-') { "" } else { "+" };
            format!("{mantissa}{dot}e{sign}{exponent}")
        }
    }
}

/// Whether a number of this argument is told to be wrong, and the argument's name with it.
fn refuses(a: &Argument, x: f64) -> bool {
    let value = match a.kind {
        Kind::List => format!("[{0}, {0}]", yaml(x)),
        _ => yaml(x),
    };
    let told = told(&with(&[&format!("{}={value}", a.name)]));
    let name = format!("`{}` is", a.name);
    told.iter().any(|t| t.contains(&name) && (t.starts_with("NX0106") || t.starts_with("NX0102")))
}

/// Walks the table of arguments: every number that is read has a range with a lower end, and is refused outside.
#[test]
fn every_number_has_a_range_and_is_refused_outside_of_it() {
    let mut walked = 0;
    for a in all().chain(NESTED.iter()).filter(|a| a.status == Status::Supported) {
        let ranged = matches!(a.range, Range::Between(..) | Range::Below(..));
        if !ranged && !matches!(a.kind, Kind::Int | Kind::Float) {
            continue;
        }
        let (low, high, closed) = match a.range {
            Range::Between(low, high) => (low, high, true),
            Range::Below(low, high) => (low, high, false),
            other => panic!("{} has no range: {other}", a.name),
        };
        // Momentum and its kin are keys of other optimizers.
        let other = ["momentum", "dampening"].iter().any(|k| a.name.ends_with(k));
        if other || a.name.contains('.') && !a.name.starts_with("optimizer.params") {
            assert!(low >= 0.0 && low <= high, "{}", a.name);
            continue;
        }
        walked += 1;
        let mut outside = vec![low - 1.0, f64::NEG_INFINITY, f64::INFINITY, f64::NAN, -1e300];
        if high.is_finite() {
            outside.push(if closed { high * 2.0 + 1.0 } else { high });
        }
        for x in outside {
            assert!(refuses(a, x), "{} takes {x}", a.name);
        }
        // The ends themselves may be wrong for another reason, but not because of the range.
        for x in [Some(low), Some(high).filter(|h| h.is_finite() && closed)].into_iter().flatten() {
            let value = if a.kind == Kind::List { format!("[{0}, {0}]", yaml(x)) } else { yaml(x) };
            let told = told(&with(&[&format!("{}={value}", a.name)]));
            let name = format!("`{}` is", a.name);
            let wrong = told.iter().any(|t| t.contains(&name) && t.starts_with("NX0106"));
            assert!(!wrong, "{} refuses {x}: {told:?}", a.name);
        }
        if let Preset::Number(x) = a.default {
            assert!(a.range.contains(x), "{}", a.name);
        }
    }
    assert!(walked > 50, "the walk found {walked} numbers");
}

#[test]
fn counts_that_cannot_be_meant_are_refused() {
    for (sets, why) in [
        (&["train_iters=1000000000000000000"][..], "`train_iters` is 1000000000000000000"),
        (&["train_iters=2000000000"], "all steps take 8000000000 samples"),
        (&["eval_iters=1000000000000"], "all evaluations take 4000000000000 samples"),
        (&["train_iters=1000000000", "eval_interval=1"], "evaluations take 400000000400 samples"),
        (&["hidden_size=1048576", "num_layers=6"], "the layers have 65970697666560 parameters"),
        (
            &["moe_num_experts=65536", "hidden_size=65536"],
            "parameters or more, and 4398046511104 is",
        ),
        (&["max_position_embeddings=15"], "16 tokens do not fit 15 positions"),
        (&["max_position_embeddings=15", "pos_emb=rotary"], "16 tokens do not fit 15 positions"),
        (&["tokenizer_type=Nope"], "`tokenizer_type` is \"Nope\""),
        (&["split=nope"], "`split` is \"nope\"; it must be up to three numbers"),
        (&["split=\"0, 0, 0\""], "`split` is \"0, 0, 0\""),
        (&["split=\"1, -1, 1\""], "`split` is \"1, -1, 1\""),
        (&["checkpoint_factor=1.0e+30"], "`checkpoint_factor` is 1"),
        (&["checkpoint_factor=.nan"], "`checkpoint_factor` is NaN"),
        (&["checkpoint_scale=log", "checkpoint_factor=1.0000000001"], "from 1.001 to 1e12"),
        (&["extra_save_iters=[1.5]"], "a step to save at is the number 1.5"),
        (&["extra_save_iters=[1.0e+300]"], "a step to save at is the number 1"),
    ] {
        let l = with(sets);
        let told = told(&l);
        assert!(l.config.is_none() && told.iter().any(|t| t.contains(why)), "{sets:?}: {told:?}");
    }
    // 4 samples a step.
    assert!(with(&["train_iters=1000000000", "eval_iters=0"]).config.is_some());
    assert!(with(&["split=\"969/30/1\""]).config.is_some());
}

/// About a megabyte each; what was quadratic took minutes.
#[test]
fn work_is_linear_in_the_text() {
    let many = |key: &dyn Fn(usize) -> String| -> String {
        (0..90_000).map(|i| format!("{}: 1\n", key(i))).collect()
    };
    let ones = |n: usize| vec!["1"; n].join(",");
    let anchors: String = (0..38).map(|n| format!("&a{n} [")).collect();
    let aliases = |n: usize| {
        (1..n).map(|i| format!(", a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 9].join(",")))
    };
    let merges: String = (0..3_000).map(|n| format!("{{k{n}: 1}},")).collect();
    for (text, most, why) in [
        (many(&|i| format!("key{i}")), 70, "89950 more unknown keys"),
        (many(&|i| format!("key{}", i % 2)), 70, "89948 more keys are given twice"),
        (many(&|i| format!("key{}", i / 2)), 110, "44950 more keys are given twice"),
        (
            format!("a: {anchors}{}{}", ones(190_000), "]".repeat(38)),
            5,
            "nested too deeply or too large",
        ),
        (format!("{{a0: &a0 [1]{}}}", aliases(30).collect::<String>()), 5, "too large"),
        (format!("a: {{<<: [{merges}{{k0: 1}}]}}"), 9, "unknown key `a`"),
        (format!("a: {}", "x".repeat(1 << 20)), 9, "unknown key `a`"),
        (format!("{}: 1", "x".repeat(1 << 20)), 9, ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("k.yml");
        std::fs::write(&file, text).unwrap();
        let start = Instant::now();
        let l = load(&[file], None, &[]);
        let (took, told) = (start.elapsed(), told(&l));
        assert!(told.iter().any(|t| t.contains(why)), "{why}: {} told", told.len());
        assert!(told.len() <= most, "{why}: {}", told.len());
        assert!(took < Duration::from_secs(20), "{why}: {took:?}");
    }
}

#[test]
fn only_regular_files_of_a_bounded_size_are_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(std::process::Command::new("mkfifo").arg(at("pipe.yml")).status().unwrap().success());
    std::fs::create_dir(at("folder.yml")).unwrap();
    let large = std::fs::File::create(at("large.yml")).unwrap();
    large.set_len(1 << 40).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("device.yml")).unwrap();
    for (path, why) in [
        (at("pipe.yml"), "a named pipe, not a file"),
        (at("folder.yml"), "a folder, not a file"),
        (at("device.yml"), "a device, not a file"),
        (at("large.yml"), "is the most that is read"),
    ] {
        let l = load(std::slice::from_ref(&path), None, &[]);
        let told = told(&l);
        assert!(told.iter().any(|t| t.starts_with("NX0110") && t.contains(why)), "{told:?}");
        // As a tokenizer and as a cluster.
        let vocab = format!("vocab_file={}", path.display());
        let l = with(&["padded_vocab_size=null", &vocab]);
        let told: Vec<String> = l.diagnostics.iter().map(|d| d.message.clone()).collect();
        assert!(told.iter().any(|t| t.contains(why)), "{told:?}");
        let mut sources = Default::default();
        let cluster = neoxc_frontend::cluster::load_cluster(&path, &mut sources);
        assert!(cluster.diagnostics.iter().any(|d| d.message.contains(why)));
    }
}
