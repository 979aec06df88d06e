//! `split-cross-entropy`: the head and its loss in chunks of tokens, so that the logits of a whole
//! micro-batch are never stored.
//!
//! ```text
//! %r:4 = linear_cross_entropy_train(%x, %w, %labels, %dloss); %g' = add(%g, %r#3)
//! ⇒ %r:3 = repeat @head_chunk(%g; chunks of %x, %labels, %dloss; %w) over "chunk"
//! ```
//! The accumulator of the weight gradient is carried, so that each chunk adds to it in place. Where ranks
//! have parts of the vocabulary, a chunk has the exchange in which they tell each other of their rows.

use neoxc_ir::build::dims_attrs;
use neoxc_ir::op::Decomposition;
use neoxc_ir::{Attr, Attrs, Builder, Dim, Function, Module, TensorType, ValueId, ops};

use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "split-cross-entropy",
    doc: "compute head and loss in chunks of tokens",
    requires: &[Fact::OneRank],
    ensures: &[Fact::HeadInChunks],
    run,
};

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    let mut report = PassReport::default();
    for index in 0..m.functions.len() {
        let f = m.functions[index].clone();
        let at = f.ops.iter().position(|op| {
            matches!(op.kind.name(), "linear_cross_entropy" | "linear_cross_entropy_train")
        });
        if let Some(at) = at {
            let (new, body) = split(m, &f, at, cx.chunk_bytes)?;
            report.notes.push(format!("@{}: head in chunks, @{}", f.name, body.name));
            m.functions[index] = new;
            // Callees come first.
            m.functions.insert(index, body);
            return run(m, cx).map(|mut rest| {
                rest.notes.append(&mut report.notes);
                rest
            });
        }
        if f.ops.iter().any(|op| op.kind.is("linear_cross_entropy_grad")) {
            return Err(PassError::internal(format!(
                "@{}: the loss's gradient is not known before the loss",
                f.name
            )));
        }
    }
    Ok(report)
}

/// The loss of rows of logits, in the ops that kernels have.
fn cross_entropy(
    b: &mut Builder<'_>,
    operands: &[ValueId],
    attrs: Attrs,
) -> Result<Vec<ValueId>, PassError> {
    let op = ops::find("cross_entropy");
    let op = op.ok_or_else(|| PassError::internal("there is no cross_entropy".into()))?;
    Ok(match op.0.decompose(b, operands, &attrs)? {
        Decomposition::Values(values) => values,
        Decomposition::Primitive => b.op(op, operands, attrs)?,
    })
}

fn split(
    m: &Module,
    f: &Function,
    at: usize,
    chunk_bytes: usize,
) -> Result<(Function, Function), PassError> {
    let op = f.ops[at].clone();
    let train = op.kind.is("linear_cross_entropy_train");
    let (x, w, labels) = (f.ty(op.operands[0]), f.ty(op.operands[1]), f.ty(op.operands[2]));
    let (tokens, vocab) = (labels.elements(), w.size("vocab").unwrap_or(1));
    // A logit is f32; its gradient takes its place, or lies beside it as a half.
    let half = train && x.dtype.wide() != x.dtype;
    let logit = 4 + if half { x.dtype.bytes() } else { 0 };
    let rows = (1..=tokens)
        .rev()
        .find(|r| tokens.is_multiple_of(*r) && (r * vocab * logit <= chunk_bytes || *r == 1))
        .unwrap_or(1);
    let count = tokens / rows;
    let (rows, embed) = (Dim::new("rows", rows), Dim::new("embed", x.size("embed").unwrap_or(1)));
    let x_chunk = TensorType::new(x.dtype, vec![rows.clone(), embed.clone()]);
    let ids = TensorType::new(labels.dtype, vec![rows.clone()]);
    // A gradient of weights is a sum, and a loss of a row exact, whatever the factors are.
    let row = TensorType::new(x.dtype.wide(), vec![rows.clone()]);
    let sum = w.with_dtype(w.dtype.wide());

    let mut body = Function::new(&m.fresh_name("head_chunk"));
    let dw = train.then(|| body.add_param("grad_w", sum.clone(), Attrs::new()));
    let xc = body.add_param("x", x_chunk.clone(), Attrs::new());
    let lc = body.add_param("labels", ids, Attrs::new());
    let dc = train.then(|| body.add_param("dloss", row, Attrs::new()));
    let wc = body.add_param("w", w.clone(), Attrs::new());
    // Which part of the vocabulary the rank has, if not all.
    let part = op.operands.get(if train { 4 } else { 3 }).copied();
    let pc: Vec<ValueId> =
        part.iter().map(|p| body.add_param("part", f.ty(*p).clone(), Attrs::new())).collect();
    let b = &mut Builder::new(&mut body);
    b.at(&op.loc);
    let over = Attrs::new().with("dim", Attr::Str("vocab".into()));
    let logits = b.matmul(xc, wc, &["embed"])?;
    let among = op.attrs.clone().with("dim", Attr::Str("vocab".into()));
    let loss = cross_entropy(b, &[&[logits, lc], &pc[..]].concat(), among)?;
    let mut results = vec![];
    if let (Some(dw), Some(dc)) = (dw, dc) {
        let rest = [&[logits, lc, loss[1], dc], &pc[..]].concat();
        let d = b.one("cross_entropy_grad", &rest, over)?;
        let d = b.cast(d, x.dtype)?;
        let dx = b.matmul(d, wc, &["vocab"])?;
        let dx = b.cast(dx, x.dtype)?;
        let part = b.matmul(d, xc, &["rows"])?;
        results = vec![b.add(dw, part)?, loss[0], dx];
    } else {
        results.push(loss[0]);
    }
    body.results = results;

    // The accumulator: the other operand of the only add that uses the weight gradient.
    let mut out = f.clone();
    let tail = out.ops.split_off(at);
    let fused = train.then(|| {
        let dw = op.results[3];
        let uses: Vec<usize> =
            (1..tail.len()).filter(|i| tail[*i].operands.contains(&dw)).collect();
        let returned = f.results.contains(&dw);
        match uses[..] {
            [i] if tail[i].kind.is("add") && tail[i].operands[1] == dw && !returned => {
                let early = f.params.contains(&tail[i].operands[0]);
                early.then_some((i, tail[i].operands[0], tail[i].results[0]))
            }
            _ => None,
        }
    });
    let fused = fused.flatten();
    let with_body = Module { attrs: Attrs::new(), functions: vec![body.clone()] };
    let mut b = Builder::with_module(&mut out, &with_body);
    b.at(&op.loc);
    let chunk = Dim::new("chunk", count);
    let chunked = |b: &mut Builder<'_>, v: ValueId, inner: &[Dim]| {
        let dims = [std::slice::from_ref(&chunk), inner].concat();
        b.one("reshape", &[v], dims_attrs(&dims))
    };
    let xs = chunked(&mut b, op.operands[0], &[rows.clone(), embed])?;
    let ls = chunked(&mut b, op.operands[2], std::slice::from_ref(&rows))?;
    let mut operands = vec![];
    if train {
        operands.push(match fused {
            Some((_, acc, _)) => acc,
            None => b.fill(0.0, &sum)?,
        });
    }
    operands.extend([xs, ls]);
    if train {
        operands.push(chunked(&mut b, op.operands[3], std::slice::from_ref(&rows))?);
    }
    operands.push(op.operands[1]);
    operands.extend(part);
    let attrs = Attrs::new()
        .with("callee", Attr::Symbol(body.name.clone()))
        .with("count", Attr::Int(count as i64))
        .with("carried", Attr::Int(i64::from(train)))
        .with("sliced", Attr::Int(if train { 3 } else { 2 }))
        .with("dim", Attr::Str("chunk".into()));
    let r = b.named("repeat", &operands, attrs)?;
    let mut replace: Vec<(ValueId, ValueId)> = vec![];
    let loss = b.one("reshape", &[r[usize::from(train)]], dims_attrs(&labels.dims))?;
    replace.push((op.results[0], loss));
    if train {
        let dx = b.one("reshape", &[r[2]], dims_attrs(&x.dims))?;
        replace.push((op.results[2], dx));
        replace.push((op.results[3], r[0]));
        if let Some((_, _, sum)) = fused {
            replace.push((sum, r[0]));
        }
    }
    let skip = fused.map(|(i, _, _)| i);
    out.ops.extend(
        tail.into_iter().enumerate().skip(1).filter(|(i, _)| Some(*i) != skip).map(|(_, o)| o),
    );
    let swap = |v: &mut ValueId| {
        if let Some((_, new)) = replace.iter().find(|(old, _)| old == v) {
            *v = *new;
        }
    };
    out.ops.iter_mut().flat_map(|o| &mut o.operands).for_each(swap);
    out.results.iter_mut().for_each(swap);
    if out.ops.iter().any(|o| o.operands.contains(&op.results[1])) {
        return Err(PassError::internal("the log-sum-exp of the loss is used".into()));
    }
    out.renumber();
    Ok((out, body))
}
