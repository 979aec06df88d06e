//! Every update against steps of torch.optim and of published formulas in f64 (`make_goldens.py`).
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::{Attr, Attrs, Builder, DType, Function, Module, OpKind, TensorType, ValueId};
use neoxc_optimizers::{ALL, Form, Settings, build, direction};
use neoxc_plan::{Formula, Given};
use serde_json::Value;

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Steps of one weight; the state begins at zero, as the runtime's memory does.
fn weights(settings: &Settings, start: f64, rates: &[f64], gradients: &[f64]) -> Vec<f64> {
    let mut m = Module::new();
    m.insert(build("update", settings, Form::Elements, 1.0).unwrap());
    let formulas: Vec<Formula> = settings
        .optimizer
        .scalars
        .iter()
        .map(|s| Formula::parse(&settings.substituted(s.formula)).unwrap())
        .collect();
    let number = |x: f64| Tensor::new(TensorType::scalar(DType::F32), vec![x]);
    let mut held = vec![start];
    held.extend(settings.optimizer.slots(settings, Form::Elements).iter().map(|_| 0.0));
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

/// A step of one matrix as a function: weight, gradient, state, scalars, clip → weight, state.
fn step_of_matrix(settings: &Settings, ty: &TensorType) -> Module {
    let mut m = Module::new();
    m.insert(build("update", settings, Form::Matrix, 1.0).unwrap());
    m.insert(direction("direction", settings).unwrap());
    let mut f = Function::new("step");
    let matrix = settings.optimizer.matrix.as_ref().unwrap();
    let slots = settings.optimizer.slots(settings, Form::Matrix).len();
    let mut add = |name: &str, ty: &TensorType| f.add_param(name, ty.clone(), Attrs::new());
    let mut inputs: Vec<ValueId> = (0..2 + slots).map(|n| add(&format!("x{n}"), ty)).collect();
    let number = TensorType::scalar(DType::F32);
    inputs.extend((0..=settings.optimizer.scalars.len()).map(|n| add(&format!("s{n}"), &number)));
    let b = &mut Builder::with_module(&mut f, &m);
    let map = |b: &mut Builder<'_>, callee: &str, inputs: &[ValueId], results: usize| {
        let attrs = Attrs::new().with("callee", Attr::Symbol(callee.into()));
        b.op(OpKind::Map, inputs, attrs.with("results", Attr::Int(results as i64))).unwrap()
    };
    let seen = map(b, "direction", &inputs[1..], 1)[0];
    let whole = (matrix.whole)(b, seen, settings).unwrap();
    f.results = map(b, "update", &[&inputs[..], &[whole]].concat(), 1 + slots);
    m.insert(f);
    m
}

#[test]
fn updates_of_matrices_are_those_of_the_papers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens.json");
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let rows = |v: &Value| v.as_array().unwrap().iter().map(numbers).collect::<Vec<_>>();
    let gradients = rows(&all["matrix_gradients"]);
    let mut seen = vec![];
    for case in all["matrices"].as_array().unwrap() {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let dims = [("layer", 1), ("row", size("rows")), ("column", size("columns"))];
        let (ty, number) = (TensorType::f32(&dims), TensorType::scalar(DType::F32));
        let text = case["optimizer"].as_str().unwrap();
        let settings = Settings::parse(text).unwrap();
        let m = step_of_matrix(&settings, &ty);
        let mut held = vec![numbers(&all["matrix_start"])];
        held.resize(1 + settings.optimizer.slots(&settings, Form::Matrix).len(), vec![0.0; 6]);
        let want = rows(&case["weights"]);
        for (step, (lr, g)) in numbers(&all["rates"]).iter().zip(&gradients).enumerate() {
            // Twice the gradient, clipped to half of it.
            let twice = g.iter().map(|g| 2.0 * g).collect();
            let mut x =
                vec![Tensor::new(ty.clone(), held[0].clone()), Tensor::new(ty.clone(), twice)];
            x.extend(held[1..].iter().map(|s| Tensor::new(ty.clone(), s.clone())));
            let given = Given { step: step as u64 + 1, lr: *lr, loss_scale: 1.0 };
            let scalars = settings.optimizer.scalars.iter();
            let scalars =
                scalars.map(|s| Formula::parse(&settings.substituted(s.formula)).unwrap());
            let scalars = scalars.map(|f| f.value(given)).chain([0.5]);
            x.extend(scalars.map(|s| Tensor::new(number.clone(), vec![s])));
            held = run(&m, "step", &x).unwrap().into_iter().map(|t| t.data).collect();
            for (got, want) in held[0].iter().zip(&want[step]) {
                assert!((got - want).abs() < 1e-11, "{text}, step {step}: {got} {want}");
            }
        }
        seen.push(settings.optimizer.name());
    }
    let all = ALL.iter().filter(|o| o.matrix.is_some());
    assert!(all.into_iter().all(|o| seen.contains(&o.name())), "a matrix has no golden: {seen:?}");
}
