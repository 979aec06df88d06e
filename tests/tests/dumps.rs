//! Every phase of a real configuration, as MLIR's own tools see it.
#![allow(clippy::unwrap_used)] // helper functions of tests

use std::process::Command;

use neoxc_driver::{Phase, phases};
use neoxc_ir::target::Target;
use neoxc_ir::text;

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

#[test]
fn a_phase_resumes_from_its_text() {
    let loaded = neoxc_frontend::load(&[], None, &SETS.map(String::from));
    let config = loaded.config.unwrap();
    let mut dumps = vec![];
    phases(&config, Target::X86Native, None, true, Phase::Scheduled, &mut |_, m, _, _| {
        dumps.push(text::print(m));
    })
    .unwrap();
    let cx = neoxc_driver::pass::PassCx::new(Target::X86Native);
    for (i, phase) in Phase::ALL.into_iter().enumerate().skip(1).take(5) {
        let mut m = text::parse(&dumps[i - 1]).unwrap();
        neoxc_driver::pipeline::run_phase(&mut m, phase, &cx).unwrap();
        assert!(text::print(&m) == dumps[i], "{} differs when resumed from text", phase.name());
    }
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
