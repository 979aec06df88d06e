//! `split-sums`: a large sum is divided over tasks. Each task sums some of the rows, and a second sum adds their results.
//!
//! ```text
//! %s = sum_squares(%x)            ⇒   %r = reduce_sum(%x · %x) over the innermost dim; %s = reduce_sum(%r)
//! %dx, %dw, %db =                 ⇒   %dx, %r, %q = layer_norm_grad(…) {rows = 32}
//!   layer_norm_grad(%x, …, %dy)       %dw = reduce_sum(%r) over the runs; %db = reduce_sum(%q)
//! %dq, … = attention_grad(…)      ⇒   %r, … = attention_grad(…) {keys = 384}; %dq = reduce_sum(%r) over the parts
//! …, %dk, %dv = attention_grad(…) ⇒   …, %r, %q = attention_grad(…) {members = 1}; %dk = reduce_sum(%r) over the parts, …
//! ```
//! One sum is work for one thread; sums of rows are work for all threads. The gradients of a norm's weight and bias are sums over rows,
//! which the norm's backward kernel has in its caches anyway, so it sums them in runs of rows. Attention's backward kernel has a task
//! for each head of keys; where those are few, several tasks share one, each with some of the query heads that share it, and in long
//! sequences with some of its keys. An op that can be divided in this way takes an attribute that says so: [`ROWS`], [`MEMBERS`] or
//! [`KEYS`].
//!
//! Invariant: how a sum is divided depends on shapes alone, so a model trains to the same bits with any number of threads.

use std::collections::HashSet;

use neoxc_ir::ops::attention_grad::{KEYS, MEMBERS};
use neoxc_ir::ops::qkv_split::sharing;
use neoxc_ir::ops::sum_runs::{ROWS, can_sum_runs};
use neoxc_ir::{Attr, Attrs, Builder, DType, Function, Module, Op, OpKind, ValueId, keys};

use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "split-sums",
    doc: "divide sums of squares, of a norm's rows and of few heads' keys over tasks",
    requires: &[],
    ensures: &[],
    run,
};

/// Elements from which several threads are faster than one.
const LARGE: usize = 1 << 15;
/// Runs of a norm's rows: enough for all threads, few enough that their sums are small beside the rows.
const RUNS: usize = 64;
/// Rows that a run has at least, if there are so many.
const RUN_ROWS: usize = 8;
/// Tasks that attention's backward should have.
const TASKS: usize = 32;
/// About how many keys a run has at least (three quarters of it, where the sequence is just long enough for one more
/// task), and what it is a multiple of: whole blocks of what kernels multiply at once. Every task prepares queries anew,
/// which its runs must outweigh; bf16 is multiplied faster, and takes more preparing.
fn run_sizes(dtype: DType) -> (usize, usize) {
    match dtype {
        DType::Bf16 | DType::F16 => (1024, 128),
        _ => (384, 96),
    }
}

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let (mut count, mut norms, mut heads) = (0, 0, 0);
    for f in &mut m.functions {
        if f.ops.iter().any(|op| is_large(f, op)) {
            count += split(f)?;
        }
        if f.ops.iter().any(is_whole_norm) {
            norms += split_norms(f)?;
        }
        if f.ops.iter().any(|op| !runs_of(f, op).0.is_empty()) {
            heads += split_heads(f)?;
        }
    }
    let note = format!(
        "{count} sums of rows, {norms} norms in runs of rows, {heads} attentions with several tasks a head"
    );
    Ok(PassReport { notes: vec![note] })
}

/// How the tasks of `op`, an attention's backward whose heads of keys are few, share each of them: by the query heads
/// that have it, which costs nothing but sums of small parts, and then by keys, where they are many.
fn runs_of(f: &Function, op: &Op) -> Attrs {
    let mut runs = Attrs::new();
    let can =
        |attr| op.kind.def().signature().attrs.contains(&attr) && op.attrs.get(attr.name).is_none();
    let [q, k, ..] = op.operands[..] else { return runs };
    let (q, k) = (f.ty(q), f.ty(k));
    let (Some(batch), Some(heads), Some(seq)) = (k.size("batch"), k.size("heads"), k.size("seq"))
    else {
        return runs;
    };
    let mut tasks = (batch * heads).max(1);
    let all = sharing(q);
    let parts = TASKS.div_ceil(tasks).min(all);
    if can(MEMBERS) && parts > 1 {
        let members = all.div_ceil(parts);
        runs.set(MEMBERS.name, Attr::Int(members as i64));
        tasks *= all.div_ceil(members);
    }
    let (least, step) = run_sizes(k.dtype);
    // A task has two runs.
    let most = (seq / least).div_ceil(2);
    let parts = TASKS.div_ceil(tasks).min(most);
    if can(KEYS) && parts > 1 {
        let keys = seq.div_ceil(2 * parts).next_multiple_of(step);
        runs.set(KEYS.name, Attr::Int(keys as i64));
    }
    runs
}

fn split_heads(f: &mut Function) -> Result<usize, PassError> {
    let mut count = 0;
    let used = used(f);
    for op in std::mem::take(&mut f.ops) {
        let runs = runs_of(f, &op);
        if runs.0.is_empty() {
            f.ops.push(op);
            continue;
        }
        count += 1;
        let dtype = f.ty(op.operands[0]).dtype;
        let mut attrs = op.attrs.clone();
        attrs.0.extend(runs.0);
        let b = &mut Builder::new(f);
        b.at(&op.loc);
        let made = b.op(op.kind, &op.operands, attrs)?;
        settle(b, made, op.results, &used, ("part", dtype))?;
    }
    f.renumber();
    Ok(count)
}

/// The values that something reads.
fn used(f: &Function) -> HashSet<ValueId> {
    f.ops.iter().flat_map(|op| &op.operands).chain(&f.results).copied().collect()
}

/// Lets the last op's results `made` be the values `results` that they were: those with the dim `parts` once they are
/// added up along it and rounded to `dtype`. Nothing is added up that nobody uses, as the gradient of a bias that a norm
/// does not have.
fn settle(
    b: &mut Builder<'_>,
    made: Vec<ValueId>,
    results: Vec<ValueId>,
    used: &HashSet<ValueId>,
    (parts, dtype): (&str, DType),
) -> Result<(), PassError> {
    let maker = b.function.ops.len() - 1;
    for (i, (made, result)) in made.into_iter().zip(results).enumerate() {
        if !b.ty(made).has(parts) {
            b.function.ops[maker].results[i] = result;
            continue;
        }
        if !used.contains(&result) {
            continue;
        }
        let sum = b.reduce_sum(made, &[parts])?;
        b.cast(sum, dtype)?;
        if let Some(last) = b.function.ops.last_mut() {
            last.results[0] = result;
        }
    }
    Ok(())
}

/// Whether the op sums over all rows, and could sum runs of them.
fn is_whole_norm(op: &Op) -> bool {
    can_sum_runs(op.kind) && op.attrs.get(ROWS.name).is_none()
}

fn split_norms(f: &mut Function) -> Result<usize, PassError> {
    let mut count = 0;
    let used = used(f);
    for op in std::mem::take(&mut f.ops) {
        if !is_whole_norm(&op) {
            f.ops.push(op);
            continue;
        }
        count += 1;
        let x = f.ty(op.operands[0]);
        let width = op.attrs.str("dim").and_then(|dim| x.size(dim)).unwrap_or(1);
        let rows = x.elements() / width.max(1);
        let rows = rows.div_ceil(RUNS).max(RUN_ROWS).min(rows.max(1));
        let attrs = op.attrs.clone().with(ROWS.name, Attr::Int(rows as i64));
        let b = &mut Builder::new(f);
        b.at(&op.loc);
        let made = b.op(op.kind, &op.operands, attrs)?;
        let dtype = b.ty(made[1]).dtype;
        settle(b, made, op.results, &used, ("run", dtype))?;
    }
    f.renumber();
    Ok(count)
}

fn is_large(f: &Function, op: &Op) -> bool {
    let sums = op.kind == OpKind::SumSquares && f.attrs.get(keys::KERNEL).is_none();
    sums && f.ty(op.operands[0]).dims.len() > 1 && f.ty(op.operands[0]).elements() >= LARGE
}

fn split(f: &mut Function) -> Result<usize, PassError> {
    let mut count = 0;
    for op in std::mem::take(&mut f.ops) {
        if !is_large(f, &op) {
            f.ops.push(op);
            continue;
        }
        count += 1;
        let x = op.operands[0];
        let dims: Vec<String> = f.ty(x).dims.iter().map(|d| d.name.to_string()).collect();
        let dims: Vec<&str> = dims.iter().map(String::as_str).collect();
        let (last, outer) = dims.split_last().expect("a large sum has dims");
        let b = &mut Builder::new(f);
        b.at(&op.loc);
        let square = b.one(OpKind::Mul, &[x, x], Attrs::new())?;
        let rows = b.reduce_sum(square, &[last])?;
        b.reduce_sum(rows, outer)?;
        // The whole sum is the value it was.
        if let Some(made) = f.ops.last_mut() {
            made.results = op.results;
        }
    }
    f.renumber();
    Ok(count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use neoxc_ir::eval::{Tensor, run as evaluate};
    use neoxc_ir::target::Target;
    use neoxc_ir::{TensorType, verify};

    use super::*;

    #[test]
    fn a_sum_of_rows_is_the_sum() {
        let mut f = Function::new("f");
        let sizes = [[("a", 3), ("b", 130), ("c", 128)], [("a", 2), ("b", 5), ("c", 7)]];
        let types = sizes.map(|dims| TensorType::f32(&dims));
        for ty in &types {
            let x = f.add_param("", ty.clone(), Attrs::new());
            let sum = Builder::new(&mut f).one(OpKind::SumSquares, &[x], Attrs::new()).unwrap();
            f.results.push(sum);
        }
        let mut m = Module::new();
        m.insert(f);
        let x =
            types.map(|ty| Tensor::from_fn(ty, |i| (i.iter().sum::<usize>() % 17) as f64 - 8.0));
        let want = evaluate(&m, "f", &x).unwrap();
        run(&mut m, &PassCx::new(Target::X86V4)).unwrap();
        verify(&m).unwrap();
        let kinds: Vec<_> = m.functions[0].ops.iter().map(|op| op.kind.name()).collect();
        // The small one stays.
        assert_eq!(kinds, ["mul", "reduce_sum", "reduce_sum", "sum_squares"]);
        let got = evaluate(&m, "f", &x).unwrap();
        assert_eq!((&want[0].data, &want[1].data), (&got[0].data, &got[1].data));
    }

    #[test]
    fn sums_of_runs_are_the_sums_of_all_rows() {
        let sizes = [(1, 1), (3, 5), (2, 130)];
        let norms = [("layer_norm_grad", 2), ("rms_norm_grad", 1)];
        // Without a bias nobody wants the last of the sums.
        for ((batch, seq), (norm, statistics), wanted) in sizes.into_iter().flat_map(|size| {
            norms.into_iter().flat_map(move |norm| [norm.1, norm.1 - 1].map(|n| (size, norm, n)))
        }) {
            let mut f = Function::new("f");
            let x = [("batch", batch), ("seq", seq), ("embed", 7)];
            let mut dims = vec![&x[..], &x[2..]];
            dims.extend(vec![&x[..2]; statistics]);
            dims.push(&x[..]);
            let types: Vec<TensorType> = dims.into_iter().map(TensorType::f32).collect();
            let p: Vec<ValueId> =
                types.iter().map(|ty| f.add_param("", ty.clone(), Attrs::new())).collect();
            let attrs = Attrs::new().with("dim", Attr::Str("embed".into()));
            f.results = Builder::new(&mut f).named(norm, &p, attrs).unwrap();
            f.results.truncate(1 + wanted);
            let mut m = Module::new();
            m.insert(f);
            let value = |i: &[usize]| (i.iter().sum::<usize>() % 17) as f64 - 8.0;
            let x: Vec<Tensor> = types.into_iter().map(|ty| Tensor::from_fn(ty, value)).collect();
            let want = evaluate(&m, "f", &x).unwrap();
            run(&mut m, &PassCx::new(Target::X86V4)).unwrap();
            verify(&m).unwrap();
            let kinds: Vec<_> = m.functions[0].ops.iter().map(|op| op.kind.name()).collect();
            assert_eq!(kinds, [&[norm][..], &vec!["reduce_sum"; wanted]].concat());
            let got = evaluate(&m, "f", &x).unwrap();
            for (a, b) in want.iter().zip(&got) {
                assert_eq!((&a.ty, &a.data), (&b.ty, &b.data), "{norm}: {batch} x {seq}");
            }
        }
    }

    #[test]
    fn tasks_share_heads_that_are_few_and_long() {
        // Two tasks a head, and the last run is short; more heads than tasks; short ones.
        let cases = [
            (DType::F32, 1, 2, 1200, Some(384)),
            (DType::F32, 4, 8, 1200, None),
            (DType::F32, 1, 1, 1100, None),
            (DType::Bf16, 1, 1, 3100, Some(896)),
            (DType::Bf16, 1, 1, 2048, None),
        ];
        for (dtype, batch, heads, seq, keys) in cases {
            let mut f = Function::new("f");
            let q = [("batch", batch), ("heads", heads), ("seq", seq), ("head_dim", 1)];
            let y = [("batch", batch), ("seq", seq), ("heads", heads), ("head_dim", 1)];
            let mut types =
                [&q[..], &q, &q, &y, &q[..3], &y].map(|d| TensorType::f32(d).with_dtype(dtype));
            types[4] = TensorType::f32(&q[..3]);
            let p: Vec<ValueId> =
                types.iter().map(|ty| f.add_param("", ty.clone(), Attrs::new())).collect();
            let attrs = Attrs::new().with("scale", Attr::Float(0.5));
            f.results = Builder::new(&mut f).op(OpKind::AttentionGrad, &p, attrs).unwrap();
            let mut m = Module::new();
            m.insert(f);
            let whole = m.clone();
            run(&mut m, &PassCx::new(Target::X86V4)).unwrap();
            verify(&m).unwrap();
            let ops = &m.functions[0].ops;
            assert_eq!(ops[0].attrs.int("keys"), keys);
            let mut kinds = vec!["attention_grad"];
            if keys.is_some() {
                kinds.push("reduce_sum");
                kinds.extend((dtype == DType::Bf16).then_some("cast"));
            }
            assert_eq!(ops.iter().map(|op| op.kind.name()).collect::<Vec<_>>(), kinds);
            if dtype == DType::Bf16 || keys.is_none() {
                continue;
            }
            let x: Vec<Tensor> = types
                .into_iter()
                .enumerate()
                .map(|(n, ty)| {
                    Tensor::from_fn(ty, |i| match n {
                        4 => 8.0,
                        _ => (i.iter().sum::<usize>() % (7 + n)) as f64 / 4.0 - 1.0,
                    })
                })
                .collect();
            let (want, got) = (evaluate(&whole, "f", &x).unwrap(), evaluate(&m, "f", &x).unwrap());
            for (a, b) in want.iter().zip(&got) {
                assert_eq!(a.ty, b.ty);
                let far = a.data.iter().zip(&b.data).map(|(a, b)| (a - b).abs());
                assert!(far.fold(0.0, f64::max) <= 1e-9);
            }
        }
    }

    #[test]
    fn tasks_share_queries_of_few_heads_of_keys() {
        // One task for each of a group's heads, for runs of them, and for runs of keys as well.
        let cases = [
            (1, 1, 3, 5, Some(1), None),
            (2, 4, 6, 5, Some(2), None),
            (1, 1, 2, 1200, Some(1), Some(384)),
        ];
        for (batch, heads, queries, seq, members, keys) in cases {
            let (b, h, n, s, d) = (
                ("batch", batch),
                ("heads", heads),
                ("queries", queries),
                ("seq", seq),
                ("head_dim", 1),
            );
            let (q, k, y) = ([b, h, n, s, d], [b, h, s, d], [b, s, h, n, d]);
            let types = [&q[..], &k, &k, &y, &q[..4], &y].map(TensorType::f32);
            let mut f = Function::new("f");
            let p: Vec<ValueId> =
                types.iter().map(|ty| f.add_param("", ty.clone(), Attrs::new())).collect();
            let attrs = Attrs::new().with("scale", Attr::Float(0.5));
            f.results = Builder::new(&mut f).op(OpKind::AttentionGrad, &p, attrs).unwrap();
            let mut m = Module::new();
            m.insert(f);
            let whole = m.clone();
            run(&mut m, &PassCx::new(Target::X86V4)).unwrap();
            verify(&m).unwrap();
            let attrs = &m.functions[0].ops[0].attrs;
            assert_eq!((attrs.int("members"), attrs.int("keys")), (members, keys));
            let value = |n: usize| {
                move |i: &[usize]| match n {
                    4 => 8.0,
                    _ => (i.iter().sum::<usize>() % (7 + n)) as f64 / 4.0 - 1.0,
                }
            };
            let x: Vec<Tensor> = types
                .into_iter()
                .enumerate()
                .map(|(n, ty)| Tensor::from_fn(ty, value(n)))
                .collect();
            let (want, got) = (evaluate(&whole, "f", &x).unwrap(), evaluate(&m, "f", &x).unwrap());
            for (a, b) in want.iter().zip(&got) {
                assert_eq!(a.ty, b.ty);
                let far = a.data.iter().zip(&b.data).map(|(a, b)| (a - b).abs());
                assert!(far.fold(0.0, f64::max) <= 1e-9);
            }
        }
    }
}
