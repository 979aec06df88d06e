//! libFuzzer over one target: `NEOXC_TARGET` is `data`, `greeting`, `yaml`, `plan` or `checkpoint`; the last two damage the plan in
//! `NEOXC_PLAN`, or a checkpoint of it.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use neoxc_fuzz::{CheckpointTarget, DataTarget, GreetingTarget, PlanTarget, Target, YamlTarget};
use neoxc_plan::Plan;

fn target() -> Box<dyn Target + Send + Sync> {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let plan = || Plan::open(var("NEOXC_PLAN").as_ref()).expect("NEOXC_PLAN names a plan");
    match var("NEOXC_TARGET").as_str() {
        "data" => Box::new(DataTarget::new().expect("a folder for files")),
        "greeting" => Box::new(GreetingTarget::new()),
        "yaml" => Box::new(YamlTarget::new().expect("a folder for files")),
        "plan" => Box::new(PlanTarget::new(plan())),
        "checkpoint" => Box::new(CheckpointTarget::new(plan()).expect("a folder for files")),
        other => panic!("NEOXC_TARGET is {other:?}; data, greeting, yaml, plan or checkpoint"),
    }
}

static TARGET: OnceLock<Box<dyn Target + Send + Sync>> = OnceLock::new();

fuzz_target!(|choices: &[u8]| {
    TARGET.get_or_init(target).run(choices);
});
