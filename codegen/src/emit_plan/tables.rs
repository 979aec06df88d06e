//! The tables of a plan beside its programs: segments, constants, memory, kernels.

use std::collections::HashMap;

use neoxc_ir::eval;
use neoxc_ir::op::{Class, Cost, RuleCx};
use neoxc_ir::role::name_of as parameter_of;
use neoxc_ir::{Attrs, DType, Function, Module, Op, OpKind, Role, ValueId, keys};
use neoxc_plan::{Formula, Memory, Port, Program, Segment, SegmentKind};

use super::{Emitter, Named, bad, updates};
use crate::CodegenError;
use crate::kernels::Kernel;

/// The number of the first segment of a kind of which every plan has one.
fn number<'a>(mut kinds: impl Iterator<Item = &'a SegmentKind>, kind: SegmentKind) -> usize {
    kinds.position(|k| *k == kind).expect("there is a segment of every kind but state")
}

/// The segments with their sizes: `bytes` by class of stages, then by segment, as far as addresses reach; the arena is as
/// large as the placement says.
pub fn segments(m: &Module, named: Vec<Named>, mut bytes: Vec<Vec<u64>>) -> Vec<Segment> {
    let kinds = || named.iter().map(|(_, kind)| kind);
    let (grads_at, arena_at) =
        (number(kinds(), SegmentKind::Gradients), number(kinds(), SegmentKind::Arena));
    let arena = m.attrs.int(keys::ARENA).unwrap_or(0);
    let arenas = m.attrs.ints(keys::ARENAS).unwrap_or_default();
    for (class, bytes) in bytes.iter_mut().enumerate() {
        bytes.iter_mut().for_each(|b| *b = b.div_ceil(64) * 64);
        let placed = arenas.get(class).copied().unwrap_or(arena).max(0) as u64;
        bytes[arena_at] = bytes[arena_at].max(placed);
    }
    // Where gradients are a part of the arena.
    let grads = m.attrs.int(keys::GRADS).map(|at| (arena_at, at.max(0) as u64));
    let one = |(i, (name, kind)): (usize, Named)| Segment {
        name,
        kind,
        bytes: bytes.iter().map(|b| b[i]).collect(),
        within: grads.filter(|_| i == grads_at),
    };
    named.into_iter().enumerate().map(one).collect()
}

/// The bytes of the constants: the results of `@setup`, each at the place where the training program reads it.
pub fn consts(m: &Module, staged: bool, segments: &[Segment]) -> Result<Vec<u8>, CodegenError> {
    let of = number(segments.iter().map(|s| &s.kind), SegmentKind::Consts);
    let mut consts = vec![0u8; segments[of].bytes[0] as usize];
    if m.function("setup").is_none() {
        return Ok(consts);
    }
    let values = eval::run(m, "setup", &[]).map_err(|e| bad(e.to_string()))?;
    let name = if staged { "train_forward" } else { "train_step" };
    let train = m.function(name).ok_or_else(|| bad(format!("there is no @{name}")))?;
    for ((_, attrs), value) in Role::Const.all(train).zip(&values) {
        let place = Emitter::places(attrs)?.pop().unwrap_or_default();
        let at: usize = place.split_once('+').and_then(|(_, o)| o.parse().ok()).unwrap_or(0);
        for (i, x) in value.data.iter().enumerate() {
            let to = at + 4 * i;
            let word = match value.ty.dtype {
                DType::I32 => (*x as i32).to_le_bytes(),
                _ => (*x as f32).to_le_bytes(),
            };
            consts[to..to + 4].copy_from_slice(&word);
        }
    }
    Ok(consts)
}

/// The memory of a rank of each class of stages, bytes; each of `threads` has scratch for the largest kernel.
pub fn memory(m: &Module, segments: &[Segment], kernels: &[Kernel], threads: u64) -> Vec<Memory> {
    let scratch = kernels.iter().map(|k| k.scratch_bytes).max().unwrap_or(0).div_ceil(64) * 64;
    let saved = m.attrs.int(keys::SAVED).unwrap_or(0).max(0) as u64;
    let within = segments.iter().any(|s| s.within.is_some());
    let memory = |class: usize| {
        let of =
            |kind| segments.iter().filter(|s| s.kind == kind).map(|s| s.bytes[class]).sum::<u64>();
        let (parameters, gradients) = (of(SegmentKind::Weights), of(SegmentKind::Gradients));
        let rest = of(SegmentKind::Arena) - if within { gradients } else { 0 };
        let (saved, optimizer) = (saved.min(rest), of(SegmentKind::State));
        let activations = saved + of(SegmentKind::Slots);
        let other = of(SegmentKind::Consts) + of(SegmentKind::Io);
        let workspace = rest - saved + other + scratch * threads;
        let peak = parameters + gradients + optimizer + activations + workspace;
        Memory { parameters, gradients, optimizer, activations, workspace, peak }
    };
    let classes = segments.first().map_or(0, |s| s.bytes.len());
    (0..classes).map(memory).collect()
}

/// The axes of the mesh and the ranks along each.
pub fn mesh(m: &Module) -> Vec<(String, u64)> {
    let axes = m.attrs.strs(keys::MESH).unwrap_or_default().into_iter();
    let pairs = axes.filter_map(|a| a.split_once('='));
    pairs.filter_map(|(n, size)| Some((n.to_string(), size.parse().ok()?))).collect()
}

/// Tokens of one step, of all ranks. The first class has the first stage, which takes tokens.
pub fn tokens(programs: &[Program], mesh: &[(String, u64)]) -> u64 {
    let mut inputs = programs.iter().filter(|p| p.name == "train_step").flat_map(|p| &p.inputs);
    let along = |p: &Port| {
        let ranks = |a: &String| mesh.iter().find(|(n, _)| n == a).map_or(1, |(_, n)| *n);
        p.elements() * p.axes.iter().map(ranks).product::<u64>()
    };
    inputs.find(|p| p.name == "tokens").map_or(0, along)
}

/// The numbers that a step is given, and their formulas.
pub fn scalars(m: &Module, classes: usize) -> Result<Vec<(String, Formula)>, CodegenError> {
    let Some(update) = updates(m, classes).next() else { return Ok(vec![]) };
    let one = |(_, attrs): (ValueId, &Attrs)| {
        let formula = Formula::parse(attrs.str(keys::FORMULA).unwrap_or_default()).map_err(bad)?;
        Ok((parameter_of(attrs).to_string(), formula))
    };
    Role::Scalar.all(update).map(one).collect()
}

/// The table of kernels: how each is called, and what it costs.
pub fn kernels(m: &Module, kernels: &[Kernel]) -> Vec<neoxc_plan::Kernel> {
    let functions: HashMap<&str, &Function> =
        m.functions.iter().map(|f| (f.name.as_str(), f)).collect();
    let one = |k: &Kernel| {
        let f = functions[k.symbol.as_str()];
        let size = |v: &ValueId| f.ty(*v).bytes() as u64;
        let dtype = |v: &ValueId| f.ty(*v).dtype.name().to_string();
        let work = work(m, f);
        neoxc_plan::Kernel {
            name: k.symbol.clone(),
            family: f.attrs.str(keys::KERNEL).unwrap_or_default().to_string(),
            tasks: k.tasks,
            scratch: k.scratch_bytes,
            args: f.params.iter().chain(&f.results).map(size).collect(),
            dtypes: f.params.iter().chain(&f.results).map(dtype).collect(),
            operands: f.params.len(),
            loc: neoxc_ir::Loc::fuse(f.ops.iter().map(|op| &op.loc)).to_string(),
            flops: work.flops as u64,
            bytes: work.bytes as u64,
            bf16: multiplies_bf16(f),
        }
    };
    kernels.iter().map(one).collect()
}

/// What one launch of a kernel function computes and moves. A single op knows what it touches of its operands, such
/// as rows of a table; of several, what goes in and comes out goes through memory, and nothing between them.
fn work(m: &Module, f: &Function) -> Cost {
    let types = |ids: &[ValueId]| -> Vec<_> { ids.iter().map(|v| f.ty(*v).clone()).collect() };
    let ops = f.ops.iter().filter(|op| op.kind.def().class() != Class::View);
    let costs: Vec<Cost> = ops
        .map(|op| {
            let (operands, results) = (types(&op.operands), types(&op.results));
            let attrs = &op.attrs;
            let cx = RuleCx { operands: &operands, results: &results, attrs, module: Some(m) };
            op.kind.def().cost(&cx)
        })
        .collect();
    let whole = f.params.iter().chain(&f.results).map(|v| f.ty(*v).bytes() as f64).sum();
    Cost {
        flops: costs.iter().map(|c| c.flops).sum(),
        bytes: if let [one] = &costs[..] { one.bytes } else { whole },
    }
}

/// Whether a kernel function is a matmul of bf16; other kernels widen bf16 operands.
fn multiplies_bf16(f: &Function) -> bool {
    let matmul = |op: &&Op| [OpKind::Matmul, OpKind::GroupedMatmul].contains(&op.kind);
    f.ops.iter().filter(matmul).any(|op| f.ty(op.operands[0]).dtype == DType::Bf16)
}
