//! Parameters that are not trained: the others are trained as beside trained ones, and nothing is kept or computed for
//! these.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::collections::HashMap;

use common::{Random, arch, inputs};
use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::role::{is_frozen, name_of};
use neoxc_ir::target::Target;
use neoxc_ir::{Module, OpKind, Output, Role, verify};
use neoxc_models::arch::Arch;
use neoxc_passes::PassCx;
use neoxc_passes::pipeline::{Phase, run_phase};

fn stepped(m: &mut Module) {
    for phase in [Phase::Rewritten, Phase::Grad] {
        run_phase(m, phase, &PassCx::new(Target::X86V4)).unwrap();
    }
    verify(m).unwrap();
}

/// What a step makes, by what it is, of the inputs that are called so.
fn made(m: &Module, x: &HashMap<String, Tensor>) -> HashMap<Output, Tensor> {
    let f = m.function("train_step").unwrap();
    let key = |a| format!("{} {}", common::kind(a), name_of(a));
    let x: Vec<Tensor> = f.param_attrs.iter().map(|a| x[&key(a)].clone()).collect();
    let out = run(m, "train_step", &x).unwrap();
    Output::all(f).unwrap().into_iter().zip(out).collect()
}

#[test]
fn what_is_trained_is_trained_as_if_all_were() {
    let deep = Arch { layers: 4, checkpoint: Some(2), tied: true, ..arch() };
    for (n, a) in [arch(), Arch { tied: true, ..arch() }, deep].into_iter().enumerate() {
        for first in [0, 1] {
            // Without clipping no parameter's update depends on another one's gradient.
            let build = || common::build_with(&a, common::OPTIMIZER, 0.0).unwrap();
            let (mut all, mut half) = (build(), build());
            common::freeze(&mut half, first);
            stepped(&mut all);
            stepped(&mut half);
            let f = all.function("train_step").unwrap();
            let key = |a| format!("{} {}", common::kind(a), name_of(a));
            let x = inputs(&all, "train_step", &mut Random(90 + n as u64));
            let x: HashMap<String, Tensor> = f.param_attrs.iter().map(key).zip(x).collect();
            let (want, got) = (made(&all, &x), made(&half, &x));
            let step = half.function("train_step").unwrap();
            let frozen: Vec<&str> = Role::Parameter
                .all(step)
                .filter(|(_, a)| is_frozen(a))
                .map(|(_, a)| name_of(a))
                .collect();
            let count = Role::Parameter.all(step).count();
            assert!(frozen.len() >= count / 2 && frozen.len() < count, "{n}");
            let of = |what: &Output| match what {
                Output::Parameter(name) | Output::State(_, name) => Some(name.clone()),
                _ => None,
            };
            let mut squares = 0.0;
            for (what, want) in &want {
                if of(what).is_some_and(|name| frozen.contains(&name.as_str())) {
                    assert!(!got.contains_key(what), "{n}: there is a {what}");
                    continue;
                }
                if *what == Output::Port("grad_norm".into()) {
                    continue;
                }
                for (a, b) in want.data.iter().zip(&got[what].data) {
                    assert!((a - b).abs() < 1e-12 * (1.0 + a.abs()), "{n}: {what} is {b}, not {a}");
                }
                // The gradient, out of its mean: m' = 0.9 m + 0.1 g.
                if let Output::State(slot, name) = what
                    && slot == "exp_avg"
                {
                    let before = &x[&format!("state exp_avg {name}")];
                    let g =
                        want.data.iter().zip(&before.data).map(|(m1, m0)| (m1 - 0.9 * m0) / 0.1);
                    squares += g.map(|g| g * g).sum::<f64>();
                }
            }
            // Only what is trained counts for clipping.
            let norm = got[&Output::Port("grad_norm".into())].data[0];
            assert!((squares.sqrt() - norm).abs() < 1e-9 * norm, "{n}: {} {norm}", squares.sqrt());
            assert!(Role::State.all(step).all(|(_, a)| !frozen.contains(&name_of(a))), "{n}");
        }
    }
}

/// With all weights of the layers frozen but a norm's, no matmul makes a weight's gradient there.
#[test]
fn gradients_that_nobody_needs_are_not_computed() {
    let matmuls = |freeze: bool| {
        let mut m = common::build(&arch()).unwrap();
        for attrs in m.functions.iter_mut().flat_map(|f| &mut f.param_attrs) {
            let layer = attrs.str("neox.param").is_some_and(|n| n.contains("{layer"));
            let norm = attrs.str("neox.param").is_some_and(|n| n.contains("layernorm"));
            if freeze && layer && !norm {
                attrs.set("neox.frozen", neoxc_ir::Attr::Bool(true));
            }
        }
        stepped(&mut m);
        let body = m.function("block.bwd").unwrap();
        body.ops.iter().filter(|op| op.kind == OpKind::Matmul).count()
    };
    // Four projections, each with a gradient of its weight.
    assert_eq!(matmuls(true) + 4, matmuls(false));
}
