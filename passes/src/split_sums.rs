//! `split-sums`: a large sum of squares is a sum for each row, and then one of these.
//!
//! ```text
//! %s = sum_squares(%x)   ⇒   %r = reduce_sum(%x · %x) over the innermost dim; %s = reduce_sum(%r)
//! ```
//! Rows are work for all threads, where one sum is for one; and how rows are shared does not change any sum.

use neoxc_ir::{Attrs, Builder, Function, Module, Op};

use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "split-sums",
    doc: "give sums of squares to all threads",
    requires: &[],
    ensures: &[],
    run,
};

/// Elements from which several threads are faster than one.
const LARGE: usize = 1 << 15;

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let mut count = 0;
    for f in &mut m.functions {
        if f.ops.iter().any(|op| is_large(f, op)) {
            count += split(f)?;
        }
    }
    Ok(PassReport { notes: vec![format!("{count} sums of rows")] })
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
    use neoxc_ir::{TensorType, verify};

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
}
