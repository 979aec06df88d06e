//! A model of which half of the parameters is frozen, compiled and trained under several layouts and in bf16: these stay
//! as they started, to the bit, and take no memory for gradients and optimizer state.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::path::Path;

use common::{MODEL, all_tensors, data, far, kernels, run};
use neoxc_driver::{Options, Phase, compile, compile_from, phases};
use neoxc_frontend::Config;
use neoxc_ir::role::name_of;
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Role, keys};
use neoxc_plan::{Plan, SegmentKind};

const LAYOUTS: [&[&str]; 5] = [
    &[],
    &["world_size=2", "gradient_accumulation_steps=1", "zero_optimization={stage: 3}"],
    &[
        "world_size=4",
        "gradient_accumulation_steps=1",
        "model_parallel_size=2",
        "zero_optimization={stage: 2}",
    ],
    &["world_size=2", "pipe_parallel_size=2"],
    &["precision=bfloat16"],
];

/// The configuration of a layout.
fn config(folder: &Path, layout: &[&str]) -> Config {
    let file = folder.join("model.yml");
    std::fs::write(&file, MODEL).unwrap();
    let mut sets = vec![format!("data_path={}", folder.join("d").display())];
    sets.extend(
        ["num_layers=4", "hidden_size=32", "num_attention_heads=4", "extra_save_iters=[0]"]
            .map(String::from),
    );
    sets.extend(layout.iter().map(|s| s.to_string()));
    let loaded = neoxc_frontend::load(&[file], None, &sets);
    loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
}

fn options() -> Options {
    let (targets, cache) = (vec![Target::X86Native], Some(kernels()));
    Options { targets, cache, threads: 2, machine: None, overlap: true }
}

/// The plan with every other parameter frozen, as an edited dump of the model says, and their names.
fn half(folder: &Path, layout: &[&str]) -> (Plan, Vec<String>) {
    let config = config(folder, layout);
    let seen = &mut |_: Phase, _: &_, _: f64, _: Vec<(String, String)>| {};
    let mut m = phases(&config, Target::X86Native, None, true, Phase::Model, seen).unwrap();
    let names = Role::Parameter.all(m.function("loss").unwrap()).map(|(_, a)| name_of(a));
    let frozen: Vec<String> = names.step_by(2).map(str::to_string).collect();
    for attrs in m.functions.iter_mut().flat_map(|f| &mut f.param_attrs) {
        if Role::Parameter.is(attrs) && frozen.iter().any(|n| n == name_of(attrs)) {
            attrs.set(keys::FROZEN, Attr::Bool(true));
        }
    }
    (compile_from(m, &options()).unwrap().plan, frozen)
}

#[test]
fn the_key_freezes_what_its_patterns_name() {
    let folder = tempfile::tempdir().unwrap();
    let layout = ["world_size=2", "pipe_parallel_size=2"];
    let (want, frozen) = half(folder.path(), &layout);
    let key = format!("freeze={frozen:?}");
    let config = config(folder.path(), &[&layout[..], &[&key]].concat());
    let got = compile(&config, &options()).unwrap().plan;
    assert_eq!(got.tables.parameters, want.tables.parameters);
    assert_eq!(got.tables.class_memory, want.tables.class_memory);
    assert_eq!(got.programs.len(), want.programs.len());
    for (a, b) in got.programs.iter().zip(&want.programs) {
        assert_eq!((&a.name, &a.body), (&b.name, &b.body));
    }
}

#[test]
fn frozen_parameters_stay_as_they_started_and_have_no_state() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let mut one: Vec<f64> = vec![];
    for layout in LAYOUTS {
        let (plan, frozen) = half(folder.path(), layout);
        assert!(frozen.len() * 2 >= plan.tables.parameters.len());
        for p in &plan.tables.parameters {
            let still = frozen.contains(&p.name);
            assert_eq!((p.gradient.is_none(), p.state.is_empty()), (still, still), "{}", p.name);
        }
        if plan.ranks() == 1 {
            let trained = plan.tables.parameters.iter().filter(|p| p.gradient.is_some());
            let bytes = |p: &neoxc_plan::Parameter| {
                (p.elements() * p.layers.unwrap_or(1) * 4).next_multiple_of(64)
            };
            let bytes: u64 = trained.map(bytes).sum();
            let held = |s: &&neoxc_plan::Segment| {
                matches!(s.kind, SegmentKind::State | SegmentKind::Gradients)
            };
            let all: Vec<u64> =
                plan.tables.segments.iter().filter(held).map(|s| s.bytes[0]).collect();
            assert_eq!(all, [bytes; 3], "{layout:?}");
        }
        let save = folder.path().join("run");
        let _ = std::fs::remove_dir_all(&save);
        let got = run(&plan, &save, 6, 2, false);
        let (start, end) =
            (all_tensors(&save.join("global_step0")), all_tensors(&save.join("global_step6")));
        let names: Vec<String> = plan.tables.parameters.iter().flat_map(|p| p.names()).collect();
        let of = |name: &str| {
            let p = plan.tables.parameters.iter().find(|p| p.names().iter().any(|n| n == name));
            p.is_some_and(|p| frozen.contains(&p.name))
        };
        for ((name, a), (_, b)) in start.iter().zip(&end) {
            if names.contains(name) {
                assert_eq!(a == b, of(name), "{layout:?}: {name}");
            } else {
                let (_, weight) = name.split_once('.').unwrap();
                assert!(!of(weight), "{layout:?}: there is a {name}");
            }
        }
        let losses: Vec<f64> = got.iter().map(|r| f64::from(r.loss)).collect();
        assert!(losses[5] < losses[0], "{layout:?}: {losses:?}");
        if one.is_empty() {
            one = losses;
        } else if !layout.iter().any(|l| l.contains("bfloat16")) {
            assert!(far(&losses, &one) < 1e-4, "{layout:?}: {losses:?} {one:?}");
        }
    }
    // A checkpoint goes on where the same are frozen, on another layout, and not where all are trained.
    let save = folder.path().join("moved");
    run(&half(folder.path(), LAYOUTS[1]).0, &save, 3, 2, false);
    let moved = run(&half(folder.path(), LAYOUTS[3]).0, &save, 6, 2, true);
    let losses: Vec<f64> = moved.iter().map(|r| f64::from(r.loss)).collect();
    assert!(far(&losses, &one[3..]) < 1e-4, "{losses:?} {one:?}");
}
