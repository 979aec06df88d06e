//! Identities of arithmetic: they bring other spellings of a model into the forms that the fused
//! rules know, and drop what does nothing.

use neoxc_ir::op::OpError;
use neoxc_ir::{Attrs, OpKind, ValueId};

use super::{Instance, Numerics, Rule, scalar, with_value};

type Made = Result<ValueId, OpError>;

fn two(i: &mut Instance<'_>, op: OpKind) -> Made {
    let dims = i.dims(&["batch", "seq", "embed"]);
    let (x, y) = (i.param("x", &dims), i.param("y", &dims[2..]));
    i.b().one(op, &[x, y], Attrs::new())
}

fn with_scalar(i: &mut Instance<'_>, op: OpKind, value: f64) -> Made {
    let dims = i.dims(&["seq", "embed"]);
    let x = i.param("x", &dims);
    let c = i.b().scalar(value)?;
    i.b().one(op, &[x, c], Attrs::new())
}

/// The rules of this file.
pub static RULES: &[Rule] = &[
    Rule {
        name: "add-commutes",
        numerics: Numerics::Exact,
        left: "(add ?x ?y ?e)",
        right: "(add ?y ?x ?e)",
        attrs: |_| Some(Attrs::new()),
        instance: |i| two(i, OpKind::Add),
    },
    Rule {
        name: "multiply-commutes",
        numerics: Numerics::Exact,
        left: "(mul ?x ?y ?e)",
        right: "(mul ?y ?x ?e)",
        attrs: |_| Some(Attrs::new()),
        instance: |i| two(i, OpKind::Mul),
    },
    Rule {
        name: "divide-by-constant",
        numerics: Numerics::Reassociating,
        left: "(div ?x (fill ?c) ?e)",
        right: "(mul ?x (fill ?new) ?e)",
        attrs: |m| {
            let c = m.attrs("?c")?;
            let value = scalar(&c)?;
            (value.abs() > 1e-30 && value.abs() < 1e30).then(|| with_value(&c, 1.0 / value))
        },
        instance: |i| with_scalar(i, OpKind::Div, 3.0),
    },
    Rule {
        name: "multiply-constants",
        numerics: Numerics::Reassociating,
        left: "(mul (mul ?x (fill ?a) ?e) (fill ?b) ?e)",
        right: "(mul ?x (fill ?new) ?e)",
        attrs: |m| {
            let a = m.attrs("?a")?;
            let value = scalar(&a)? * scalar(&m.attrs("?b")?)?;
            (value.abs() > 1e-30 && value.abs() < 1e30).then(|| with_value(&a, value))
        },
        instance: |i| {
            let once = with_scalar(i, OpKind::Mul, 0.7)?;
            let c = i.b().scalar(-2.5)?;
            i.b().mul(once, c)
        },
    },
    Rule {
        name: "double-negation",
        numerics: Numerics::Exact,
        left: "(neg (neg ?x ?a) ?b)",
        right: "?x",
        attrs: |_| Some(Attrs::new()),
        instance: |i| {
            let dims = i.dims(&["seq", "embed"]);
            let x = i.param("x", &dims);
            let once = i.b().unary(OpKind::Neg, x)?;
            i.b().unary(OpKind::Neg, once)
        },
    },
    Rule {
        name: "add-zero",
        numerics: Numerics::Exact,
        left: "(add ?x (fill ?zero) ?a)",
        right: "?x",
        attrs: |m| (scalar(&m.attrs("?zero")?)? == 0.0).then(Attrs::new),
        instance: |i| with_scalar(i, OpKind::Add, 0.0),
    },
    Rule {
        name: "multiply-by-one",
        numerics: Numerics::Exact,
        left: "(mul ?x (fill ?one) ?a)",
        right: "?x",
        attrs: |m| (scalar(&m.attrs("?one")?)? == 1.0).then(Attrs::new),
        instance: |i| with_scalar(i, OpKind::Mul, 1.0),
    },
];
