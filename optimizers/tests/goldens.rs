//! Every update against steps of torch.optim and of published formulas in f64 (`make_goldens.py`).
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::{DType, Module, TensorType};
use neoxc_optimizers::{ALL, Settings, build};
use neoxc_plan::{Formula, Given};
use serde_json::Value;

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Steps of one weight; the state begins at zero, as the runtime's memory does.
fn weights(settings: &Settings, start: f64, rates: &[f64], gradients: &[f64]) -> Vec<f64> {
    let mut m = Module::new();
    m.insert(build("update", settings, 1.0).unwrap());
    let formulas: Vec<Formula> = settings
        .optimizer
        .scalars
        .iter()
        .map(|s| Formula::parse(&settings.substituted(s.formula)).unwrap())
        .collect();
    let number = |x: f64| Tensor::new(TensorType::scalar(DType::F32), vec![x]);
    let mut held = vec![start];
    held.extend(settings.optimizer.slots(settings).iter().map(|_| 0.0));
    let mut out = vec![];
    for (n, (lr, g)) in rates.iter().zip(gradients).enumerate() {
        // Twice the gradient, clipped to half of it.
        let mut x = vec![held[0], 2.0 * g];
        x.extend(&held[1..]);
        x.extend(
            formulas
                .iter()
                .map(|f| f.value(Given { step: n as u64 + 1, lr: *lr, loss_scale: 1.0 })),
        );
        x.push(0.5);
        let made = run(&m, "update", &x.into_iter().map(number).collect::<Vec<_>>()).unwrap();
        held = made.iter().map(|t| t.data[0]).collect();
        out.push(held[0]);
    }
    out
}

#[test]
fn updates_are_those_of_torch_and_of_the_papers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens.json");
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut seen = vec![];
    let rows = |v: &Value| v.as_array().unwrap().iter().map(numbers).collect::<Vec<_>>();
    let (rates, gradients) = (numbers(&all["rates"]), rows(&all["gradients"]));
    for (text, want) in all["weights"].as_object().unwrap() {
        // Goldens come before the optimizer that they are for.
        let Some(settings) = Settings::parse(text) else {
            assert!(!ALL.iter().any(|o| text.starts_with(o.name())), "{text}");
            continue;
        };
        let want = rows(want);
        assert!(want.len() >= 50);
        for (i, start) in numbers(&all["start"]).into_iter().enumerate() {
            let of_one: Vec<f64> = gradients.iter().map(|g| g[i]).collect();
            for (step, w) in weights(&settings, start, &rates, &of_one).into_iter().enumerate() {
                let want = want[step][i];
                assert!((w - want).abs() < 1e-12, "{text}: weight {i}, step {step}: {w} {want}");
            }
        }
        seen.push(settings.optimizer.name());
    }
    assert!(ALL.iter().all(|o| seen.contains(&o.name())), "an optimizer has no golden: {seen:?}");
}
