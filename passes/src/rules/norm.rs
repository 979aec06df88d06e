//! Layer norm and RMS norm, found in means, squares and a reciprocal root.

use neoxc_ir::op::OpError;
use neoxc_ir::{Attr, Attrs, Builder, OpKind, ValueId};

use super::{Instance, Match, Numerics, Rule, scalar};

/// Mean and variance over one dim, centred, scaled: the plain layer norm.
macro_rules! plain_norm {
    () => {
        "(mul (mul (sub ?x (mul (reduce_sum ?x ?over) (fill ?inverse) ?e1) ?e2) \
          (rsqrt (add (mul (reduce_sum (mul (sub ?x (mul (reduce_sum ?x ?over) (fill ?inverse) ?e1) ?e2) \
                                            (sub ?x (mul (reduce_sum ?x ?over) (fill ?inverse) ?e1) ?e2) ?e3) \
                                       ?over) \
                           (fill ?inverse) ?e4) (fill ?eps) ?e5) ?e6) ?e7) ?w ?e8)"
    };
}

fn attrs(m: &dyn Match) -> Option<Attrs> {
    let over = m.attrs("?over")?;
    let [dim] = over.strs("dims")?[..] else { return None };
    // The sums are means only if the factor is one over the dim's size.
    let n = m.ty("?x")?.size(dim)? as f64;
    let inverse = scalar(&m.attrs("?inverse")?)?;
    ((inverse * n - 1.0).abs() < 1e-9).then_some(())?;
    let eps = scalar(&m.attrs("?eps")?)?;
    Some(Attrs::new().with("dim", Attr::Str(dim.to_string())).with("eps", Attr::Float(eps)))
}

fn plain(b: &mut Builder<'_>, x: ValueId, w: ValueId, n: usize) -> Result<ValueId, OpError> {
    let inverse = b.scalar(1.0 / n as f64)?;
    let sum = b.reduce_sum(x, &["embed"])?;
    let mean = b.mul(sum, inverse)?;
    let centred = b.sub(x, mean)?;
    let square = b.mul(centred, centred)?;
    let sum = b.reduce_sum(square, &["embed"])?;
    let variance = b.mul(sum, inverse)?;
    let eps = b.scalar(1e-3)?;
    let shifted = b.add(variance, eps)?;
    let rstd = b.unary(OpKind::Rsqrt, shifted)?;
    let normal = b.mul(centred, rstd)?;
    b.mul(normal, w)
}

/// The rules of this file.
pub static RULES: &[Rule] = &[
    Rule {
        name: "layer-norm-with-bias",
        numerics: Numerics::Reassociating,
        left: concat!("(add ", plain_norm!(), " ?b ?e9)"),
        right: "(r0 (layer_norm ?x ?w ?b ?new))",
        attrs,
        instance: |i: &mut Instance<'_>| {
            let dims = i.dims(&["batch", "seq", "embed"]);
            let (x, w, bias) =
                (i.param("x", &dims), i.param("w", &dims[2..]), i.param("bias", &dims[2..]));
            let y = plain(&mut i.b(), x, w, dims[2].size)?;
            i.b().add(y, bias)
        },
    },
    Rule {
        name: "layer-norm",
        numerics: Numerics::Reassociating,
        left: plain_norm!(),
        right: "(r0 (layer_norm ?x ?w ?new))",
        attrs,
        instance: |i: &mut Instance<'_>| {
            let dims = i.dims(&["seq", "embed"]);
            let (x, w) = (i.param("x", &dims), i.param("w", &dims[1..]));
            plain(&mut i.b(), x, w, dims[1].size)
        },
    },
    Rule {
        name: "rms-norm",
        numerics: Numerics::Reassociating,
        left: "(mul (mul ?x (rsqrt (add (mul (reduce_sum (mul ?x ?x ?e1) ?over) (fill ?inverse) ?e2) \
               (fill ?eps) ?e3) ?e4) ?e5) ?w ?e6)",
        right: "(r0 (rms_norm ?x ?w ?new))",
        attrs,
        instance: |i: &mut Instance<'_>| {
            let dims = i.dims(&["batch", "seq", "embed"]);
            let (x, w) = (i.param("x", &dims), i.param("w", &dims[2..]));
            let b = &mut i.b();
            let inverse = b.scalar(1.0 / dims[2].size as f64)?;
            let square = b.mul(x, x)?;
            let sum = b.reduce_sum(square, &["embed"])?;
            let mean = b.mul(sum, inverse)?;
            let eps = b.scalar(1e-3)?;
            let shifted = b.add(mean, eps)?;
            let rstd = b.unary(OpKind::Rsqrt, shifted)?;
            let normal = b.mul(x, rstd)?;
            b.mul(normal, w)
        },
    },
];
