//! `split-sums`: a large sum is many sums, each a task's, and then one of these.
//!
//! ```text
//! %s = sum_squares(%x)            ⇒   %r = reduce_sum(%x · %x) over the innermost dim; %s = reduce_sum(%r)
//! %dx, %dw, %db =                 ⇒   %dx, %r, %q = layer_norm_grad(…) {rows = 32}
//!   layer_norm_grad(%x, …, %dy)       %dw = reduce_sum(%r) over the runs; %db = reduce_sum(%q)
//! ```
//! Rows are work for all threads, where one sum is for one; and how rows are shared does not change any sum. What is
//! summed over rows is summed while a norm's backward has the row at hand, so that nothing reads it again.

use neoxc_ir::{Attr, Attrs, Builder, Function, Module, Op};

use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "split-sums",
    doc: "give sums of squares, and those of a norm's rows, to all threads",
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

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let (mut count, mut norms) = (0, 0);
    for f in &mut m.functions {
        if f.ops.iter().any(|op| is_large(f, op)) {
            count += split(f)?;
        }
        if f.ops.iter().any(is_whole_norm) {
            norms += split_norms(f)?;
        }
    }
    Ok(PassReport { notes: vec![format!("{count} sums of rows, {norms} norms in runs of rows")] })
}

/// Whether the op is a norm's backward whose sums are over all rows.
fn is_whole_norm(op: &Op) -> bool {
    op.kind.is("layer_norm_grad") && op.attrs.get("rows").is_none()
}

fn split_norms(f: &mut Function) -> Result<usize, PassError> {
    let mut count = 0;
    for op in std::mem::take(&mut f.ops) {
        if !is_whole_norm(&op) {
            f.ops.push(op);
            continue;
        }
        count += 1;
        let rows = f.ty(op.operands[2]).elements();
        let rows = rows.div_ceil(RUNS).max(RUN_ROWS).min(rows.max(1));
        let attrs = op.attrs.clone().with("rows", Attr::Int(rows as i64));
        let b = &mut Builder::new(f);
        b.at(&op.loc);
        let made = b.op(op.kind, &op.operands, attrs)?;
        b.reduce_sum(made[1], &["run"])?;
        b.reduce_sum(made[2], &["run"])?;
        // The values are the ones they were.
        let at = f.ops.len() - 3;
        for (new, result) in f.ops[at..].iter_mut().zip(op.results) {
            new.results[0] = result;
        }
    }
    f.renumber();
    Ok(count)
}

fn is_large(f: &Function, op: &Op) -> bool {
    let sums = op.kind.is("sum_squares") && f.attrs.get("neox.kernel").is_none();
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
        let square = b.one("mul", &[x, x], Attrs::new())?;
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
    use neoxc_ir::{TensorType, ValueId, verify};

    use super::*;

    #[test]
    fn a_sum_of_rows_is_the_sum() {
        let mut f = Function::new("f");
        let sizes = [[("a", 3), ("b", 130), ("c", 128)], [("a", 2), ("b", 5), ("c", 7)]];
        let types = sizes.map(|dims| TensorType::f32(&dims));
        for ty in &types {
            let x = f.add_param("", ty.clone(), Attrs::new());
            let sum = Builder::new(&mut f).one("sum_squares", &[x], Attrs::new()).unwrap();
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
        for (batch, seq) in [(1, 1), (3, 5), (2, 130)] {
            let mut f = Function::new("f");
            let x = [("batch", batch), ("seq", seq), ("embed", 7)];
            let dims = [&x[..], &x[2..], &x[..2], &x[..2], &x[..]];
            let types = dims.map(TensorType::f32);
            let p: Vec<ValueId> =
                types.iter().map(|ty| f.add_param("", ty.clone(), Attrs::new())).collect();
            let attrs = Attrs::new().with("dim", Attr::Str("embed".into()));
            f.results = Builder::new(&mut f).named("layer_norm_grad", &p, attrs).unwrap();
            let mut m = Module::new();
            m.insert(f);
            let x = types
                .map(|ty| Tensor::from_fn(ty, |i| (i.iter().sum::<usize>() % 17) as f64 - 8.0));
            let want = evaluate(&m, "f", &x).unwrap();
            run(&mut m, &PassCx::new(Target::X86V4)).unwrap();
            verify(&m).unwrap();
            let kinds: Vec<_> = m.functions[0].ops.iter().map(|op| op.kind.name()).collect();
            assert_eq!(kinds, ["layer_norm_grad", "reduce_sum", "reduce_sum"]);
            let got = evaluate(&m, "f", &x).unwrap();
            for (a, b) in want.iter().zip(&got) {
                assert_eq!((&a.ty, &a.data), (&b.ty, &b.data), "{batch} x {seq}");
            }
        }
    }
}
