//! Rewrite rules: named, declared once, each with its numeric class.
//!
//! Terms are `(op operand… attrs)`: attributes are a leaf `@n` that names an entry of the graph's
//! table, so one pattern matches any attributes and a condition looks at them. Results of an op with
//! several results are `(r0 op)`, `(r1 op)`, ….

use neoxc_ir::{Attr, Attrs};

/// What a rule may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numerics {
    /// The same rounding.
    Exact,
    /// The same function over the reals, other rounding.
    Reassociating,
}

/// Attributes bound by a rule's pattern, by variable name.
pub type Bound<'a> = &'a dyn Fn(&str) -> Attrs;

/// One rule.
pub struct Rule {
    /// Name in reports.
    pub name: &'static str,
    /// Numeric class.
    pub numerics: Numerics,
    /// What is found.
    pub left: &'static str,
    /// What may stand instead; `?new` is the leaf with the attributes that `attrs` gives.
    pub right: &'static str,
    /// Attribute variables that `attrs` looks at.
    pub looks_at: &'static [&'static str],
    /// Attributes of the new op, or `None` where the rule does not apply.
    pub attrs: fn(Bound<'_>) -> Option<Attrs>,
}

fn scalar(a: &Attrs) -> Option<f64> {
    (a.ints("sizes")?.is_empty()).then(|| a.float("value"))?
}

fn one_dim(a: &Attrs) -> Option<String> {
    match a.strs("dims")?[..] {
        [only] => Some(only.to_string()),
        _ => None,
    }
}

/// mean and variance over one dim, centred, scaled: the plain layer norm.
macro_rules! plain_norm {
    () => {
        "(mul (mul (sub ?x (mul (reduce_sum ?x ?over) (fill ?inverse) ?e1) ?e2) \
          (rsqrt (add (mul (reduce_sum (mul (sub ?x (mul (reduce_sum ?x ?over) (fill ?inverse) ?e1) ?e2) \
                                            (sub ?x (mul (reduce_sum ?x ?over) (fill ?inverse) ?e1) ?e2) ?e3) \
                                       ?over) \
                           (fill ?inverse) ?e4) (fill ?eps) ?e5) ?e6) ?e7) ?w ?e8)"
    };
}

fn norm_attrs(b: Bound<'_>) -> Option<Attrs> {
    let dim = one_dim(&b("?over"))?;
    let inverse = scalar(&b("?inverse"))?;
    // The graph's leaf does not know the dim's size; the caller checks types, and 1/n must be an
    // exact inverse of a whole number for the sums to be means.
    let n = 1.0 / inverse;
    ((n - n.round()).abs() < 1e-6).then_some(())?;
    Some(
        Attrs::new()
            .with("dim", Attr::Str(dim))
            .with("eps", Attr::Float(scalar(&b("?eps"))?))
            .with("neox.count", Attr::Int(n.round() as i64)),
    )
}

/// All rules.
pub static RULES: &[Rule] = &[
    Rule {
        name: "layer-norm-with-bias",
        numerics: Numerics::Reassociating,
        left: concat!("(add ", plain_norm!(), " ?b ?e9)"),
        right: "(r0 (layer_norm ?x ?w ?b ?new))",
        looks_at: &["?over", "?inverse", "?eps"],
        attrs: norm_attrs,
    },
    Rule {
        name: "layer-norm",
        numerics: Numerics::Reassociating,
        left: plain_norm!(),
        right: "(r0 (layer_norm ?x ?w ?new))",
        looks_at: &["?over", "?inverse", "?eps"],
        attrs: norm_attrs,
    },
    Rule {
        name: "attention",
        numerics: Numerics::Reassociating,
        left: "(transpose (matmul (softmax (causal_mask (mul (matmul ?q (rename ?k ?rename) ?scores) \
               (fill ?scale) ?e1) ?mask) ?over) (rename ?v ?rename) ?mix) ?order)",
        right: "(r0 (attention ?q ?k ?v ?new))",
        looks_at: &["?rename", "?scores", "?scale", "?mask", "?over", "?mix", "?order"],
        attrs: |b| {
            let is = |var: &str, name: &str, want: &str| b(var).str(name) == Some(want);
            let fits = is("?rename", "from", "seq")
                && is("?rename", "to", "kv_seq")
                && is("?scores", "contract", "head_dim")
                && is("?mask", "query", "seq")
                && is("?mask", "key", "kv_seq")
                && b("?mask").float("value")? <= -1e30
                && is("?over", "dim", "kv_seq")
                && is("?mix", "contract", "kv_seq")
                && b("?order").strs("dims")? == ["batch", "seq", "heads", "head_dim"];
            fits.then_some(())?;
            Some(Attrs::new().with("scale", Attr::Float(scalar(&b("?scale"))?)))
        },
    },
    Rule {
        name: "linear-cross-entropy",
        numerics: Numerics::Exact,
        left: "(r0 (cross_entropy (matmul ?x ?w ?c) ?labels ?over))",
        right: "(r0 (linear_cross_entropy ?x ?w ?labels ?new))",
        looks_at: &["?c", "?over"],
        attrs: |b| {
            let fits =
                b("?c").str("contract") == Some("embed") && b("?over").str("dim") == Some("vocab");
            fits.then(Attrs::new)
        },
    },
    Rule {
        name: "double-negation",
        numerics: Numerics::Exact,
        left: "(neg (neg ?x ?a) ?b)",
        right: "?x",
        looks_at: &[],
        attrs: |_| Some(Attrs::new()),
    },
    Rule {
        name: "add-zero",
        numerics: Numerics::Exact,
        left: "(add ?x (fill ?zero) ?a)",
        right: "?x",
        looks_at: &["?zero"],
        attrs: |b| (scalar(&b("?zero"))? == 0.0).then(Attrs::new),
    },
    Rule {
        name: "multiply-by-one",
        numerics: Numerics::Exact,
        left: "(mul ?x (fill ?one) ?a)",
        right: "?x",
        looks_at: &["?one"],
        attrs: |b| (scalar(&b("?one"))? == 1.0).then(Attrs::new),
    },
];
