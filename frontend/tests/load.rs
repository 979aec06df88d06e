//! Files → configuration or diagnostics.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::path::{Path, PathBuf};

use neoxc_frontend::{Loaded, load};

fn from_text(texts: &[&str], sets: &[&str]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = texts
        .iter()
        .enumerate()
        .map(|(i, t)| {
            let p = folder.path().join(format!("{}.yml", (b'a' + i as u8) as char));
            std::fs::write(&p, t).unwrap();
            p
        })
        .collect();
    load(&files, None, &sets.iter().map(|s| s.to_string()).collect::<Vec<_>>())
}

/// `code line:column message` of each problem.
fn told(l: &Loaded) -> Vec<String> {
    l.diagnostics
        .iter()
        .map(|d| {
            let places: Vec<String> =
                d.labels.iter().map(|l| format!("{}:{}", l.span.line, l.span.column)).collect();
            format!("{} {} {}", d.kind.code, places.join(","), d.message)
        })
        .collect()
}

const GOOD: &str = r#"{
  # comment
  "num-layers": 2, "hidden_size": 8, "num_attention_heads": 2,
  "seq_length": 16, "padded_vocab_size": 64, "pos-emb": "rotary", "rotary_pct": 0.5,
  "gpt-j-residual": True, "no-weight-tying": true,
  "optimizer": {"type": "Adam", "params": {"lr": 0.001, "betas": [0.9, 0.95], "eps": 1.0e-8}},
  "train_micro_batch_size_per_gpu": 4, "train_iters": 10,
}"#;

#[test]
fn a_good_file_loads() {
    let l = from_text(&[GOOD], &["optimizer.params.lr=0.5", "seed=7"]);
    assert!(l.diagnostics.is_empty(), "{:?}", told(&l));
    let c = l.config.unwrap();
    assert_eq!((c.model.rotary_dims, c.optimizer.lr, c.run.seed), (2, 0.5, 7));
    assert_eq!(c.places["hidden_size"].1, 3);
    assert_eq!(c.model.init_std, 0.02);
}

#[test]
fn checkpoint_groups_have_one_size() {
    let group = |sets: &[&str]| {
        let l =
            from_text(&[GOOD], &[sets, &["num_layers=12", "checkpoint_activations=true"]].concat());
        let told = told(&l);
        (l.config.unwrap().model.checkpoint, told)
    };
    assert_eq!(group(&[]), (Some(1), vec![]));
    assert_eq!(group(&["checkpoint_num_layers=4"]), (Some(4), vec![]));
    let (size, told) = group(&["checkpoint_num_layers=5"]);
    assert_eq!(size, Some(4));
    assert!(told[0].starts_with("NX0111") && told[0].contains("groups of 4"), "{told:?}");
    assert_eq!(group(&["checkpoint_num_layers=50"]).0, Some(12));
}

/// The vocabulary is as large whatever the ranks; where they do not divide it, a warning says so.
#[test]
fn tensor_ranks_do_not_change_the_vocabulary() {
    let ranks = |vocab: &str| {
        let vocab = format!("padded_vocab_size={vocab}");
        let l = from_text(&[GOOD], &[&vocab, "model_parallel_size=2"]);
        let told = told(&l);
        (l.config.unwrap().model.padded_vocab_size, told)
    };
    assert_eq!(ranks("64"), (64, vec![]));
    let (size, told) = ranks("63");
    assert_eq!(size, 63);
    assert!(told[0].starts_with("NX0111") && told[0].contains("vocabulary of 63"), "{told:?}");
}

#[test]
fn every_problem_is_told_at_once() {
    let bad = r#"{
  "num_layer": 2, "num_layers": 0, "hidden_size": 9, "num_attention_heads": 2,
  "seq_length": "long", "hidden-size": 9, "min_lr": 1e-5, "hidden_dropout": 1.0,
  "num_layers_": 1, "opt_pos_emb_offset": 2,
}"#;
    let l = from_text(&[bad, "{ \"min-lr\": 0.1 }"], &[]);
    assert!(l.config.is_none());
    let got = told(&l).join("\n");
    for want in [
        "NX0101 2:3 unknown key `num_layer`",
        "NX0106 2:33 `num_layers` is 0",
        "NX0102 3:17 `seq_length` is the text \"long\", not int",
        "NX0103 3:25,2:36 `hidden_size` is given twice",
        "NX0102 3:53 `min_lr` is the text \"1e-5\", not float",
        "NX0104 4:21 `opt_pos_emb_offset`: not supported yet",
        "NX0106 3:77 `hidden_dropout` is 1; it must be from 0 to below 1",
        "NX0103 1:3,3:43 `min_lr` is given in two files",
        "NX0105  the learning rate is missing",
    ] {
        assert!(got.contains(want), "{want}\nnot in\n{got}");
    }
}

#[test]
fn conflicts_show_both_sides() {
    let l = from_text(&[GOOD], &["num_attention_heads=3"]);
    assert_eq!(l.diagnostics[0].labels.len(), 2);
    let l = from_text(&[GOOD], &["train_batch_size=10", "gradient_accumulation_steps=2"]);
    assert!(told(&l)[0].starts_with("NX0107"), "{:?}", told(&l));
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir).unwrap().flatten() {
        if e.path().is_dir() {
            walk(&e.path(), out);
        } else {
            out.push(e.path());
        }
    }
}

#[test]
fn what_cannot_be_read_is_told_without_what_follows_from_it() {
    let broken = from_text(&["hidden_size: [8\n", "hiden_size: 8\n"], &[]);
    let codes: Vec<&str> = broken.diagnostics.iter().map(|d| d.kind.code).collect();
    assert_eq!(codes, ["NX0109", "NX0101"], "{:?}", told(&broken));
    let absent = load(&["no-such-file.yml".into()], None, &[]);
    let codes: Vec<&str> = absent.diagnostics.iter().map(|d| d.kind.code).collect();
    assert_eq!(codes, ["NX0110"], "{:?}", told(&absent));
    assert!(broken.config.is_none() && absent.config.is_none());
}

#[test]
fn users_files_are_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/upstream");
    if !root.exists() {
        eprintln!("skipped: users' files are not here");
        return;
    }
    let mut files = vec![];
    walk(&root.join("configs"), &mut files);
    walk(&root.join("post-training"), &mut files);
    for file in files {
        let l = load(std::slice::from_ref(&file), None, &[]);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        // Two published files have keys that GPT-NeoX itself does not know.
        let unknown = l.diagnostics.iter().any(|d| d.kind.code == "NX0101");
        let broken =
            file.ends_with("llemma/7B.yml") || name.starts_with("slurm") || name.contains("tune");
        assert!(!unknown || broken, "{}: {:?}", file.display(), told(&l));
        assert!(
            l.diagnostics.iter().all(|d| d.kind.code != "NX0109"),
            "{}: {:?}",
            file.display(),
            told(&l)
        );
    }
    let pythia = root.join("configs/pythia/14M.yml");
    let sets = ["padded_vocab_size=50304", "fp16.enabled=false"].map(String::from);
    let l = load(&[pythia], None, &sets);
    assert!(l.config.is_some(), "{:?}", told(&l));
}

#[test]
fn bundled_clusters_are_whole() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/clusters");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let mut sources = neoxc_ir::diag::Sources::default();
        let loaded = neoxc_frontend::cluster::load_cluster(&path, &mut sources);
        let c = loaded.cluster.unwrap_or_else(|| panic!("{path:?}: {:?}", loaded.diagnostics));
        assert!(c.ranks() >= 8 && c.within.bandwidth > c.between.bandwidth, "{path:?}");
        assert!(c.memory.is_none_or(|m| m > 30 << 30) && c.peak_flops["f32"] > 1e11, "{path:?}");
        count += 1;
    }
    assert_eq!(count, 7);
}

#[test]
fn experts_have_their_rules() {
    let l = from_text(&[GOOD], &["moe_num_experts=8"]);
    assert!(l.diagnostics.is_empty(), "{:?}", told(&l));
    let m = l.config.unwrap().model.moe.unwrap();
    assert_eq!((m.experts, m.interval, m.top_k, m.capacity), (8, 1, 1, None));
    assert_eq!(m.router, neoxc_frontend::config::Router::Sinkhorn);
    let limited = ["moe_num_experts=4", "moe_token_dropping=true", "moe_eval_capacity_factor=2.0"];
    let c = from_text(&[GOOD], &limited).config.unwrap().model.moe.unwrap().capacity.unwrap();
    assert_eq!((c.train_factor, c.eval_factor, c.minimum), (1.0, 2.0, 4));
    // One expert is none; other keys then say nothing.
    let l = from_text(&[GOOD], &["moe_num_experts=1", "moe_top_k=2"]);
    assert!(
        told(&l)[0].contains("without effect as there is one expert: moe_top_k"),
        "{:?}",
        told(&l)
    );
    assert_eq!(l.config.unwrap().model.moe, None);
    for (sets, want) in [
        (&["moe_num_experts=2", "moe_top_k=3"][..], "3 experts of a token, of 2 there are"),
        (&["moe_num_experts=2", "moe_expert_interval=3"], "does not divide 2 layers"),
        (&["moe_num_experts=2", "moe_min_capacity=3"], "limits experts that drop nothing"),
        (&["moe_num_experts=2", "moe_loss_coeff=0.1"], "balances experts without a loss"),
        (
            &["moe_num_experts=2", "moe_router_type=hash"],
            "`moe_router_type` \"hash\": not supported",
        ),
        (&["moe_num_experts=2", "moe_jitter_eps=0.1"], "`moe_jitter_eps`: not supported"),
        (
            &["moe_num_experts=2", "moe_expert_interval=2", "world_size=2", "pipe_parallel_size=2"],
            "2 stages of 1 periods of 2 layers, one with experts",
        ),
        (
            &[
                "num_layers=8",
                "moe_num_experts=2",
                "moe_expert_interval=4",
                "world_size=2",
                "pipe_parallel_size=2",
                "pipe_schedule=interleaved",
                "gradient_accumulation_steps=2",
            ],
            "a chunk has 2 layers, not a multiple of the 4 in which one has experts",
        ),
    ] {
        let l = from_text(&[GOOD], sets);
        let told = told(&l);
        assert!(l.config.is_none() && told.len() == 1, "{sets:?}: {told:?}");
        assert!(told[0].contains(want), "{told:?}");
    }
}

#[test]
fn stages_that_would_have_no_layer_are_refused() {
    for (sets, want) in [
        (&["pipe_parallel_size=3"][..], "3 stages of 2 layers"),
        (
            &["pipe_parallel_size=2", "pipe_partition_method=uniform"],
            "2 stages of 7 modules leave one without any of 2 layers",
        ),
        (
            &[
                "pipe_parallel_size=2",
                "num_layers=4",
                "gradient_accumulation_steps=2",
                "pipe_schedule=interleaved",
                "pipe_partition_method=balanced",
            ],
            "interleaved stages have equal chunks of layers",
        ),
        (
            &["pipe_parallel_size=2", "pipe_partition_method=type:norm"],
            "`pipe_partition_method` \"type:norm\": not supported",
        ),
    ] {
        let l = from_text(&[GOOD], sets);
        let told = told(&l);
        assert!(l.config.is_none() && told.len() == 1, "{sets:?}: {told:?}");
        assert!(told[0].contains(want), "{told:?}");
    }
    let sets = ["pipe_parallel_size=2", "num_layers=3", "pipe_partition_method=balanced"];
    let config = from_text(&[GOOD], &sets).config.unwrap();
    assert_eq!(config.parallel.partition, neoxc_frontend::config::PipePartition::Balanced);
}

#[test]
fn precision_is_said_in_three_ways_that_must_agree() {
    use neoxc_frontend::config::Precision;
    let of = |sets: &[&str]| {
        let l = from_text(&[GOOD], sets);
        let told = told(&l);
        (l.config.map(|c| c.model.precision), told)
    };
    let half = (Some(Precision::Bf16), vec![]);
    assert_eq!(of(&[]), (Some(Precision::F32), vec![]));
    assert_eq!(of(&["precision=bfloat16"]), half);
    assert_eq!(of(&["bf16.enabled=true"]), half);
    assert_eq!(of(&["fp16.enabled=true", "fp16.type=bfloat16"]), half);
    assert_eq!(of(&["bf16.enabled=true", "precision=bfloat16"]), half);
    assert_eq!(of(&["bf16.enabled=true", "data_types.grad_accum_dtype=fp32"]), half);
    assert_eq!(of(&["fp16.enabled=false", "precision=fp32"]), (Some(Precision::F32), vec![]));
    // As Pythia 1B says it; sums over ranks are f32 in any case.
    let pythia = ["fp16={enabled: true, type: bfloat16, loss_scale: 0}", "fp32_allreduce=true"];
    let (precision, told) = of(&pythia);
    assert_eq!(precision, Some(Precision::Bf16));
    assert!(told.len() == 1 && told[0].starts_with("NX0108"), "{told:?}");
    let refused = |sets: &[&str], code: &str, text: &str| {
        let (_, told) = of(sets);
        assert!(told.len() == 1 && told[0].starts_with(code) && told[0].contains(text), "{told:?}");
    };
    refused(&["bf16.enabled=true", "precision=fp32"], "NX0107", "`precision` is fp32");
    refused(&["fp16.enabled=true"], "NX0104", "`fp16`: not supported yet");
    refused(&["precision=fp16"], "NX0104", "fp16");
    let sums = ["bf16.enabled=true", "data_types.grad_accum_dtype=bf16"];
    refused(&sums, "NX0104", "`grad_accum_dtype`");
}

/// A row of the embedding that is not there would be read at an id without one.
#[test]
fn a_tokenizer_with_more_ids_than_rows_is_refused() {
    let l = from_text(&[GOOD], &["tokenizer_type=CharLevelTokenizer"]);
    let told = told(&l);
    assert!(told.len() == 1 && told[0].contains("512 ids, the embedding 64 rows"), "{told:?}");
    let l = from_text(&[GOOD], &["tokenizer_type=CharLevelTokenizer", "padded_vocab_size=512"]);
    assert!(l.diagnostics.is_empty(), "{:?}", self::told(&l));
}
