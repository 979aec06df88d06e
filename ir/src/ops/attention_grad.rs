//! `neox.attention_grad`: gradient of attention, recomputing the weights from the log-sum-exp.

use super::attention::{self, FORM, Form, names, place, scores};
use super::prelude::*;
use super::qkv_split::{QUERIES, sharing};

/// The attribute that divides the keys.
pub const KEYS: AttrSpec = AttrSpec {
    name: "keys",
    kind: AttrKind::Int,
    required: false,
    doc: "keys of a run; `dq` gets a leading dim `part`, of which part i is what run i and the i-th from the end add",
};

/// The attribute that divides the query heads that share a head of keys.
pub const MEMBERS: AttrSpec = AttrSpec {
    name: "members",
    kind: AttrKind::Int,
    required: false,
    doc: "query heads of those that share a head of keys, taken together; `dk` and `dv` get a leading dim `part`, of which part i is what the i-th of these runs adds",
};

/// How many of the query heads that share a head of keys are taken together: all of them unless `attrs` says so.
pub fn members(attrs: &Attrs, sharing: usize) -> Result<usize, OpError> {
    let Some(n) = attrs.int(MEMBERS.name) else { return Ok(sharing) };
    let n = usize::try_from(n).ok().filter(|n| *n > 0);
    Ok(n.ok_or_else(|| OpError::new("`members` must be at least 1"))?.min(sharing))
}

/// How a head's keys are divided. Early keys are seen by more queries than late ones: a part is a run from the start
/// and one from the end, so that parts are alike; the one in the middle may be a part of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// Keys of a run, of which the last may have fewer.
    pub keys: usize,
    /// Number of runs.
    pub count: usize,
}

impl Runs {
    /// How `attrs` divides `seq` keys; all of them are one run if it does not.
    pub fn of(attrs: &Attrs, seq: usize) -> Result<Runs, OpError> {
        let keys = match attrs.int(KEYS.name) {
            None => seq,
            Some(n) => usize::try_from(n)
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| OpError::new("`keys` must be at least 1"))?
                .min(seq),
        };
        let keys = keys.max(1);
        Ok(Runs { keys, count: seq.div_ceil(keys).max(1) })
    }

    /// Number of parts.
    pub fn parts(self) -> usize {
        self.count.div_ceil(2)
    }

    /// The part that has run `run`.
    pub fn part(self, run: usize) -> usize {
        run.min(self.count - 1 - run)
    }

    /// Whether every run begins at a multiple of `n` keys.
    pub fn begin_at(self, n: usize) -> bool {
        self.count == 1 || self.keys.is_multiple_of(n)
    }
}

/// The op of this file.
pub struct AttentionGrad;

impl OpDef for AttentionGrad {
    frame! {
        attention_grad(q, k, v, out, lse, dout) -> (dq, dk, dv),
        "With p = exp(q kᵀ·scale - lse) where a query sees a key and 0 elsewhere, δ = Σ out·dout over head_dim: `dv = pᵀ dout`, `ds = p·(dout vᵀ - δ)·scale`, `dq = ds k`, `dk = dsᵀ q`; dk and dv are sums over the query heads that share a head of k and v.",
        class Special,
        precision (Low, Low, Low, Low, Exact, Low) -> (Low),
        attrs &[FORM[0], FORM[1], KEYS, MEMBERS],
    }
    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        result_types(cx.operands, cx.attrs)
    }
    no_gradient!("second derivatives are not needed for training");
    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        attention::sharding(cx)
    }
    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        attention::cost(cx, 10.0, 12.0)
    }
    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        evaluate(cx, &|_| 1.0)
    }
    fn decompose(
        &self,
        b: &mut Builder<'_>,
        operands: &[ValueId],
        attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        decompose(b, operands, attrs, |_, p| Ok(p))
    }
}

/// Checks q, k, v, out, lse and dout; gives the types of dq, dk and dv. Parts are sums still to be added, and so in f32 at
/// least.
pub fn result_types(operands: &[TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, OpError> {
    let (q, k) = (&operands[0], &operands[1]);
    Form::of(attrs)?;
    let want = attention::result_types(&operands[..3])?;
    let have = &operands[3..];
    if have[0] != want[0] || have[1] != want[1] || have[2] != want[0] {
        return Err(OpError::new(format!("out and dout must be {}, lse {}", want[0], want[1])));
    }
    let runs = Runs::of(attrs, q.size("seq").unwrap_or(1))?;
    let in_parts = |ty: &TensorType, attr: &AttrSpec, parts: usize| {
        let mut ty = ty.clone();
        if attrs.get(attr.name).is_some() {
            ty = ty.with_dtype(ty.dtype.wide());
            ty.dims.insert(0, Dim::new("part", parts));
        }
        ty
    };
    let all = sharing(q);
    let of_keys = in_parts(k, &MEMBERS, all.div_ceil(members(attrs, all)?));
    Ok(vec![in_parts(q, &KEYS, runs.parts()), of_keys.clone(), of_keys])
}

/// The gradient where the weight at a place was multiplied by `factor`.
pub fn evaluate(cx: &EvalCx<'_>, factor: &dyn Fn(&[usize]) -> f64) -> Result<Vec<Tensor>, OpError> {
    let [q, k, v, out, lse, dout, ..] = cx.operands[..] else {
        return Err(OpError::new("takes six operands"));
    };
    let form = Form::of(cx.rule.attrs)?;
    let scale = form.scale;
    let size = |n| q.ty.size(n).unwrap_or(1);
    let queries = sharing(&q.ty);
    let (batch, seq, width) = (size("batch"), size("seq"), size("head_dim"));
    let heads = size("heads") * queries;
    let zero = Tensor::fill(cx.rule.results[1].clone(), 0.0);
    let (mut dk, mut dv) = (zero.clone(), zero);
    let members = members(cx.rule.attrs, queries)?;
    let mut dq = Tensor::fill(cx.rule.results[0].clone(), 0.0);
    let runs = Runs::of(cx.rule.attrs, seq)?;
    for b in 0..batch {
        for h in 0..heads {
            let at = |s: usize| ((b * heads + h) * seq + s) * width;
            let shared = |s: usize| ((b * heads + h) / queries * seq + s) * width;
            let at_out = |s: usize| ((b * seq + s) * heads + h) * width;
            for i in 0..seq {
                let delta: f64 =
                    (0..width).map(|d| out.data[at_out(i) + d] * dout.data[at_out(i) + d]).sum();
                for j in form.seen(i) {
                    let dot =
                        |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(a, b)| a * b).sum() };
                    let (qi, vj) = (&q.data[at(i)..at(i) + width], &v.data[shared(j)..]);
                    let kj = &k.data[shared(j)..shared(j) + width];
                    let doi = &dout.data[at_out(i)..at_out(i) + width];
                    let p = (scale * dot(qi, kj) - lse.data[(b * heads + h) * seq + i]).exp();
                    let m = factor(&place(&q.ty, [b, h, i, j]));
                    let ds = p * (m * dot(doi, &vj[..width]) - delta) * scale;
                    let part = runs.part(j / runs.keys) * q.data.len();
                    let to = h % queries / members * k.data.len() + shared(j);
                    for d in 0..width {
                        dq.data[part + at(i) + d] += ds * kj[d];
                        dk.data[to + d] += ds * qi[d];
                        dv.data[to + d] += p * m * doi[d];
                    }
                }
            }
        }
    }
    Ok(vec![dq, dk, dv])
}

/// The gradient in simpler ops; `change` makes of the weights what was multiplied with the values, and of
/// that one's gradient the weights'.
pub fn decompose(
    b: &mut Builder<'_>,
    operands: &[ValueId],
    attrs: &Attrs,
    change: impl Fn(&mut Builder<'_>, ValueId) -> Result<ValueId, OpError>,
) -> Result<Decomposition, OpError> {
    let form = Form::of(attrs)?;
    let [q, _, _, out, lse, dout, ..] = operands[..] else {
        return Err(OpError::new("takes six operands"));
    };
    let order = names(b.ty(q));
    let order: Vec<&str> = order.iter().map(String::as_str).collect();
    let dtype = b.ty(q).dtype;
    let (out, dout) = (b.widened(out)?, b.widened(dout)?);
    let (s, v) = scores(b, operands, form)?;
    let centred = b.sub(s, lse)?;
    let p = b.unary(OpKind::Exp, centred)?;
    let (out, dout) = (b.transpose_to(out, &order)?, b.transpose_to(dout, &order)?);
    let product = b.mul(out, dout)?;
    let delta = b.reduce_sum(product, &["head_dim"])?;
    let changed = change(b, p)?;
    let dv = sum_for_keys(b, changed, dout, attrs)?;
    let dp = b.matmul(dout, v, &["head_dim"])?;
    let dp = change(b, dp)?;
    let centred = b.sub(dp, delta)?;
    let ds = b.mul(p, centred)?;
    let factor = b.scalar(form.scale)?;
    let ds = b.mul(ds, factor)?;
    let rename = |b: &mut Builder<'_>, x, from: &str, to: &str| {
        let attrs =
            Attrs::new().with("from", Attr::Str(from.into())).with("to", Attr::Str(to.into()));
        b.one(OpKind::Rename, &[x], attrs)
    };
    let (q, k) = (b.widened(q)?, b.widened(operands[1])?);
    let k = rename(b, k, "seq", "kv_seq")?;
    let dq = match attrs.get(KEYS.name) {
        None => {
            let dq = b.matmul(ds, k, &["kv_seq"])?;
            b.cast(dq, dtype)?
        }
        Some(_) => in_parts(b, ds, k, attrs)?,
    };
    let dk = sum_for_keys(b, ds, q, attrs)?;
    let (mut dk, mut dv) = (rename(b, dk, "kv_seq", "seq")?, rename(b, dv, "kv_seq", "seq")?);
    if attrs.get(MEMBERS.name).is_none() {
        (dk, dv) = (b.cast(dk, dtype)?, b.cast(dv, dtype)?);
    }
    Ok(Decomposition::Values(vec![dq, dk, dv]))
}

/// `weightsᵀ rows` over all queries, for keys and values; by parts of the query heads that share them.
fn sum_for_keys(
    b: &mut Builder<'_>,
    weights: ValueId,
    rows: ValueId,
    attrs: &Attrs,
) -> Result<ValueId, OpError> {
    let all = sharing(b.ty(rows));
    let over: &[&str] = if all > 1 { &[QUERIES, "seq"] } else { &["seq"] };
    if attrs.get(MEMBERS.name).is_none() {
        return b.matmul(weights, rows, over);
    }
    let members = members(attrs, all)?;
    let count = all.div_ceil(members);
    let int = |n: usize| Attr::Int(n as i64);
    let mut sums = vec![];
    for first in (0..all).step_by(members) {
        let mut pair = [weights, rows];
        if all > 1 {
            let attrs = Attrs::new().with("dim", Attr::Str(QUERIES.into()));
            let attrs = attrs.with("start", int(first));
            let attrs = attrs.with("size", int(members.min(all - first)));
            for x in &mut pair {
                *x = b.one(OpKind::Slice, &[*x], attrs.clone())?;
            }
        }
        sums.push(b.matmul(pair[0], pair[1], over)?);
    }
    stacked(b, sums.into_iter().enumerate(), count)
}

/// The sum of `parts`, each at its place of `count` along a leading dim `part`.
fn stacked(
    b: &mut Builder<'_>,
    parts: impl IntoIterator<Item = (usize, ValueId)>,
    count: usize,
) -> Result<ValueId, OpError> {
    let mut sum = None;
    for (part, x) in parts {
        let mut dims = b.ty(x).dims.clone();
        dims.insert(0, Dim::new("part", 1));
        let x = b.reshape(x, &dims)?;
        let attrs = Attrs::new()
            .with("dim", Attr::Str("part".into()))
            .with("before", Attr::Int(part as i64))
            .with("after", Attr::Int((count - 1 - part) as i64));
        let x = b.one(OpKind::Pad, &[x], attrs)?;
        sum = Some(match sum {
            None => x,
            Some(sum) => b.add(sum, x)?,
        });
    }
    sum.ok_or_else(|| OpError::new("has no parts"))
}

/// `ds k` by parts of the keys.
fn in_parts(
    b: &mut Builder<'_>,
    ds: ValueId,
    k: ValueId,
    attrs: &Attrs,
) -> Result<ValueId, OpError> {
    let all = b.ty(k).size("kv_seq").unwrap_or(1);
    let runs = Runs::of(attrs, all)?;
    let int = |n: usize| Attr::Int(n as i64);
    let mut parts = vec![];
    for run in 0..runs.count {
        let first = run * runs.keys;
        let size = runs.keys.min(all - first);
        let slice = |b: &mut Builder<'_>, x| {
            let attrs = Attrs::new().with("dim", Attr::Str("kv_seq".into()));
            b.one(OpKind::Slice, &[x], attrs.with("start", int(first)).with("size", int(size)))
        };
        let (ds, k) = (slice(b, ds)?, slice(b, k)?);
        parts.push((runs.part(run), b.matmul(ds, k, &["kv_seq"])?));
    }
    stacked(b, parts, runs.parts())
}
