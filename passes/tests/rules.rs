//! Every rewrite rule, on random instances of its own: what it makes has the same type and, by the
//! reference evaluator, the same values; and the choice between forms is by cost and is reported.
#![allow(clippy::unwrap_used)] // helper functions of tests

mod common;

use std::sync::Arc;

use neoxc_ir::eval::{Tensor, run};
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Attrs, DType, Function, Module, OpKind, text, verify};
use neoxc_models::arch::{Arch, Positions};
use neoxc_passes::rewrite_graph::{Outcome, Pick, rewrite};
use neoxc_passes::rules::{self, Instance, Numerics, Rule};

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) as usize % n
    }

    fn unit(&mut self) -> f64 {
        self.below(1 << 30) as f64 / (1u64 << 29) as f64 - 1.0
    }
}

fn instance(rule: &Rule, r: &mut Random) -> Module {
    let mut f = Function::new("main");
    let mut random = |n| r.below(n);
    let y = (rule.instance)(&mut Instance { f: &mut f, random: &mut random }).unwrap();
    f.results = vec![y];
    let mut m = Module::default();
    m.insert(f);
    verify(&m).unwrap();
    m
}

fn inputs(m: &Module, r: &mut Random) -> Vec<Tensor> {
    let f = m.function("main").unwrap();
    let vocab = f.params.iter().filter_map(|p| f.ty(*p).size("vocab")).max().unwrap_or(1000);
    let value = |p: &neoxc_ir::ValueId| {
        let ty = f.ty(*p).clone();
        match ty.dtype {
            DType::I32 => Tensor::from_fn(ty, |_| r.below(vocab) as f64),
            _ => Tensor::from_fn(ty, |_| 2.0 * r.unit()),
        }
    };
    f.params.iter().map(value).collect()
}

fn rewritten(m: &Module, rules: &[&'static Rule], pick: Pick) -> (Module, Outcome) {
    let source = Arc::new(m.clone());
    let f = m.function("main").unwrap();
    let (new, outcome) = rewrite(f, &source, Target::X86V4.rates(), rules, pick).unwrap();
    let mut out = m.clone();
    out.insert(new);
    verify(&out).unwrap();
    (out, outcome)
}

/// How far the e-graph of a block of GPT-NeoX 20B grows: rules that multiply terms would show here. `docs/howto/add-a-rule.md`
/// has the numbers.
#[test]
fn a_block_of_20b_stays_small_in_the_e_graph() {
    let a = Arch {
        batch: 4,
        seq: 2048,
        layers: 44,
        embed: 6144,
        heads: 64,
        head_dim: 96,
        ffn: 24576,
        vocab: 50432,
        positions: Positions::Rotary { dims: 24, base: 10_000.0, scaling: None },
        ..common::arch()
    };
    let m = Arc::new(neoxc_models::build(&a).unwrap());
    let rules: Vec<&'static Rule> = rules::all().collect();
    for (name, most) in [("block", 2000), ("loss", 2000)] {
        let f = m.function(name).unwrap();
        let start = std::time::Instant::now();
        let (_, o) = rewrite(f, &m, Target::X86V4.rates(), &rules, Pick::Cheapest).unwrap();
        let (rounds, terms) = o.size;
        println!(
            "@{name}: {} ops, {terms} terms after {rounds} rounds, {}, {:?}",
            f.ops.len(),
            o.stopped,
            start.elapsed()
        );
        assert!(
            o.stopped == "saturated" && terms <= most,
            "@{name}: {} with {terms} terms",
            o.stopped
        );
    }
}

#[test]
fn every_rule_keeps_type_and_value() {
    let names: Vec<&str> = rules::all().map(|r| r.name).collect();
    assert!(names.iter().enumerate().all(|(i, n)| !names[..i].contains(n)), "{names:?}");
    for rule in rules::all() {
        for seed in 0..30 {
            let mut r = Random(seed * 77 + 1);
            let m = instance(rule, &mut r);
            let (new, outcome) = rewritten(&m, &[rule], Pick::Rewritten);
            assert!(outcome.counts[0].1 > 0, "{} did not apply to its instance", rule.name);
            assert_ne!(text::print(&m), text::print(&new), "{} changed nothing", rule.name);
            let (f, g) = (m.function("main").unwrap(), new.function("main").unwrap());
            assert_eq!(f.ty(f.results[0]), g.ty(g.results[0]), "{}", rule.name);
            let x = inputs(&m, &mut r);
            let (want, got) = (run(&m, "main", &x).unwrap(), run(&new, "main", &x).unwrap());
            for (a, b) in want[0].data.iter().zip(&got[0].data) {
                let slack = match rule.numerics {
                    Numerics::Exact => 0.0,
                    Numerics::Reassociating => 1e-10 * (1.0 + a.abs()),
                };
                assert!((a - b).abs() <= slack, "{} seed {seed}: {a} {b}", rule.name);
            }
        }
    }
}

/// A condition that is not met keeps the rule from applying.
#[test]
fn rules_look_before_they_apply() {
    let norm = rules::all().find(|r| r.name == "layer-norm").unwrap();
    let m = instance(norm, &mut Random(3));
    let mut wrong = m.clone();
    let f = wrong.functions.iter_mut().find(|f| f.name == "main").unwrap();
    let fill = f.ops.iter_mut().find(|o| o.kind == OpKind::Fill).unwrap();
    // No longer one over the number of elements.
    fill.attrs.set("value", Attr::Float(0.123));
    assert_eq!(rewritten(&wrong, &[norm], Pick::Rewritten).1.counts[0].1, 0);
    let attention = rules::all().find(|r| r.name == "attention").unwrap();
    let mut soft = instance(attention, &mut Random(4));
    let f = soft.functions.iter_mut().find(|f| f.name == "main").unwrap();
    let mask = f.ops.iter_mut().find(|o| o.kind == OpKind::CausalMask).unwrap();
    // A mask that lets something through is another function.
    mask.attrs.set("value", Attr::Float(-2.0));
    assert_eq!(rewritten(&soft, &[attention], Pick::Rewritten).1.counts[0].1, 0);
}

/// The same model in another spelling: weights on the left, a scale on the queries, a softmax
/// written out, a division. The fused forms are found all the same, and the report says why.
#[test]
fn fused_forms_are_found_in_other_spellings() {
    let mut f = Function::new("main");
    let mut r = Random(11);
    let mut random = |n| r.below(n);
    let mut i = Instance { f: &mut f, random: &mut random };
    let size = |n: &str, s| neoxc_ir::Dim::new(n, s);
    let dims = [size("batch", 2), size("heads", 3), size("seq", 32), size("head_dim", 8)];
    let [q, k, v] = ["q", "k", "v"].map(|n| i.param(n, &dims));
    let b = &mut i.b();
    let rename =
        Attrs::new().with("from", Attr::Str("seq".into())).with("to", Attr::Str("kv_seq".into()));
    let root = b.scalar(8f64.sqrt()).unwrap();
    let scaled = b.div(q, root).unwrap();
    let (k, v) = (
        b.one(OpKind::Rename, &[k], rename.clone()).unwrap(),
        b.one(OpKind::Rename, &[v], rename).unwrap(),
    );
    let scores = b.matmul(scaled, k, &["head_dim"]).unwrap();
    let mask = Attrs::new()
        .with("query", Attr::Str("seq".into()))
        .with("key", Attr::Str("kv_seq".into()))
        .with("value", Attr::Float(-1e30));
    let masked = b.one(OpKind::CausalMask, &[scores], mask).unwrap();
    let over = Attrs::new().with("dims", Attr::strs(&["kv_seq"]));
    let top = b.one(OpKind::ReduceMax, &[masked], over).unwrap();
    let low = b.sub(masked, top).unwrap();
    let e = b.unary(OpKind::Exp, low).unwrap();
    let sum = b.reduce_sum(e, &["kv_seq"]).unwrap();
    let weights = b.div(e, sum).unwrap();
    let mixed = b.matmul(weights, v, &["kv_seq"]).unwrap();
    let y = b.transpose_to(mixed, &["batch", "seq", "heads", "head_dim"]).unwrap();
    f.results = vec![y];
    let mut m = Module::default();
    m.insert(f);
    let all: Vec<&'static Rule> = rules::all().collect();
    let (new, outcome) = rewritten(&m, &all, Pick::Cheapest);
    let g = new.function("main").unwrap();
    let kinds: Vec<&str> = g.ops.iter().map(|o| o.kind.name()).collect();
    assert_eq!(kinds, ["attention"], "{outcome:?}");
    assert_eq!(outcome.stopped, "saturated");
    let why = &outcome.choices[0];
    assert_eq!(why.op, "attention");
    assert!(why.rules == ["attention, reassociating"], "{why}");
    assert!(why.seconds.1 < why.seconds.0 && outcome.seconds.1 < outcome.seconds.0, "{why}");
    for op in ["matmul", "causal_mask", "exp", "div"] {
        assert!(why.replaced.iter().any(|r| r == op), "{why}");
    }
    let x = inputs(&m, &mut Random(12));
    let (want, got) = (run(&m, "main", &x).unwrap(), run(&new, "main", &x).unwrap());
    for (a, b) in want[0].data.iter().zip(&got[0].data) {
        assert!((a - b).abs() < 1e-10, "{a} {b}");
    }
}

/// Rewriting does not depend on what the process did before (symbols are numbered by first use).
#[test]
fn rewriting_repeats_to_the_letter() {
    let all: Vec<&'static Rule> = rules::all().collect();
    for rule in rules::all() {
        let m = instance(rule, &mut Random(5));
        let once = text::print(&rewritten(&m, &all, Pick::Cheapest).0);
        let _ = egg::Symbol::from(format!("noise{}", rule.name));
        assert_eq!(once, text::print(&rewritten(&m, &all, Pick::Cheapest).0), "{}", rule.name);
    }
}
