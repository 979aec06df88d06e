//! `split-cross-entropy`: the head and its loss in chunks of tokens, so that the logits of a whole
//! micro-batch are never stored.
//!
//! ```text
//! %r:4 = linear_cross_entropy_train(%x, %w, %labels, %dloss); %g' = add(%g, %r#3)
//! ⇒ %r:3 = repeat @head_chunk(%g; chunks of %x, %labels, %dloss; %w) over "chunk"
//! ```
//! The accumulator of the weight gradient is carried, so that each chunk adds to it in place. Where ranks
//! have parts of the vocabulary, a chunk has the collective in which they tell each other of their rows.

use neoxc_ir::build::dims_attrs;
use neoxc_ir::op::Decomposition;
use neoxc_ir::{Attr, Attrs, Builder, Dim, Function, Module, Op, OpKind, TensorType, ValueId};

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
            matches!(op.kind, OpKind::LinearCrossEntropy | OpKind::LinearCrossEntropyTrain)
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
        if f.ops.iter().any(|op| op.kind == OpKind::LinearCrossEntropyGrad) {
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
    let op = OpKind::CrossEntropy;
    Ok(match op.def().decompose(b, operands, &attrs)? {
        Decomposition::Values(values) => values,
        Decomposition::Primitive => b.op(op, operands, attrs)?,
    })
}

/// A head with its loss, and how many rows of logits a chunk has.
struct Head<'a> {
    f: &'a Function,
    op: &'a Op,
    /// Whether it makes gradients too.
    train: bool,
    rows: Dim,
    /// Chunks.
    count: usize,
}

impl<'a> Head<'a> {
    fn new(f: &'a Function, op: &'a Op, chunk_bytes: usize) -> Head<'a> {
        let train = op.kind == OpKind::LinearCrossEntropyTrain;
        let (x, w, labels) = (f.ty(op.operands[0]), f.ty(op.operands[1]), f.ty(op.operands[2]));
        let (tokens, vocab) = (labels.elements(), w.size("vocab").unwrap_or(1));
        // A logit is f32; its gradient takes its place, or lies beside it in 16 bits.
        let narrow = train && x.dtype.wide() != x.dtype;
        let logit = 4 + if narrow { x.dtype.bytes() } else { 0 };
        let fits = |r: &usize| r * vocab * logit <= chunk_bytes || *r == 1;
        let rows = (1..=tokens).rev().find(|r| tokens.is_multiple_of(*r) && fits(r)).unwrap_or(1);
        Head { f, op, train, rows: Dim::new("rows", rows), count: tokens / rows }
    }

    /// The model's width.
    fn embed(&self) -> Dim {
        Dim::new("embed", self.f.ty(self.op.operands[0]).size("embed").unwrap_or(1))
    }

    /// The type of the weight's gradient: a sum is exact, whatever the factors are.
    fn sum(&self) -> TensorType {
        let w = self.f.ty(self.op.operands[1]);
        w.with_dtype(w.dtype.wide())
    }

    /// Which shard of the vocabulary the rank has, if not all.
    fn part(&self) -> Option<ValueId> {
        self.op.operands.get(if self.train { 4 } else { 3 }).copied()
    }

    /// The loop's body: (dw, x, labels, dloss; w, part) → (dw, loss, dx), or (x, labels; w, part) → loss.
    fn body(&self, name: &str) -> Result<Function, PassError> {
        let Head { f, op, train, rows, .. } = self;
        let (x, w, labels) = (f.ty(op.operands[0]), f.ty(op.operands[1]), f.ty(op.operands[2]));
        let x_chunk = TensorType::new(x.dtype, vec![rows.clone(), self.embed()]);
        let ids = TensorType::new(labels.dtype, vec![rows.clone()]);
        // A row's loss is exact, whatever the factors are.
        let row = TensorType::new(x.dtype.wide(), vec![rows.clone()]);
        let mut body = Function::new(name);
        let dw = train.then(|| body.add_param("grad_w", self.sum(), Attrs::new()));
        let xc = body.add_param("x", x_chunk, Attrs::new());
        let lc = body.add_param("labels", ids, Attrs::new());
        let dc = train.then(|| body.add_param("dloss", row, Attrs::new()));
        let wc = body.add_param("w", w.clone(), Attrs::new());
        let part = self.part();
        let pc: Vec<ValueId> =
            part.iter().map(|p| body.add_param("part", f.ty(*p).clone(), Attrs::new())).collect();
        let b = &mut Builder::new(&mut body);
        b.at(&op.loc);
        let over = Attrs::new().with("dim", Attr::Str("vocab".into()));
        let logits = b.matmul(xc, wc, &["embed"])?;
        let among = op.attrs.clone().with("dim", Attr::Str("vocab".into()));
        let loss = cross_entropy(b, &[&[logits, lc], &pc[..]].concat(), among)?;
        body.results = match (dw, dc) {
            (Some(dw), Some(dc)) => {
                let rest = [&[logits, lc, loss[1], dc], &pc[..]].concat();
                let d = b.one(OpKind::CrossEntropyGrad, &rest, over)?;
                let d = b.cast(d, x.dtype)?;
                let dx = b.matmul(d, wc, &["vocab"])?;
                let dx = b.cast(dx, x.dtype)?;
                let part = b.matmul(d, xc, &["rows"])?;
                vec![b.add(dw, part)?, loss[0], dx]
            }
            _ => vec![loss[0]],
        };
        Ok(body)
    }

    /// The add that alone uses the weight's gradient, where its other operand is there before the head: that
    /// operand can be the loop's first sum. `tail` begins with the head.
    fn accumulator(&self, tail: &[Op]) -> Option<Accumulator> {
        let dw = *self.op.results.get(3).filter(|_| self.train)?;
        let uses: Vec<usize> =
            (1..tail.len()).filter(|i| tail[*i].operands.contains(&dw)).collect();
        let [at] = uses[..] else { return None };
        let add = &tail[at];
        let takes = add.kind == OpKind::Add && add.operands[1] == dw;
        let early = self.f.params.contains(&add.operands[0]);
        (takes && early && !self.f.results.contains(&dw)).then(|| Accumulator {
            at,
            first: add.operands[0],
            sum: add.results[0],
        })
    }

    /// Adds the loop over chunks; gives the values that take the place of others.
    fn add_loop(
        &self,
        b: &mut Builder<'_>,
        body: &str,
        accumulator: Option<&Accumulator>,
    ) -> Result<Vec<(ValueId, ValueId)>, PassError> {
        let Head { f, op, train, rows, count } = self;
        let chunk = Dim::new("chunk", *count);
        let chunked = |b: &mut Builder<'_>, v: ValueId, inner: &[Dim]| {
            let dims = [std::slice::from_ref(&chunk), inner].concat();
            b.one(OpKind::Reshape, &[v], dims_attrs(&dims))
        };
        let xs = chunked(b, op.operands[0], &[rows.clone(), self.embed()])?;
        let ls = chunked(b, op.operands[2], std::slice::from_ref(rows))?;
        let mut operands = vec![];
        if *train {
            operands.push(match accumulator {
                Some(a) => a.first,
                None => b.fill(0.0, &self.sum())?,
            });
        }
        operands.extend([xs, ls]);
        if *train {
            operands.push(chunked(b, op.operands[3], std::slice::from_ref(rows))?);
        }
        operands.push(op.operands[1]);
        operands.extend(self.part());
        let attrs = Attrs::new()
            .with("callee", Attr::Symbol(body.into()))
            .with("count", Attr::Int(*count as i64))
            .with("carried", Attr::Int(i64::from(*train)))
            .with("sliced", Attr::Int(if *train { 3 } else { 2 }))
            .with("dim", Attr::Str("chunk".into()));
        let r = b.op(OpKind::Repeat, &operands, attrs)?;
        let labels = &f.ty(op.operands[2]).dims;
        let loss = b.one(OpKind::Reshape, &[r[usize::from(*train)]], dims_attrs(labels))?;
        let mut replace = vec![(op.results[0], loss)];
        if *train {
            let dx = b.one(OpKind::Reshape, &[r[2]], dims_attrs(&f.ty(op.operands[0]).dims))?;
            replace.extend([(op.results[2], dx), (op.results[3], r[0])]);
            replace.extend(accumulator.map(|a| (a.sum, r[0])));
        }
        Ok(replace)
    }
}

/// An add that the loop does on its way.
struct Accumulator {
    /// Its number behind the head.
    at: usize,
    /// What is added to.
    first: ValueId,
    /// What it makes.
    sum: ValueId,
}

/// The function with the loop in the place of the head at `at`, and the loop's body.
fn split(
    m: &Module,
    f: &Function,
    at: usize,
    chunk_bytes: usize,
) -> Result<(Function, Function), PassError> {
    let op = &f.ops[at];
    let head = Head::new(f, op, chunk_bytes);
    let body = head.body(&m.fresh_name("head_chunk"))?;
    let mut out = f.clone();
    let tail = out.ops.split_off(at);
    let accumulator = head.accumulator(&tail);
    let with_body = Module { attrs: Attrs::new(), functions: vec![body.clone()] };
    let mut b = Builder::with_module(&mut out, &with_body);
    b.at(&op.loc);
    let replace = head.add_loop(&mut b, &body.name, accumulator.as_ref())?;
    let done = accumulator.map(|a| a.at);
    let rest = tail.into_iter().enumerate().skip(1).filter(|(i, _)| Some(*i) != done);
    out.ops.extend(rest.map(|(_, op)| op));
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
