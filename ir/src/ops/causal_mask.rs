//! `neox.causal_mask`.

use super::prelude::*;

/// The attribute that limits how far back a query sees.
pub const WINDOW: AttrSpec = AttrSpec {
    name: "window",
    kind: AttrKind::Int,
    required: false,
    doc: "keys that a query sees before its own; all of them without it",
};

/// How many keys before its own a query sees, if they are limited.
pub fn window(attrs: &Attrs) -> Result<Option<usize>, OpError> {
    let Some(n) = attrs.int(WINDOW.name) else { return Ok(None) };
    let n = usize::try_from(n).map_err(|_| OpError::new("`window` must be at least 0"))?;
    Ok(Some(n))
}

/// Whether the query at position `query` sees the key at position `key`.
pub fn sees(window: Option<usize>, query: usize, key: usize) -> bool {
    key <= query && window.is_none_or(|w| query - key <= w)
}

/// The op of this file.
pub struct CausalMask;

impl OpDef for CausalMask {
    frame! {
        causal_mask(x) -> (y),
        "`x` where the position along `key` is at most the position along `query`, and with `window` at most so many before it; else `value`.",
        class Pointwise,
        precision WIDE,
        attrs &[
            required("query", AttrKind::Str, "dim of the queries"),
            required("key", AttrKind::Str, "dim of the keys"),
            required("value", AttrKind::Float, "what other keys get"),
            WINDOW,
        ],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        for which in ["query", "key"] {
            let dim = cx.str(which)?;
            if !cx.operands[0].has(dim) {
                return Err(OpError::new(format!("{} has no dim `{dim}`", cx.operands[0])));
            }
        }
        window(cx.attrs)?;
        Ok(vec![cx.operands[0].clone()])
    }
    fn gradient(&self, cx: &mut GradCx<'_, '_>) -> Result<Gradient, OpError> {
        let dy = cx.dy()?;
        let mut attrs = cx.op.attrs.clone();
        attrs.set("value", Attr::Float(0.0));
        let dx = cx.b.one(OpKind::CausalMask, &[dy], attrs)?;
        grads(&[dx])
    }
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        // A divided sequence needs the rank's offset, which this op does not take.
        let (q, k) = (cx.attrs.str("query"), cx.attrs.str("key"));
        ShardRule::by_dim(cx, |dim| match Some(dim) == q || Some(dim) == k {
            true => ShardEffect::Whole,
            false => ShardEffect::Parallel,
        })
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        super::pointwise::cost(cx, 1.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let ty = cx.rule.results[0].clone();
        let find = |name: &str| ty.position(name).ok_or_else(|| OpError::new("dim is missing"));
        let (q, k) = (find(cx.rule.str("query")?)?, find(cx.rule.str("key")?)?);
        let value = cx.rule.float("value")?;
        let x = cx.operands[0];
        let window = window(cx.rule.attrs)?;
        let one = |i: &[usize]| if sees(window, i[q], i[k]) { x.at(i) } else { value };
        Ok(vec![Tensor::from_fn(ty, one)])
    }
    primitive!();
}
