//! Causal attention, found in two matmuls around a softmax, with dropout or without; and what leads there.

use neoxc_ir::op::OpError;
use neoxc_ir::ops::causal_mask::WINDOW;
use neoxc_ir::{Attr, Attrs, Builder, DType, Dim, OpKind, TensorType, ValueId};

use super::{Instance, Match, Numerics, Rule, scalar};

/// The weights of plain attention.
macro_rules! weights {
    () => {
        "(softmax (causal_mask (mul (matmul ?q (rename ?k ?rename) ?scores) (fill ?scale) ?e1) ?mask) ?over)"
    };
}

/// Whether an output has these dims: heads of their own keys, or several that share them.
fn is_output(dims: &[&str]) -> bool {
    dims == ["batch", "seq", "heads", "head_dim"]
        || dims == ["batch", "seq", "heads", "queries", "head_dim"]
}

/// The attributes of attention, where everything around the weights is as it must be.
fn attrs(m: &dyn Match) -> Option<Attrs> {
    let is =
        |var: &str, name: &str, want: &str| m.attrs(var).is_some_and(|a| a.str(name) == Some(want));
    let fits = is("?rename", "from", "seq")
        && is("?rename", "to", "kv_seq")
        && is("?scores", "contract", "head_dim")
        && is("?mask", "query", "seq")
        && is("?mask", "key", "kv_seq")
        && m.attrs("?mask")?.float("value")? <= -1e30
        && is("?over", "dim", "kv_seq")
        && is("?mix", "contract", "kv_seq")
        && is_output(&m.attrs("?order")?.strs("dims")?);
    fits.then_some(())?;
    let mut all = Attrs::new().with("scale", Attr::Float(scalar(&m.attrs("?scale")?)?));
    if let Some(window) = m.attrs("?mask")?.get(WINDOW.name) {
        all.set(WINDOW.name, window.clone());
    }
    Some(all)
}

/// Plain attention; `drop` sees the weights and their type.
fn plain(
    i: &mut Instance<'_>,
    drop: impl FnOnce(&mut Instance<'_>, ValueId) -> Result<ValueId, OpError>,
) -> Result<ValueId, OpError> {
    let dims = i.dims(&["batch", "heads", "seq", "head_dim"]);
    let mut of_q = dims.clone();
    let mut order = vec!["batch", "seq", "heads", "head_dim"];
    if (i.random)(2) == 1 {
        of_q.insert(2, Dim::new("queries", 2 + (i.random)(3)));
        order.insert(3, "queries");
    }
    let window = ((i.random)(2) == 1).then(|| (i.random)(6));
    let q = i.param("q", &of_q);
    let [k, v] = ["k", "v"].map(|n| i.param(n, &dims));
    let text = |s: &str| Attr::Str(s.into());
    let to_kv = Attrs::new().with("from", text("seq")).with("to", text("kv_seq"));
    let b = &mut i.b();
    let k = b.one(OpKind::Rename, &[k], to_kv.clone())?;
    let v = b.one(OpKind::Rename, &[v], to_kv)?;
    let scores = b.matmul(q, k, &["head_dim"])?;
    let scale = b.scalar(0.37)?;
    let scaled = b.mul(scores, scale)?;
    let mut mask = Attrs::new()
        .with("query", text("seq"))
        .with("key", text("kv_seq"))
        .with("value", Attr::Float(-1e30));
    if let Some(window) = window {
        mask.set(WINDOW.name, Attr::Int(window as i64));
    }
    let masked = b.one(OpKind::CausalMask, &[scaled], mask)?;
    let weights = b.one(OpKind::Softmax, &[masked], Attrs::new().with("dim", text("kv_seq")))?;
    let weights = drop(i, weights)?;
    let b: &mut Builder<'_> = &mut i.b();
    let mixed = b.matmul(weights, v, &["kv_seq"])?;
    b.transpose_to(mixed, &order)
}

/// The rules of this file.
pub static RULES: &[Rule] = &[
    Rule {
        name: "attention",
        numerics: Numerics::Reassociating,
        left: concat!("(transpose (matmul ", weights!(), " (rename ?v ?rename) ?mix) ?order)"),
        right: "(r0 (attention ?q ?k ?v ?new))",
        attrs,
        instance: |i: &mut Instance<'_>| plain(i, |_, weights| Ok(weights)),
    },
    Rule {
        name: "dropout-attention",
        numerics: Numerics::Reassociating,
        left: concat!(
            "(transpose (matmul (dropout ",
            weights!(),
            " ?place ?layer ?column ?head ?drop) (rename ?v ?rename) ?mix) ?order)"
        ),
        right: "(r0 (dropout_attention ?q ?k ?v ?place ?layer ?column ?head ?new))",
        attrs: |m| {
            let mut all = attrs(m)?;
            all.0.extend(m.attrs("?drop")?.0);
            Some(all)
        },
        instance: |i: &mut Instance<'_>| {
            plain(i, |i, weights| {
                let all = i.b().ty(weights).dims.clone();
                let mut ids = |name: &str, of: &[&str]| {
                    let dims = all.iter().filter(|d| of.contains(&&*d.name)).cloned().collect();
                    i.f.add_param(name, TensorType::new(DType::I32, dims), Attrs::new())
                };
                let operands = [
                    weights,
                    ids("place", &["batch", "seq"]),
                    ids("layer", &[]),
                    ids("column", &["kv_seq"]),
                    ids("head", &["heads", "queries"]),
                ];
                let attrs = Attrs::new()
                    .with("rate", Attr::Float(0.3))
                    .with("seed", Attr::Int(5))
                    .with("site", Attr::Int(3));
                i.b().one(OpKind::Dropout, &operands, attrs)
            })
        },
    },
    Rule {
        name: "softmax",
        numerics: Numerics::Reassociating,
        left: "(div (exp (sub ?x (reduce_max ?x ?over) ?e1) ?e2) \
               (reduce_sum (exp (sub ?x (reduce_max ?x ?over) ?e1) ?e2) ?over) ?e3)",
        right: "(softmax ?x ?new)",
        attrs: |m| match m.attrs("?over")?.strs("dims")?[..] {
            [dim] => Some(Attrs::new().with("dim", Attr::Str(dim.to_string()))),
            _ => None,
        },
        instance: |i: &mut Instance<'_>| {
            let dims = i.dims(&["batch", "seq", "vocab"]);
            let x = i.param("x", &dims);
            let b = &mut i.b();
            let over = Attrs::new().with("dims", Attr::strs(&["vocab"]));
            let top = b.one(OpKind::ReduceMax, &[x], over)?;
            let low = b.sub(x, top)?;
            let e = b.unary(OpKind::Exp, low)?;
            let sum = b.reduce_sum(e, &["vocab"])?;
            b.div(e, sum)
        },
    },
    Rule {
        // A scale on the queries is one on the scores.
        name: "scale-through-matmul",
        numerics: Numerics::Reassociating,
        left: "(matmul (mul ?x (fill ?scale) ?e) ?y ?c)",
        right: "(mul (matmul ?x ?y ?c) (fill ?new) ?e)",
        attrs: |m| {
            let a = m.attrs("?scale")?;
            scalar(&a).map(|_| a)
        },
        instance: |i: &mut Instance<'_>| {
            let dims = i.dims(&["batch", "seq", "embed", "ffn"]);
            let (x, y) = (i.param("x", &dims[..3]), i.param("y", &dims[2..]));
            let b = &mut i.b();
            let scale = b.scalar(-1.7)?;
            let scaled = b.mul(x, scale)?;
            b.matmul(scaled, y, &["embed"])
        },
    },
];
