//! Matmuls with a fused epilogue: register tiles over operands read in place or from packed
//! panels, one task per block of the result.
//!
//! C[batch, m, n] = Σₖ A[batch, m, k]·B[batch, k, n], every operand with its own strides, so no
//! transposed copy is ever made. Matmuls of rows that belong to experts are the same over ranges of rows
//! that the kernel reads. A projection to queries, keys and values is stored as those. k is split into
//! blocks whose partial tiles wait in scratch; the order of the sum is fixed by the depth and does not
//! depend on the number of threads.

mod ahead;
mod epilogue;
mod grouped;
mod parts;
mod schedule;
mod tile;
mod vector;
mod walk;

use std::collections::HashMap;

use neoxc_ir::ops::matmul::{Roles, roles};
use neoxc_ir::{DType, Dim, Function, Op, OpKind, TensorType, ValueId};

use super::pack::Source;
use super::{Body, Choice, Shape, Ties};
use crate::CodegenError;
use crate::emit::{Emit, Val};
use grouped::Ranges;
use parts::Parts;
pub use schedule::Cut;
use schedule::{Access, Problem, Schedule, Unit};

/// One role's dims as a single index: size, and stride in an operand.
fn collapse(dims: &[Dim], ty: &TensorType) -> Option<usize> {
    let strides = ty.strides();
    let mut stride = None;
    let mut next = 0;
    for d in dims.iter().rev().filter(|d| d.size > 1) {
        let s = strides[ty.position(&d.name)?];
        match stride {
            None => stride = Some(s),
            Some(_) if s == next => {}
            Some(_) => return None,
        }
        next = s * d.size;
    }
    Some(stride.unwrap_or(1))
}

fn size(dims: &[Dim]) -> usize {
    dims.iter().map(|d| d.size).product()
}

/// Strides of an operand in words, pairs of neighbouring steps: contiguous along the contraction, they are
/// there; contiguous along the rows, packing makes them of two lines. No other layout has them.
fn pairs(row: usize, step: usize, rows: usize) -> Option<(usize, usize)> {
    match (row, step) {
        (_, 1) if rows == 1 || row.is_multiple_of(2) => Some((row / 2, 1)),
        (1, _) => Some((1, step)),
        _ => None,
    }
}

/// An operand as the unit takes it.
fn source(
    k: &mut Emit,
    unit: Unit,
    base: Val,
    row: usize,
    step: usize,
    rows: usize,
    aligned: bool,
) -> Source {
    let plain = Source { base, row, step, rows, aligned, two_lines: false };
    match pairs(row, step, rows) {
        Some((row, 1)) if unit != Unit::Fma && step == 1 => {
            Source { base: k.words(base), row, step: 1, ..plain }
        }
        _ => Source { two_lines: unit != Unit::Fma, ..plain },
    }
}

#[derive(Clone)]
struct Plan {
    s: Schedule,
    m: usize,
    n: usize,
    result: ValueId,
    /// What the result is stored as, if not as one matrix.
    parts: Option<Parts>,
    /// Whether tiles reach beyond the last column.
    ragged: bool,
    /// Whether tiles reach beyond the last row, or may.
    ragged_rows: bool,
    /// Per parameter used by the epilogue: strides along batch, m and n (0 where broadcast).
    strides: HashMap<ValueId, [usize; 3]>,
}

/// A matmul as its operands lie: C[batch, m, n] = Σₖ A[batch, m, k]·B[batch, k, n].
struct Gemm<'f> {
    /// The op.
    op: &'f Op,
    /// The dims of each role.
    roles: Roles,
    /// Pointers of the two factors.
    factors: [Val; 2],
    /// Elements between two independent matmuls, of each factor.
    batch_strides: [usize; 2],
    /// The matmul in elements.
    plain: Problem,
    /// The matmul in steps of the unit, as the schedule sees it.
    problem: Problem,
    /// Which rows belong to which expert, of a grouped matmul.
    ranges: Option<Ranges>,
    /// What the result is stored as, if not as one matrix.
    parts: Option<Parts>,
    /// Whether A is one row and B is contiguous along the contraction.
    one_row: bool,
}

impl<'f> Gemm<'f> {
    /// Reads the matmul of the kernel function.
    fn read(b: &Body<'f>) -> Result<Gemm<'f>, CodegenError> {
        let f: &'f Function = b.f;
        let matmul = |op: &&Op| matches!(op.kind, OpKind::Matmul | OpKind::GroupedMatmul);
        let op = f.ops.iter().find(matmul).ok_or_else(|| b.fail("has no matmul"))?;
        let (ta, tb) = (f.ty(op.operands[0]), f.ty(op.operands[1]));
        let by_expert = op.kind == OpKind::GroupedMatmul;
        let r = match by_expert {
            true => grouped::roles(f, op)?,
            false => roles(ta, tb, &op.attrs).map_err(|e| b.fail(e.0))?,
        };
        let layout = |dims: &[Dim], ty: &TensorType| {
            collapse(dims, ty).ok_or_else(|| b.fail(format!("{ty} is not one matrix")))
        };
        let (a_batch, sa) = (layout(&r.batch, ta)?, (layout(&r.m, ta)?, layout(&r.k, ta)?));
        let b_batch = if by_expert { 0 } else { layout(&r.batch, tb)? };
        let sb = (layout(&r.n, tb)?, layout(&r.k, tb)?);
        // The contraction must walk both operands in one order.
        let order = |ty: &TensorType| -> Vec<usize> {
            r.k.iter().filter(|d| d.size > 1).filter_map(|d| ty.position(&d.name)).collect()
        };
        if !order(ta).is_sorted() || !order(tb).is_sorted() {
            return Err(b.fail("contracts dims that the operands hold in different orders"));
        }
        let (batch, m, n, depth) = (size(&r.batch), size(&r.m), size(&r.n), size(&r.k));
        let bf16 = [ta, tb].map(|t| t.dtype.bytes() == 2);
        let paired = [ta, tb].into_iter().all(|t| t.dtype == DType::Bf16);
        let parts = Parts::of(b)?;
        let together = parts.as_ref().map_or(1, Parts::width);
        let plain = Problem { unit: Unit::Fma, batch, m, n, depth, a: sa, b: sb, bf16, together };
        let one_row = !by_expert && parts.is_none() && vector::takes(plain);
        let mut problem = in_steps(plain, paired, b);
        let mut ranges = None;
        if by_expert {
            let experts = Ranges::of(b, op, m)?;
            // The schedule for equal shares.
            let local = experts.local;
            problem = Problem { batch: batch * local, m: m.div_ceil(local), ..problem };
            ranges = Some(experts);
        }
        let factor = |i: usize, which: &str| {
            let lost = || b.fail(format!("the {which} factor is not a parameter"));
            b.param(op.operands[i]).ok_or_else(lost)
        };
        let factors = [factor(0, "first")?, factor(1, "second")?];
        let batch_strides = [a_batch, b_batch];
        Ok(Gemm { op, roles: r, factors, batch_strides, plain, problem, ranges, parts, one_row })
    }

    /// The schedule: the model's, or the one that was measured or asked for among nearly equal ones.
    fn schedule(&self, b: &mut Body<'_>) -> Schedule {
        let (problem, cpu) = (self.problem, b.cpu);
        let (mut s, near) = Schedule::choose(problem, cpu);
        if self.ranges.is_some() {
            // Where rows begin is not known, so they are packed.
            s.a = Access::Packed;
        } else if !self.one_row {
            let key = format!("the cut of {problem:?} on {cpu:?}");
            let wanted = match b.choice {
                Choice::Model => None,
                Choice::Tuned(t) => t.cut(&key).filter(|cut| near.contains(cut)),
                Choice::This(cut) => Some(cut),
            };
            s = wanted.map_or(s, |cut| s.with(cut));
            let taken = Cut { rows: s.task_rows, columns: s.task_columns };
            b.ties = Some(Ties { key, cuts: near, taken });
        }
        // Of other units' loops it was never measured.
        b.unrolled = !self.one_row && problem.unit == Unit::Fma;
        if self.one_row {
            (s.tile_rows, s.tile_vectors) = (1, 1);
        }
        s
    }

    /// The strides along batch, m and n of each parameter that the epilogue reads; 0 where it broadcasts.
    fn epilogue_strides(&self, b: &Body<'_>) -> Result<HashMap<ValueId, [usize; 3]>, CodegenError> {
        let (f, r) = (b.f, &self.roles);
        let tables = parts::tables(&f.ops);
        let read = |p: &&ValueId| !self.op.operands.contains(p) && !tables.contains(p);
        let mut strides = HashMap::new();
        for p in f.params.iter().filter(read) {
            let ty = f.ty(*p);
            let along = |dims: &[Dim]| -> Option<usize> {
                match dims.iter().filter(|d| ty.has(&d.name)).count() {
                    0 => Some(0),
                    h if h == dims.len() => collapse(dims, ty),
                    _ => None,
                }
            };
            let all = (along(&r.batch), along(&r.m), along(&r.n));
            let (Some(x), Some(y), Some(z)) = all else {
                let tc = f.ty(self.op.results[0]);
                return Err(b.fail(format!("operand {ty} does not broadcast into {tc}")));
            };
            if z > 1 {
                return Err(b.fail(format!("operand {ty} is not contiguous along the columns")));
            }
            strides.insert(*p, [x, y, z]);
        }
        Ok(strides)
    }
}

/// The matmul in the steps that the unit multiplies at a time: pairs where both factors are bf16 (`paired`), have
/// pairs, and the processor has a unit for these, else elements.
fn in_steps(plain: Problem, paired: bool, b: &Body<'_>) -> Problem {
    let steps = (pairs(plain.a.0, plain.a.1, plain.m), pairs(plain.b.0, plain.b.1, plain.n));
    let even = paired && plain.depth.is_multiple_of(2);
    let unit = match steps {
        (Some(_), Some(_)) if even => Unit::of_pairs(b.cpu),
        _ => Unit::Fma,
    };
    match (unit, steps) {
        (Unit::Dot | Unit::Tiles, (Some(a), Some(b))) => {
            Problem { unit, depth: plain.depth / 2, a, b, ..plain }
        }
        _ => Problem { unit, ..plain },
    }
}

/// Emits the kernel.
pub(super) fn emit(b: &mut Body<'_>) -> Result<Shape, CodegenError> {
    let gemm = Gemm::read(b)?;
    let s = gemm.schedule(b);
    let strides = gemm.epilogue_strides(b)?;
    let Problem { m, n, unit, .. } = Problem { unit: gemm.problem.unit, ..gemm.plain };
    let ragged = gemm.one_row && !n.is_multiple_of(b.lanes);
    // Rows behind the last whole tile have a lower one, where it is known how many they are.
    let lower_tiles = gemm.ranges.is_none() && unit.has_lower_tiles();
    let ragged_rows = !lower_tiles && (gemm.ranges.is_some() || !m.is_multiple_of(s.tile_rows));
    let (result, parts) = (gemm.op.results[0], gemm.parts.clone());
    let plan = Plan { s, m, n, result, parts, ragged, ragged_rows, strides };
    if gemm.one_row {
        let [x, w] = gemm.factors;
        return vector::emit(b, &plan, gemm.plain, x, w);
    }
    let low = if lower_tiles { m % s.tile_rows } else { 0 };
    walk::emit(b, &gemm, plan, low)
}
