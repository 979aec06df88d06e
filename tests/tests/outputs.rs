//! What a step puts out reaches the report by its name, on one rank and from the last stage of a pipeline.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use common::{MODEL, data, kernels, run};
use neoxc_driver::{Options, Phase, compile_from, phases};
use neoxc_ir::target::Target;
use neoxc_ir::{Builder, Output};

#[test]
fn a_step_may_report_more_than_loss_and_norm() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path(), 0);
    let file = folder.path().join("model.yml");
    std::fs::write(&file, MODEL).unwrap();
    for layout in [&[][..], &["world_size=2", "pipe_parallel_size=2"]] {
        let mut sets = vec![format!("data_path={}", folder.path().join("d").display())];
        sets.extend(layout.iter().map(|s: &&str| s.to_string()));
        let loaded = neoxc_frontend::load(std::slice::from_ref(&file), None, &sets);
        let config = loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
        let seen = &mut |_: Phase, _: &_, _: f64, _: Vec<(String, String)>| {};
        let mut m = phases(&config, Target::X86Native, None, true, Phase::Grad, seen).unwrap();
        let f = m.function_mut("train_step").unwrap();
        let mut outputs = Output::all(f).unwrap();
        let at = outputs.iter().position(|o| *o == Output::Port("loss".into())).unwrap();
        let loss = f.results[at];
        let twice = Builder::new(f).add(loss, loss).unwrap();
        f.results.push(twice);
        outputs.push(Output::Port("twice_the_loss".into()));
        Output::set(f, &outputs);
        let targets = vec![Target::X86Native];
        let cache = Some(kernels());
        let options = Options { targets, cache, threads: 2, machine: None, overlap: true };
        let plan = compile_from(m, &options).unwrap().plan;
        let got = run(&plan, &folder.path().join("run"), 2, 2, false);
        assert_eq!(got.len(), 2);
        for r in got {
            assert_eq!(r.metrics.len(), 1, "{layout:?}");
            let twice = r.metrics["twice_the_loss"];
            assert!((twice - 2.0 * r.loss).abs() < 1e-5, "{layout:?}: {twice} {}", r.loss);
            let line = serde_json::to_value(&r).unwrap();
            assert!(line["twice_the_loss"].is_number() && line["loss"].is_number(), "{line}");
        }
    }
}
