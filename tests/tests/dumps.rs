//! Every phase of a real configuration, as MLIR's own tools see it.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::process::Command;

use neoxc_driver::pass::PassCx;
use neoxc_driver::pipeline::run_phase;
use neoxc_driver::{Options, Phase, compile, compile_from, phases};
use neoxc_ir::target::Target;
use neoxc_ir::{keys, text};

const SETS: [&str; 11] = [
    "num_layers=3",
    "hidden_size=24",
    "num_attention_heads=3",
    "seq_length=13",
    "padded_vocab_size=61",
    "pos_emb=rotary",
    "rotary_pct=0.5",
    "gpt_j_residual=true",
    "train_micro_batch_size_per_gpu=2",
    "train_iters=1",
    "optimizer={type: Adam, params: {lr: 0.001}}",
];

#[test]
fn mlir_opt_reads_every_phase() {
    if Command::new("mlir-opt-22").arg("--version").output().is_err() {
        eprintln!("skipped: mlir-opt-22 is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dialect = folder.path().join("neox.irdl.mlir");
    std::fs::write(&dialect, neoxc_ir::dialect::irdl()).unwrap();
    let mut seen = vec![];
    for more in [&[][..], &["checkpoint_activations=true", "checkpoint_num_layers=3"]] {
        let sets: Vec<String> = SETS.iter().chain(more).map(|s| s.to_string()).collect();
        let config = neoxc_frontend::load(&[], None, &sets).config.unwrap();
        phases(&config, Target::X86Native, None, true, Phase::Scheduled, &mut |phase, m, _, _| {
            let printed = text::print(m);
            assert!(&text::parse(&printed).unwrap() == m, "{} does not round-trip", phase.name());
            let file = folder.path().join(format!("{}.mlir", phase.name()));
            std::fs::write(&file, &printed).unwrap();
            let out = Command::new("mlir-opt-22")
                .arg(format!("--irdl-file={}", dialect.display()))
                .arg("--allow-unregistered-dialect")
                .arg(&file)
                .output()
                .unwrap();
            assert!(
                out.status.success(),
                "{}: {}",
                phase.name(),
                String::from_utf8_lossy(&out.stderr)
            );
            seen.push(phase);
        })
        .unwrap();
    }
    assert_eq!(seen.len(), 12);
}

/// A dump of any phase, read back from its text, makes the plan that its configuration makes, file by file.
#[test]
fn every_phase_goes_on_from_its_text_to_the_same_plan() {
    let more = ["model_parallel_size=3", "pipe_parallel_size=3", "gradient_accumulation_steps=2"];
    let sets: Vec<String> = SETS.iter().chain(&more).map(|s| s.to_string()).collect();
    let config = neoxc_frontend::load(&[], None, &sets).config.unwrap();
    let cache = tempfile::tempdir().unwrap();
    let options = Options {
        targets: vec![Target::X86Native],
        cache: Some(cache.path().to_path_buf()),
        threads: 4,
        machine: None,
        overlap: true,
    };
    let want = compile(&config, &options).unwrap().plan;
    for (i, phase) in Phase::ALL[..6].iter().enumerate() {
        let name = format!("ir/{}.mlir", phase.name());
        let text = String::from_utf8(want.files[&name].clone()).unwrap();
        let mut got = compile_from(text::parse(&text).unwrap(), &options).unwrap().plan;
        // The phases in front of the dump are not made again; one that nothing is left to do for is.
        for before in &Phase::ALL[..=i.min(4)] {
            let name = format!("ir/{}.mlir", before.name());
            assert!(got.files.insert(name.clone(), want.files[&name].clone()).is_none(), "{name}");
        }
        assert_eq!(got.files.keys().collect::<Vec<_>>(), want.files.keys().collect::<Vec<_>>());
        for (name, bytes) in &want.files {
            assert!(&got.files[name] == bytes, "{name} differs from {}", phase.name());
        }
        assert!(got == want, "the plan differs from {}", phase.name());
    }
}

/// What `neoxc opt` runs on a dump is what the compiler ran: the settings stand at its head.
#[test]
fn passes_replay_on_a_dump_of_several_ranks() {
    for more in ["model_parallel_size=3", "pipe_parallel_size=3", "zero_optimization={stage: 3}"] {
        let more = [more, "world_size=6", "gradient_accumulation_steps=4"];
        let sets: Vec<String> = SETS.iter().chain(&more).map(|s| s.to_string()).collect();
        let config = neoxc_frontend::load(&[], None, &sets).config.unwrap();
        let mut dumps = vec![];
        phases(&config, Target::X86V4, None, false, Phase::Scheduled, &mut |phase, m, _, _| {
            dumps.push((phase, text::print(m)));
        })
        .unwrap();
        for ((_, before), (phase, after)) in dumps.iter().zip(&dumps[1..]) {
            let mut m = text::parse(before).unwrap();
            // Other settings than the file's would be replaced.
            let cx = PassCx::new(Target::Sm80).of_module(&m).unwrap();
            assert!(cx.degrees.ranks() == 6 && !cx.overlap, "{cx:?}");
            run_phase(&mut m, *phase, &cx).unwrap();
            if *phase == Phase::Grad {
                // The driver counts these.
                m.attrs.set(
                    keys::FLOPS,
                    text::parse(after).unwrap().attrs.get(keys::FLOPS).unwrap().clone(),
                );
            }
            assert!(text::print(&m) == *after, "{} differs when replayed", phase.name());
        }
        let count = |text: &str| text.matches("neox.all_reduce").count();
        assert!(count(&dumps[2].1) == 0 && count(&dumps[3].1) > 0);
    }
}

#[test]
fn a_dump_that_cannot_be_gone_on_from_is_refused() {
    let config = neoxc_frontend::load(&[], None, &SETS.map(String::from)).config.unwrap();
    let mut dumps = vec![];
    phases(&config, Target::X86Native, None, true, Phase::Scheduled, &mut |_, m, _, _| {
        dumps.push(text::print(m));
    })
    .unwrap();
    let options = Options {
        targets: vec![Target::X86Native],
        cache: None,
        threads: 1,
        machine: None,
        overlap: true,
    };
    for (from, to, says) in [
        ("\"tensor=1\"", "\"tensor=0\"", "`neox.mesh`"),
        ("\"zero_stage=0\"", "\"zero_stage=9\"", "zero_stage is 0, 1, 2 or 3"),
        ("\"place-memory\"", "\"place-memroy\"", "which is no pass"),
        ("neox.config = [", "neox.arenas = [", "attribute `neox.arenas` is"),
        ("\"model.hidden_size=24\"", "\"model.hidden_size\"", "is not SECTION.KEY=VALUE"),
        ("\"model.hidden_size=24\"", "\"model.hidden_size=many\"", "model.hidden_size"),
        ("\"model.hidden_size=24\", ", "", "hidden_size"),
        // A place that somebody has edited.
        ("neox.place = [\"arena+", "neox.place = [\"arena+64", "reads"),
    ] {
        let text = dumps[5].replacen(from, to, 1);
        assert!(text != dumps[5], "{from}");
        let m = text::parse(&text).unwrap();
        let told = match neoxc_ir::verify(&m) {
            Err(e) => e.to_string(),
            Ok(()) => compile_from(m, &options).unwrap_err().to_string(),
        };
        assert!(told.contains(says), "{told}\nfor {to}");
    }
    let none = text::parse("module {\n}\n").unwrap();
    let told = compile_from(none, &options).unwrap_err().to_string();
    assert!(told.contains("no `neox.config`"), "{told}");
}

/// Text that somebody edited badly is refused, never a panic: bytes changed, cut out, doubled.
#[test]
fn no_edit_of_a_dump_panics() {
    let loaded = neoxc_frontend::load(&[], None, &SETS.map(String::from));
    let config = loaded.config.unwrap();
    let mut dumps = vec![];
    phases(&config, Target::X86Native, None, true, Phase::Scheduled, &mut |_, m, _, _| {
        dumps.push(text::print(m));
    })
    .unwrap();
    let mut state = 12345u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) as usize % n
    };
    let (mut refused, mut accepted) = (0, 0);
    for dump in &dumps {
        for _ in 0..60 {
            let mut bytes = dump.clone().into_bytes();
            let at = random(bytes.len());
            let some = (at + 1 + random(40)).min(bytes.len());
            match random(4) {
                0 => bytes[at] = b"%@{}[]<>\"(),:#=0x-"[random(18)],
                1 => drop(bytes.drain(at..some)),
                2 => {
                    let copy = bytes[at..some].to_vec();
                    let to = random(bytes.len());
                    bytes.splice(to..to, copy);
                }
                _ => bytes.truncate(at),
            }
            let text = String::from_utf8_lossy(&bytes);
            match text::parse(&text).map(|m| neoxc_ir::verify(&m)) {
                Ok(Ok(())) => accepted += 1,
                _ => refused += 1,
            }
        }
    }
    assert!(refused > 100 && accepted > 0, "{refused} {accepted}");
}
