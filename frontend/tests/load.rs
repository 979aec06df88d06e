//! Files → configuration or diagnostics.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::path::{Path, PathBuf};

use neoxc_frontend::config::{Activation, Norm};
use neoxc_frontend::load;

use common::{GOOD, from_text, told};

#[test]
fn a_good_file_loads() {
    let l = from_text(&[GOOD], &["optimizer.params.lr=0.5", "seed=7"]);
    assert!(l.diagnostics.is_empty(), "{:?}", told(&l));
    let c = l.config.unwrap();
    assert_eq!((c.model.rotary_dims, c.optimizer.rate.lr, c.run.seed), (2, 0.5, 7));
    assert_eq!(c.places["hidden_size"].1, 3);
    assert_eq!(c.model.init_std, 0.02.into());
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

/// Sizes that everybody can look up, padded as GPT-NeoX pads them; GPT-NeoX-20B and the Pythia models of Hugging Face
/// have these rows.
#[test]
fn a_vocabulary_is_known_without_its_file() {
    let rows = |sets: &[&str]| {
        let l = from_text(&[GOOD], &[&["padded_vocab_size=null"], sets].concat());
        let codes = l.diagnostics.iter().map(|d| d.kind.code);
        let codes: Vec<&str> = codes.filter(|c| *c != "NX0115").collect();
        (l.config.map(|c| (c.model.vocab_size, c.model.padded_vocab_size)), codes.join(" "))
    };
    let neox = ["tokenizer_type=HFTokenizer", "vocab_file=no/20B_tokenizer.json"];
    let of = |more: &[&str]| rows(&[&neox[..], more].concat());
    let ranks = |n: u32| format!("model_parallel_size={n}");
    let heads = ["num_attention_heads=4", "rotary_pct=1.0"];
    let told = |ids, rows| (Some((Some(ids), rows)), "NX0113".to_string());
    assert_eq!(rows(&[]), told(50_257, 50_304));
    assert_eq!(rows(&["make_vocab_size_divisible_by=1"]), told(50_257, 50_257));
    assert_eq!(of(&[]), told(50_277, 50_304));
    assert_eq!(of(&[&ranks(2)]), told(50_277, 50_432));
    assert_eq!(of(&[&ranks(4), heads[0], heads[1]]), told(50_277, 50_688));
    assert_eq!(of(&["padded_vocab_size=50432"]), (Some((None, 50_432)), String::new()));
    // Ranks multiply, so there is a limit to what they make.
    let many = ["model_parallel_size=1024", "make_vocab_size_divisible_by=1048576"];
    assert!(rows(&many).1.contains("NX0107"), "{:?}", rows(&many));
    // Kinds of tokenizers that come in many sizes still ask.
    assert_eq!(rows(&["tokenizer_type=HFTokenizer"]), (None, "NX0105".into()));
    assert_eq!(rows(&["tokenizer_type=SPMTokenizer"]), (None, "NX0105".into()));
    let hint = |set| {
        let l = from_text(&[GOOD], &["padded_vocab_size=null", set]);
        l.diagnostics[0].hint.clone().unwrap()
    };
    assert!(hint("tokenizer_type=SPMTokenizer").contains("padded_vocab_size=32000"));
    assert!(hint("model_parallel_size=2").contains("padded_vocab_size=50432"));
}

/// A file that can be read counts, and a warning says where it is another tokenizer's.
#[test]
fn a_file_of_another_size_than_published_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("20B_tokenizer.json");
    std::fs::write(&path, "{\"a\": 0, \"b\": 1}").unwrap();
    let file = format!("vocab_file={}", path.display());
    let l = from_text(&[GOOD], &[&file, "tokenizer_type=HFTokenizer"]);
    let told = told(&l);
    assert!(told.len() == 1 && told[0].contains("has 2 ids, and the vocabulary of GPT-NeoX-20B"));
    assert_eq!(l.config.unwrap().model.vocab_size, Some(2));
}

/// Rows that are given do not depend on the ranks; where these do not divide them, a warning says so.
#[test]
fn tensor_ranks_do_not_change_rows_that_are_given() {
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
  "num_layers_": 1, "rpe_num_buckets": 2,
}"#;
    let l = from_text(&[bad, "{ \"min-lr\": 0.1 }"], &[]);
    assert!(l.config.is_none());
    let got = told(&l).join("\n");
    for want in [
        "NX0101 2:3 unknown key `num_layer`",
        "NX0106 2:33 `num_layers` is 0",
        "NX0102 3:17 `seq_length` is the text \"long\", not a whole number",
        "NX0103 3:25,2:36 `hidden_size` is given twice",
        "NX0102 3:53 `min_lr` is the text \"1e-5\", not a number",
        "NX0104 4:21 `rpe_num_buckets` is not supported yet: there are no relative position biases",
        "NX0106 3:77 `hidden_dropout` is 1; it must be from 0 to below 1",
        "NX0103 1:3,3:43 `min_lr` is given in two files",
        "NX0105  the run (`optimizer`, `train_iters`, `train_micro_batch_size_per_gpu`) is missing",
    ] {
        assert!(got.contains(want), "{want}\nnot in\n{got}");
    }
}

#[test]
fn conflicts_show_both_sides() {
    let l = from_text(&[GOOD], &["num_attention_heads=3"]);
    assert_eq!(l.diagnostics[0].labels.len(), 2);
}

/// The micro-batch is 4 unless it is given as null.
#[test]
fn a_batch_is_what_its_parts_make() {
    let sizes = |sets: &[&str]| {
        let l = from_text(&[GOOD], sets);
        let told = told(&l);
        l.config.map(|c| (c.run.micro_batch, c.run.grad_accum)).ok_or(told)
    };
    let alone = "train_micro_batch_size_per_gpu=null";
    for (sets, want) in [
        (&["train_batch_size=8"][..], (4, 2)),
        (&["train_batch_size=8", "gradient_accumulation_steps=2"], (4, 2)),
        (&["train_batch_size=8", alone], (8, 1)),
        (&["train_batch_size=8", "gradient_accumulation_steps=4", alone], (2, 4)),
        (&["train_batch_size=8", "world_size=2"], (4, 1)),
        (&["train_batch_size=8", "batch_size=2", alone], (2, 4)),
    ] {
        assert_eq!(sizes(sets), Ok(want), "{sets:?}");
    }
    for (sets, why) in [
        (&["train_batch_size=10"][..], "10 sequences are not 4 sequences on one rank"),
        (
            &["train_batch_size=8", "gradient_accumulation_steps=3"],
            "8 sequences are not 4 sequences × 3 accumulation steps on one rank",
        ),
        (
            &["train_batch_size=8", "gradient_accumulation_steps=3", alone],
            "8 sequences are not 3 accumulation steps on one rank",
        ),
        (
            &["train_batch_size=7", "world_size=2", alone],
            "7 sequences cannot be divided among 2 data-parallel ranks",
        ),
        (&["train_batch_size=8", "batch_size=3", alone], "8 sequences are not 3 sequences"),
    ] {
        let told = sizes(sets).unwrap_err();
        assert!(told.len() == 1 && told[0].starts_with("NX0107"), "{told:?}");
        assert!(told[0].contains(why), "{told:?}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_with_their_place() {
    for (set, why) in [
        (
            "optimizer.params.lr=-0.001",
            "`optimizer.params.lr` is -0.001; it must be finite and at least 0",
        ),
        ("optimizer.params.lr=.nan", "params.lr` is NaN"),
        ("optimizer.params.lr=.inf", "params.lr` is inf"),
        ("lr=-1.0", "`lr` is -1"),
        ("optimizer.params.betas=[0.9,1.0]", "params.betas` is 1; it must be from 0 to below 1"),
        ("optimizer.params.betas=[-0.1,0.9]", "params.betas` is -0.1"),
        ("optimizer.params.betas=[0.9,.nan]", "params.betas` is NaN"),
        (
            "optimizer.params.betas=[0.9,x]",
            "params.betas` is another list, not a list of two numbers",
        ),
        ("optimizer.params.eps=-1.0", "params.eps` is -1; it must be from 0 to 1000000000"),
        ("optimizer.params.weight_decay=-5.0", "params.weight_decay` is -5"),
        ("weight_decay=.nan", "`weight_decay` is NaN"),
        ("min_lr=.nan", "`min_lr` is NaN"),
        ("warmup=1.5", "`warmup` is 1.5"),
        ("freeze=[a, 3]", "a pattern of `freeze` is the whole number 3"),
        ("hidden_dropout=.nan", "`hidden_dropout` is NaN"),
        ("train_iters=-1", "`train_iters` is -1"),
        (
            "checkpoint_factor=0",
            "`checkpoint_factor` is 0; it must be a whole number from 1 to 1e12",
        ),
        ("checkpoint_factor=2.5", "`checkpoint_factor` is 2.5; it must be a whole number"),
        ("checkpoint_factor=\"5\"", "`checkpoint_factor` is the text \"5\", not a number"),
        ("checkpoint_factor=abc", "`checkpoint_factor` is the text"),
        ("extra_save_iters=[1,-2]", "a step to save at is the whole number -2"),
        ("extra_save_iters=[a]", "a step to save at is the text"),
    ] {
        let l = from_text(&[GOOD], &[set]);
        let told = told(&l);
        assert!(l.config.is_none() && told.len() == 1 && told[0].contains(why), "{set}: {told:?}");
        // Behind the `=`, in lists too.
        let label = &l.diagnostics[0].labels[0].span;
        let column = set.find('=').unwrap() as u32 + 1;
        assert!(label.column > column, "{set}: {label}");
    }
    let log = |factor: &str| {
        let factor = format!("checkpoint_factor={factor}");
        from_text(&[GOOD], &["checkpoint_scale=log", &factor]).config.is_some()
    };
    assert!(log("1.5") && log("2") && !log("1") && !log("0.5") && !log(".inf"));
    assert!(log("1.001") && !log("1.0000000001") && !log("1.0e+30"));
}

#[test]
fn the_number_of_steps_must_be_given() {
    let l = from_text(&[GOOD], &["train_iters=null"]);
    assert_eq!(told(&l), ["NX0105  `train_iters` is missing"]);
}

/// Which of two files is right does not matter once `--set` says it; a part of a dictionary does not say it all.
#[test]
fn set_decides_between_two_files() {
    let files = [GOOD, "{seed: 1, optimizer: {}}", "{seed: 2}"];
    let l = from_text(&files[..1], &["seed=3"]);
    assert_eq!(l.config.unwrap().run.seed, 3);
    let l = from_text(&[GOOD, "seed: 1", "seed: 2"], &["seed=3"]);
    assert_eq!((l.diagnostics.len(), l.config.unwrap().run.seed), (0, 3));
    let l = from_text(&[GOOD, files[1]], &["optimizer.params.lr=0.5"]);
    assert!(told(&l)[0].starts_with("NX0103"), "{:?}", told(&l));
}

#[test]
fn what_asks_about_a_checkpoint_needs_one() {
    for set in ["iteration=5", "finetune=true"] {
        let l = from_text(&[GOOD], &[set]);
        assert!(told(&l)[0].starts_with("NX0107"), "{:?}", told(&l));
        let l = from_text(&[GOOD], &[set, "load=out"]);
        assert!(l.config.is_some(), "{:?}", told(&l));
    }
}

/// Beside the file that names it, or from the current folder.
#[test]
fn a_tokenizer_is_found_beside_the_file_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("configs");
    std::fs::create_dir(&inner).unwrap();
    let file = inner.join("a.yml");
    let text = GOOD.replace("\"padded_vocab_size\": 64", "\"vocab_file\": \"t.json\"");
    std::fs::write(
        &file,
        format!("{}, \"tokenizer_type\": \"HFTokenizer\"}}", text.trim_end_matches(",\n}")),
    )
    .unwrap();
    std::fs::write(inner.join("t.json"), "{\"a\": 0, \"b\": 1}").unwrap();
    let l = load(&[file], None, &[]);
    assert!(l.diagnostics.is_empty(), "{:?}", told(&l));
    let c = l.config.unwrap();
    assert_eq!((c.model.vocab_size, c.model.padded_vocab_size), (Some(2), 128));
    assert_eq!(c.run.vocab_file, Some(inner.join("t.json").display().to_string()));
}

/// Documents whose end no token marks have no loss to mask.
#[test]
fn masking_ends_of_documents_needs_a_token_that_ends_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.json");
    let set = format!("vocab_file={}", path.display());
    let told_with = |vocab: &str, mask: &str| {
        std::fs::write(&path, vocab).unwrap();
        told(&from_text(&[GOOD], &[&set, mask, "tokenizer_type=HFTokenizer"]))
    };
    let (without, with) = ("{\"a\": 0}", "{\"a\": 0, \"<|endoftext|>\": 1}");
    let refused = told_with(without, "eod_mask_loss=true");
    assert!(refused.len() == 1 && refused[0].contains("no <|endoftext|>"), "{refused:?}");
    assert_eq!(told_with(without, "eod_mask_loss=false"), [""; 0]);
    assert_eq!(told_with(with, "eod_mask_loss=true"), [""; 0]);
    let l = from_text(&[GOOD], &["eod_mask_loss=true"]);
    assert!(told(&l)[0].contains("the token that ends documents, which"), "{:?}", told(&l));
}

/// Rounded up, where the width does not say it itself.
#[test]
fn the_mlp_is_as_wide_as_a_multiple() {
    let width = |sets: &[&str]| from_text(&[GOOD], sets).config.unwrap().model.intermediate_size;
    assert_eq!(width(&[]), 32);
    assert_eq!(width(&["mlp_multiple_of=24"]), 48);
    assert_eq!(width(&["mlp_multiple_of=24", "intermediate_size=96"]), 96);
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

/// GPT-NeoX's own files of Llama models have the widths that GPT-NeoX makes of them, published or not.
#[test]
fn upstream_s_llama_files_have_upstream_s_widths() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/upstream/configs");
    if !root.exists() {
        eprintln!("skipped: users' files are not here");
        return;
    }
    let sets = [
        "padded_vocab_size=32000",
        "train_micro_batch_size_per_gpu=1",
        "train_iters=1",
        "optimizer={type: Adam, params: {lr: 0.001}}",
    ];
    for (file, width, kv) in [
        ("llama/7B", 11008, None),
        ("llama/13B", 13824, None),
        ("llama/30B", 17920, None),
        ("llama/65B", 22016, None),
        ("llama2/7B", 11008, None),
        ("llama2/13B", 13824, None),
        ("llama2/codellama_34B", 11008, Some(8)),
    ] {
        let l = load(&[root.join(format!("{file}.yml"))], None, &sets.map(String::from));
        let told = told(&l);
        let m = l.config.unwrap_or_else(|| panic!("{file}: {told:?}")).model;
        assert_eq!((m.intermediate_size, m.num_kv_heads), (width, kv), "{file}");
        assert_eq!((m.norm, m.activation), (Norm::RmsNorm, Activation::SwiGlu), "{file}");
        assert!((1e-6..=1e-5).contains(&m.layernorm_epsilon), "{file}");
    }
    // This one GPT-NeoX cannot run.
    let l = load(&[root.join("mistral/7B.yml")], None, &sets.map(String::from));
    let want = "an MLP whose first projection is 4779 wide and whose second takes 4778";
    assert!(told(&l).iter().any(|t| t.contains(want)), "{:?}", told(&l));
}

#[test]
fn heads_widths_and_activations_have_their_rules() {
    for (sets, want) in [
        (&["num_kv_heads=3"][..], "3 key-value heads do not divide 2 heads"),
        (&["activation=swiglu", "intermediate_size=14336"], "whose second takes 4778"),
        (&["mlp_multiple_of=8", "intermediate_size=24"], "first projection is 32 wide"),
        (&["intermediate_size=24", "expansion_factor=3"], "is given twice"),
        (&["activation=quickgelu"], "`activation` is \"quickgelu\"; it must be"),
        (
            &["num_kv_heads=1", "model_parallel_size=2", "world_size=2"],
            "2 tensor ranks do not divide 1 key-value heads",
        ),
        (
            &["num_kv_heads=1", "context_parallel_size=2", "world_size=2"],
            "2 context ranks do not divide 1 key-value heads",
        ),
    ] {
        let l = from_text(&[GOOD], sets);
        let told = told(&l);
        assert!(l.config.is_none() && told.len() == 1, "{sets:?}: {told:?}");
        assert!(told[0].contains(want), "{told:?}");
    }
    let model = |sets: &[&str]| from_text(&[GOOD], sets).config.unwrap().model;
    // As many as heads are none of their own.
    assert_eq!(model(&["num_kv_heads=2"]).num_kv_heads, None);
    assert_eq!(model(&["activation=swish"]).activation, Activation::Silu);
    let m = model(&[
        "norm=rmsnorm",
        "rms_norm_epsilon=1.0e-6",
        "activation=geglu",
        "intermediate_size=33",
    ]);
    assert_eq!((m.norm, m.layernorm_epsilon, m.intermediate_size), (Norm::RmsNorm, 1e-6, 11));
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
fn stages_that_would_have_no_layer_are_refused() {
    for (sets, want) in [
        (&["pipe_parallel_size=3"][..], "3 stages cannot divide 2 layers"),
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
            "`pipe_partition_method: type:norm` is not supported",
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
    let bf16 = (Some(Precision::Bf16), vec![]);
    assert_eq!(of(&[]), (Some(Precision::F32), vec![]));
    assert_eq!(of(&["precision=bfloat16"]), bf16);
    assert_eq!(of(&["bf16.enabled=true"]), bf16);
    assert_eq!(of(&["fp16.enabled=true", "fp16.type=bfloat16"]), bf16);
    assert_eq!(of(&["bf16.enabled=true", "precision=bfloat16"]), bf16);
    assert_eq!(of(&["bf16.enabled=true", "data_types.grad_accum_dtype=fp32"]), bf16);
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
    let f16 = (Some(Precision::F16), vec![]);
    assert_eq!(of(&["precision=fp16"]), f16);
    assert_eq!(of(&["fp16.enabled=true"]), f16);
    assert_eq!(of(&["fp16.enabled=true", "fp16.type=fp16", "precision=fp16"]), f16);
    // As GPT-NeoX's older files enable it.
    assert_eq!(of(&["fp16={fp16: true}"]), f16);
    let both = "`bf16` is enabled, but `fp16` is enabled";
    refused(&["fp16.enabled=true", "bf16.enabled=true"], "NX0107", both);
    refused(&["fp16.enabled=true", "precision=bfloat16"], "NX0107", "but `precision` is bfloat16");
    refused(&["fp16.enabled=true", "precision=fp32"], "NX0107", "`precision` is fp32");
    let sums = ["bf16.enabled=true", "data_types.grad_accum_dtype=bf16"];
    refused(&sums, "NX0104", "`grad_accum_dtype`");
}

/// Every key of `fp16` is read, with GPT-NeoX's and DeepSpeed's defaults, or told of.
#[test]
fn keys_of_fp16_say_how_the_loss_is_scaled() {
    use neoxc_config::{DynamicScaling, Hysteresis, LossScaling};
    let of = |keys: &str, more: &[&str]| {
        let fp16 = format!("fp16={{enabled: true{keys}}}");
        let l = from_text(&[GOOD], &[&[fp16.as_str()][..], more].concat());
        let told = told(&l);
        (l.config.and_then(|c| c.run.loss_scaling), told)
    };
    let plain = DynamicScaling { initial: 65536.0, window: 1000, minimum: 1.0, hysteresis: None };
    let is = |keys: &str, more: &[&str], want: LossScaling| {
        assert_eq!(of(keys, more), (Some(want), vec![]), "{keys}");
    };
    is("", &[], LossScaling::Dynamic(plain));
    is(", loss_scale: 0", &[], LossScaling::Dynamic(plain));
    is(", loss_scale: 128", &[], LossScaling::Fixed(128.0));
    let initial = 4096.0;
    is(", initial_scale_power: 12", &[], LossScaling::Dynamic(DynamicScaling { initial, ..plain }));
    let window = 50;
    is(", loss_scale_window: 50", &[], LossScaling::Dynamic(DynamicScaling { window, ..plain }));
    let minimum = 0.5;
    is(", min_loss_scale: 0.5", &[], LossScaling::Dynamic(DynamicScaling { minimum, ..plain }));
    // Without ZeRO there is no hysteresis.
    let zero = ["zero_optimization.stage=1"];
    let patient = |overflows, consecutive| {
        let hysteresis = Some(Hysteresis { overflows, consecutive });
        LossScaling::Dynamic(DynamicScaling { hysteresis, ..plain })
    };
    is(", hysteresis: 4", &[], LossScaling::Dynamic(plain));
    is("", &zero, patient(2, false));
    is(", hysteresis: 4", &zero, patient(4, false));
    is(", consecutive_hysteresis: true", &zero, patient(2, true));
    for (keys, code, text) in [
        (", loss_scale: -1", "NX0106", "fp16.loss_scale"),
        (", loss_scale: auto", "NX0102", "fp16.loss_scale"),
        (", initial_scale_power: 200", "NX0106", "fp16.initial_scale_power"),
        (", loss_scale_window: 0", "NX0106", "fp16.loss_scale_window"),
        (", hysteresis: 0", "NX0106", "fp16.hysteresis"),
        (", min_loss_scale: 0", "NX0106", "fp16.min_loss_scale"),
        (", consecutive_hysteresis: 3", "NX0102", "fp16.consecutive_hysteresis"),
        (", type: float64", "NX0106", "fp16.type"),
        (", fp16_master_weights_and_grads: true", "NX0104", "fp16_master_weights_and_grads"),
        (", raise_error_at_min_scale: false", "NX0101", "raise_error_at_min_scale"),
        (", auto_cast: true", "NX0108", "fp16.auto_cast"),
    ] {
        let (_, told) = of(keys, &[]);
        let one = told.len() == 1 && told[0].starts_with(code) && told[0].contains(text);
        assert!(one, "{keys}: {told:?}");
    }
    for other in ["precision=bfloat16", "precision=fp32"] {
        assert_eq!(from_text(&[GOOD], &[other]).config.unwrap().run.loss_scaling, None);
    }
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

/// One sentence for a model that is missing, and one for a run.
#[test]
fn parts_that_are_missing_are_told_as_parts() {
    let l = from_text(&["{save: x, padded_vocab_size: 64}"], &[]);
    let [model, run] = &told(&l)[..] else { panic!("{:?}", told(&l)) };
    assert!(model.starts_with("NX0105  the model (`num_layers`, "), "{model}");
    assert!(run.starts_with("NX0105  the run (`optimizer`, "), "{run}");
    // A key of a part that is there is missing by its name.
    let l = from_text(&["{num_layers: 2, padded_vocab_size: 64, train_iters: 1}"], &[]);
    let told = told(&l).join(", ");
    assert!(
        told.contains("`hidden_size` is missing") && told.contains("the learning rate"),
        "{told}"
    );
    assert_eq!(l.diagnostics.len(), 5, "{told}");
    // One that is given and cannot be is told once, and not missing too.
    let l = from_text(&[GOOD], &["train_micro_batch_size_per_gpu=1000000000"]);
    assert_eq!(l.diagnostics.len(), 1);
}

#[test]
fn former_keys_are_told_with_what_is_written_today() {
    let l = from_text(&[GOOD], &["save-interval=5", "warmup_iters=5"]);
    let hints: Vec<&str> = l.diagnostics.iter().filter_map(|d| d.hint.as_deref()).collect();
    assert_eq!(hints[0], "it is called `checkpoint_factor` now");
    assert!(hints[1].starts_with("write `warmup`, the fraction"), "{hints:?}");
}

/// The last file says where things lie, and a warning names them; all else is a conflict.
#[test]
fn the_last_file_says_where_things_lie() {
    let (model, here) = ("{save: a, load: b, seed: 1}", "{save: c, load: b}");
    let l = from_text(&[GOOD, model, here], &[]);
    let [told] = &told(&l)[..] else { panic!("{:?}", told(&l)) };
    assert!(told.starts_with("NX0114 1:2,1:2") && told.ends_with(": save"), "{told}");
    let run = l.config.unwrap().run;
    assert_eq!((run.save.as_deref(), run.load.as_deref()), (Some("c"), Some("b")));
    let l = from_text(&[GOOD, model, "{save: c, seed: 2}"], &["save=d"]);
    assert!(l.config.is_none());
    assert_eq!(l.diagnostics.iter().map(|d| d.kind.code).collect::<Vec<_>>(), ["NX0103"]);
}

/// `-d` names the folder of all files, and `.yml` may be left out, even where a folder has the name.
#[test]
fn names_of_files_may_leave_out_their_ending_and_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("model")).unwrap();
    std::fs::write(folder.path().join("model.yml"), GOOD).unwrap();
    std::fs::write(folder.path().join("places.json"), "{\"save\": \"x\"}").unwrap();
    let l = load(&["model".into(), "places.json".into()], Some(folder.path()), &[]);
    assert!(l.diagnostics.is_empty(), "{:?}", told(&l));
    assert_eq!(l.config.unwrap().run.save.as_deref(), Some("x"));
}
