//! `neox.repeat`: a loop whose body is another function (a scan).
//!
//! Layers, micro-batches and chunks are loops, so no pass ever sees them unrolled.

use super::call::{body_cost, callee};
use super::prelude::*;
use crate::keys;
use crate::module::Op;

/// `neox.repeat`.
pub struct Repeat;

const fn attr(name: &'static str, kind: AttrKind, doc: &'static str) -> AttrSpec {
    AttrSpec { name, kind, required: true, doc }
}

const ATTRS: &[AttrSpec] = &[
    attr("callee", AttrKind::Symbol, "the body"),
    attr("count", AttrKind::Int, "iterations"),
    attr("carried", AttrKind::Int, "number of carried values"),
    attr("sliced", AttrKind::Int, "number of sliced operands"),
    attr("dim", AttrKind::Str, "leading dim of sliced operands and stacked results"),
    AttrSpec { name: "reverse", kind: AttrKind::Bool, required: false, doc: "last slice first" },
    AttrSpec {
        name: "first",
        kind: AttrKind::Int,
        required: false,
        doc: "number of the first slice, where operands have more slices than there are iterations",
    },
    AttrSpec {
        name: "next",
        kind: AttrKind::Ints,
        required: false,
        doc: "numbers of sliced operands of which an iteration sees the next one's slice",
    },
];

/// How the operands and results of a repeat divide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Number of iterations.
    pub count: usize,
    /// Operands (and results) handed from one iteration to the next; they come first.
    pub carried: usize,
    /// Operands that each iteration sees one slice of; they come second.
    pub sliced: usize,
    /// Number of the first slice; where it is given, operands may have more slices than `count`.
    pub first: Option<usize>,
    /// Whether iterations go from the last slice to the first.
    pub reverse: bool,
    /// Sliced operands of which each iteration sees the slice of the next one; the last one that of the first.
    pub next: Vec<usize>,
}

impl Shape {
    /// The iterations' slice numbers, in order, without those before `first`.
    pub fn order(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.count).map(|step| if self.reverse { self.count - 1 - step } else { step })
    }

    /// Which slice of operand `n` iteration `i` sees.
    #[must_use]
    pub fn slice(&self, n: usize, i: usize) -> usize {
        let step = if self.reverse { self.count - 1 } else { 1 };
        let i = if self.next.contains(&n) { (i + step) % self.count } else { i };
        i + self.first.unwrap_or(0)
    }
}

/// Attribute of a loop: numbers of the results that are its totals, where they are not the carried ones.
const TOTALS: &str = keys::TOTALS;

/// Numbers of a loop's results that are totals over its iterations, in the order of what they are totals of: the
/// carried ones, unless there is one iteration whose results are totals without having been carried.
pub fn totals(op: &Op) -> Vec<usize> {
    let numbers =
        |list: Vec<i64>| list.into_iter().filter_map(|n| usize::try_from(n).ok()).collect();
    let carried = op.attrs.int("carried").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    op.attrs.ints(TOTALS).map_or_else(|| (0..carried).collect(), numbers)
}

/// Says which results of a loop are its totals.
pub fn set_totals(op: &mut Op, totals: &[usize]) {
    let numbers: Vec<i64> = totals.iter().map(|n| *n as i64).collect();
    op.attrs.set(TOTALS, Attr::ints(&numbers));
}

/// Reads the attributes.
pub fn shape(cx: &RuleCx<'_>) -> Result<Shape, OpError> {
    let at = |name| -> Result<usize, OpError> {
        usize::try_from(cx.int(name)?).map_err(|_| OpError::new(format!("`{name}` is negative")))
    };
    let first = cx.attrs.int("first").map(|_| at("first")).transpose()?;
    let (count, carried, sliced) = (cx.size("count")?, at("carried")?, at("sliced")?);
    let next = cx.attrs.ints("next").unwrap_or_default();
    let next = next.iter().filter_map(|n| usize::try_from(*n).ok()).collect();
    let s = Shape { count, carried, sliced, first, reverse: cx.attrs.flag("reverse"), next };
    if s.carried + s.sliced > cx.operands.len() {
        return Err(OpError::new("has fewer operands than `carried` and `sliced` say"));
    }
    let listed = cx.attrs.ints("next").map_or(0, |n| n.len());
    let is_sliced = |n: &usize| (carried..carried + sliced).contains(n);
    if s.next.len() < listed || !s.next.iter().all(is_sliced) {
        return Err(OpError::new("`next` names operands that are not sliced"));
    }
    Ok(s)
}

impl OpDef for Repeat {
    frame! {
        repeat(args: Variadic) -> (results: Variadic),
        "Calls `callee` `count` times. Operands: `carried` values handed on, then `sliced` values of \
         which iteration i sees slice i of the leading dim `dim`, then invariants. The callee \
         returns the carried values and per-step values; the latter come out stacked along `dim`. \
         `reverse` walks from the last slice to the first, `first` leaves out the slices before it. Of an \
         operand that `next` names, an iteration sees the slice of the next one, and the last one that of the first.",
        class Call,
        precision SAME,
        attrs ATTRS,
    }

    fn infer(&self, cx: &RuleCx<'_>) -> Result<Vec<TensorType>, OpError> {
        let f = callee(cx)?;
        let s = shape(cx)?;
        let dim = cx.str("dim")?;
        if f.params.len() != cx.operands.len() || f.results.len() < s.carried {
            return Err(OpError::new(format!("operands do not fit @{}", f.name)));
        }
        for (i, (p, have)) in f.params.iter().zip(cx.operands).enumerate() {
            let want = f.ty(*p);
            let sliced = (s.carried..s.carried + s.sliced).contains(&i);
            let fits = if sliced {
                let slices = have.size(dim).filter(|_| s.first.is_some()).unwrap_or(s.count);
                let enough = slices.checked_sub(s.count) >= Some(s.first.unwrap_or(0));
                enough && *have == want.stacked(Dim::new(dim, slices))
            } else {
                have == want
            };
            if !fits {
                return Err(OpError::new(format!(
                    "operand {i} is {have}, @{} takes {want}",
                    f.name
                )));
            }
        }
        let mut out = vec![];
        for (i, r) in f.results.iter().enumerate() {
            let ty = f.ty(*r);
            if i >= s.carried {
                out.push(ty.stacked(Dim::new(dim, s.count)));
            } else if ty == &cx.operands[i] {
                out.push(ty.clone());
            } else {
                return Err(OpError::new(format!("carried value {i} changes its type to {ty}")));
            }
        }
        Ok(out)
    }

    no_gradient!("loops are differentiated by the gradient pass, which builds the twin");

    fn sharding(&self, cx: &RuleCx<'_>) -> ShardRule {
        ShardRule::whole(cx)
    }

    fn cost(&self, cx: &RuleCx<'_>) -> Cost {
        let body = body_cost(cx);
        let count = shape(cx).map_or(0, |s| s.count) as f64;
        Cost { flops: body.flops * count, bytes: body.bytes * count }
    }

    fn evaluate(&self, cx: &EvalCx<'_>) -> Result<Vec<Tensor>, OpError> {
        let f = callee(&cx.rule)?;
        let s = shape(&cx.rule)?;
        let module = cx.rule.module.ok_or_else(|| OpError::new("loops need a module"))?;
        let mut carried: Vec<Tensor> =
            cx.operands[..s.carried].iter().map(|t| (*t).clone()).collect();
        let mut stacked: Vec<Tensor> = cx.rule.results[s.carried..]
            .iter()
            .map(|t| Tensor::fill(t.clone(), f64::NAN))
            .collect();
        for i in s.order() {
            let mut inputs = carried;
            for (n, t) in cx.operands.iter().enumerate().skip(s.carried) {
                inputs.push(if n < s.carried + s.sliced {
                    let ty = f.ty(f.params[n]).clone();
                    let (size, i) = (ty.elements(), s.slice(n, i));
                    Tensor::new(ty, t.data[i * size..(i + 1) * size].to_vec())
                } else {
                    (*t).clone()
                });
            }
            let mut results = crate::eval::run_function(module, f, &inputs)?;
            for (out, part) in stacked.iter_mut().zip(results.drain(s.carried..)) {
                let size = part.data.len();
                out.data[i * size..(i + 1) * size].copy_from_slice(&part.data);
            }
            carried = results;
        }
        carried.extend(stacked);
        Ok(carried)
    }

    fn decompose(
        &self,
        _b: &mut Builder<'_>,
        _operands: &[ValueId],
        _attrs: &Attrs,
    ) -> Result<Decomposition, OpError> {
        Ok(Decomposition::Primitive)
    }
}

#[cfg(test)]
mod tests {
    use crate::{eval::Tensor, text, verify};

    /// Iterations hand on ten times what they were given plus the slice that they see.
    fn digits(how: &str) -> Result<f64, String> {
        let text = format!(
            "module {{\n  func.func @body(%d: tensor<f32>, %w: tensor<f32>) -> tensor<f32> {{\n    \
             %ten = \"neox.fill\"() {{dims = [], dtype = \"f32\", sizes = [], value = 10.0}} : () -> tensor<f32>\n    \
             %0 = \"neox.mul\"(%d, %ten) : (tensor<f32>, tensor<f32>) -> tensor<f32>\n    \
             %1 = \"neox.add\"(%0, %w) : (tensor<f32>, tensor<f32>) -> tensor<f32>\n    \
             return %1 : tensor<f32>\n  }}\n  func.func @main(%d: tensor<f32>, %w: tensor<4xf32, {{dims = [\"layer\"]}}>) -> tensor<f32> {{\n    \
             %0 = \"neox_loop.repeat\"(%d, %w) {{callee = @body, carried = 1, {how}, dim = \"layer\", sliced = 1}} : \
             (tensor<f32>, tensor<4xf32, {{dims = [\"layer\"]}}>) -> tensor<f32>\n    return %0 : tensor<f32>\n  }}\n}}\n"
        );
        let m = text::parse(&text).map_err(|e| e.to_string())?;
        verify(&m).map_err(|e| e.to_string())?;
        let f = m.function("main").ok_or("no @main")?;
        let inputs = [
            Tensor::new(f.ty(f.params[0]).clone(), vec![0.0]),
            Tensor::new(f.ty(f.params[1]).clone(), vec![1.0, 2.0, 3.0, 4.0]),
        ];
        let out = crate::eval::run(&m, "main", &inputs).map_err(|e| e.to_string())?;
        Ok(out[0].data[0])
    }

    #[test]
    fn iterations_see_their_slice_or_the_next_one() {
        for (how, want) in [
            ("count = 4", 1234.0),
            ("count = 4, reverse = true", 4321.0),
            ("count = 4, next = [1]", 2341.0),
            ("count = 4, next = [1], reverse = true", 3214.0),
            ("count = 2, first = 1, next = [1]", 32.0),
            ("count = 1, first = 3, next = [1]", 4.0),
        ] {
            assert_eq!(digits(how), Ok(want), "{how}");
        }
        for wrong in ["count = 4, next = [0]", "count = 4, next = [2]", "count = 4, next = [-1]"] {
            assert!(digits(wrong).is_err_and(|e| e.contains("not sliced")), "{wrong}");
        }
    }
}
