//! `cut-stages`: the programs of one pipeline stage out of the programs of the whole model.
//!
//! ```text
//! @train_step = repeat(@micro_step), update
//! @micro_step = embed, repeat(@block.fwd) 12, loss, repeat(@block.bwd) 12, embedding gradient
//!   ⇒  @train_start    clears the sums            @train_forward   repeat(@block.fwd) 12/P
//!      @train_enter    embed                      @train_backward  repeat(@block.bwd) 12/P
//!      @train_head     loss and its gradient      @train_leave     embedding gradient
//!      @train_finish   update
//! ```
//! and `@eval_*`, `@logits_*` with enter, forward and head. All stages have the same programs; which of
//! them a stage runs, and when, is the schedule's business ([`crate::schedule_pipeline`]). What one
//! program makes and another one needs lies in a slot of its micro-batch; gradients are sums that the
//! programs add to. A parameter outside the layers is on every stage; its gradient is the sum over the
//! stages, of which most have nothing to add.

mod finish;
mod one_function;
mod split_backward;

use std::collections::{HashMap, HashSet};

use neoxc_base::codes::undivided_dim::undivided_dim;
use neoxc_ir::role::{is_frozen, name_of as parameter_of};
use neoxc_ir::{
    Attr, Attrs, Builder, DType, Dim, Function, Module, Op, OpKind, Output, Role, TensorType,
    ValueId, keys,
};

use self::one_function::Source;
use crate::assign_stages::{Class, assign};
use crate::entries::{EVAL_STEP, Entry, LOGITS, Part, Program, TRAIN_STEP, name_of};
use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};
use crate::schedule_pipeline::{Schedule, check};

/// The pass.
pub const PASS: Pass = Pass {
    name: "cut-stages",
    doc: "cut training, evaluation and logits into the programs of a pipeline stage",
    requires: &[Fact::HasTrainStep],
    ensures: &[Fact::HasTrainStep],
    run,
};

/// The dim of layers.
const LAYER: &str = "layer";

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    let stages = cx.degrees.pipe;
    if stages == 1 {
        return Ok(PassReport::default());
    }
    let chunks = cx.chunks;
    let missing = |what: &str| PassError::internal(format!("there is no @{what}"));
    let get = |name: &str| m.function(name).cloned().ok_or_else(|| missing(name));
    let (mut step, train) = (get("micro_step")?, get(TRAIN_STEP)?);
    let (eval, logits) = (get(EVAL_STEP)?, get(LOGITS)?);
    let micro_loop = |op: &&Op| op.attrs.str("dim") == Some("micro");
    let at = train.ops.iter().position(|o| micro_loop(&o)).ok_or_else(|| missing("loop"))?;
    let count = train.ops[at].attrs.int("count").unwrap_or(1) as usize;
    if !count.is_multiple_of(cx.degrees.data) {
        let spans = train.ops[at].loc.spans();
        return Err(undivided_dim(cx.degrees.data, "data", count, "micro", &spans).into());
    }
    let micro = count / cx.degrees.data;
    let schedule = Schedule::train(cx.schedule, stages, chunks, micro);
    check(&schedule).map_err(|e| PassError::internal(e.to_string()))?;

    if cx.schedule.splits() {
        split_backward::split(m, &mut step)?;
    }
    let carried = train.ops[at].attrs.int("carried").unwrap_or(0) as usize;
    let sides = sides(&step)?;
    let all = assign(m, &step, &sides, cx)?;
    let (classes, of) = all.classes();
    let end = |first, last| owned(&step, &Class { layers: 0, first, last });
    let inside = names_of(&step, &end(false, false)?);
    let (front, back) = (names_of(&step, &end(true, false)?), names_of(&step, &end(false, true)?));
    let tied = front.intersection(&back).filter(|n| !inside.contains(*n)).cloned().collect();
    let mut made = vec![];
    for (n, class) in classes.iter().enumerate() {
        let mut here = vec![];
        let own = |f: &Function| owned(f, class);
        let holds = own(&step)?;
        here.push(start(&step, carried, micro, &holds, class.layers * chunks)?);
        let port = |name: &str| Output::Port(name.into());
        let source = Source { f: &step, carried, outputs: &[Output::Loss], holds: &holds };
        here.extend(one_function::cut(m, &source, Program::Train, class)?);
        let held = &names_of(&step, &holds);
        let p = finish::Part { held, tied: &tied, class, stages, layers: class.layers * chunks };
        here.push(finish::cut(m, &train, at, carried, &p)?);
        for (f, program, output) in
            [(&eval, Program::Eval, "loss"), (&logits, Program::Logits, "logits")]
        {
            let source = Source { f, carried: 0, outputs: &[port(output)], holds: &own(f)? };
            here.extend(one_function::cut(m, &source, program, class)?);
        }
        here.iter_mut().for_each(|f| f.name = name_of(&f.name, n));
        made.extend(here);
    }
    m.functions
        .retain(|f| !["micro_step", TRAIN_STEP, EVAL_STEP, LOGITS].contains(&f.name.as_str()));
    m.functions.extend(made);
    let texts = |s: &Schedule| Attr::strs(&(0..stages).map(|n| s.text(n)).collect::<Vec<_>>());
    m.attrs.set(keys::SCHEDULE_TRAIN, texts(&schedule));
    m.attrs.set(keys::SCHEDULE_FORWARD, texts(&Schedule::evaluate(stages, chunks)));
    let slots: Vec<i64> = schedule.slots.iter().flatten().map(|n| *n as i64).collect();
    m.attrs.set(keys::SLOTS, Attr::ints(&slots));
    m.attrs.set(keys::CHUNKS, Attr::Int(chunks as i64));
    m.attrs.set(keys::MICRO, Attr::Int(micro as i64));
    let runs = |stage: usize| {
        let runs = all.runs(stage).into_iter().map(|(first, n)| format!("{first}+{n}"));
        runs.collect::<Vec<_>>().join(" ")
    };
    m.attrs.set(keys::STAGE_LAYERS, Attr::strs(&(0..stages).map(runs).collect::<Vec<_>>()));
    let words = |c: &Class| {
        let ends = [(c.first, "first"), (c.last, "last")].into_iter().filter(|(is, _)| *is);
        let ends: String = ends.map(|(_, name)| format!(" {name}")).collect();
        format!("{} layers{ends}", c.layers * chunks)
    };
    m.attrs.set(keys::CLASSES, Attr::strs(&classes.iter().map(words).collect::<Vec<_>>()));
    let of: Vec<i64> = of.into_iter().map(|n| n as i64).collect();
    m.attrs.set(keys::STAGE_CLASS, Attr::ints(&of));
    let names: Vec<&str> = step.param_attrs.iter().filter_map(|a| a.str(keys::PARAM)).collect();
    m.attrs.set(keys::PARAMETERS, Attr::strs(&names));
    let note = format!(
        "{stages} stages of {:?} layers in {chunks} chunks, {micro} micro-batches, {slots:?} slots, a bubble of {:.1} %",
        all.layers,
        100.0 * schedule.bubble()
    );
    Ok(PassReport { notes: vec![note] })
}

/// The type with the layers of a stage, or of a chunk.
fn with_layers(ty: &TensorType, layers: usize) -> TensorType {
    let mut ty = ty.clone();
    ty.dims.iter_mut().filter(|d| &*d.name == LAYER).for_each(|d| d.size = layers);
    ty
}

/// Whether each op is in front of the layers (-1), one of their loops (0), or behind them (1).
fn sides(f: &Function) -> Result<Vec<i8>, PassError> {
    let side = |p: &Part| match p {
        Part::Enter | Part::Leave => -1,
        Part::Forward | Part::Backward | Part::Weights => 0,
        _ => 1,
    };
    Ok(parts(f)?.iter().map(side).collect())
}

/// Which parameters of a function a class of stages has: those that its programs use.
fn owned(f: &Function, class: &Class) -> Result<Vec<bool>, PassError> {
    let sides = sides(f)?;
    let uses = |p: &ValueId| {
        let mut sides = f.ops.iter().zip(&sides).filter(|(op, _)| op.operands.contains(p));
        sides.any(|(_, side)| match side {
            -1 => class.first,
            0 => true,
            _ => class.last,
        })
    };
    // Tables are small, and the same on all stages.
    let all = f.params.iter().zip(&f.param_attrs);
    Ok(all.map(|(p, a)| Role::Const.is(a) || uses(p)).collect())
}

fn label(f: &Function, v: ValueId) -> String {
    f.values[v.index()].name.as_deref().unwrap_or_default().to_string()
}

/// Parameters of the model that are trained, by their numbers among all of a function's.
fn trained(f: &Function) -> impl Iterator<Item = (usize, &Attrs)> {
    let all = f.param_attrs.iter().enumerate();
    all.filter(|(_, a)| Role::Parameter.is(a) && !is_frozen(a))
}

/// The parameter of the model that gradient `n` belongs to.
fn parameter(step: &Function, n: usize) -> &str {
    trained(step).nth(n).map_or("", |(_, a)| parameter_of(a))
}

/// Names of the parameters of the model that are held.
fn names_of(f: &Function, holds: &[bool]) -> HashSet<String> {
    let held = f.param_attrs.iter().zip(holds).filter(|(_, held)| **held);
    held.filter_map(|(a, _)| a.str(keys::PARAM)).map(str::to_string).collect()
}

/// Zeros for every sum.
fn start(
    step: &Function,
    carried: usize,
    micro: usize,
    holds: &[bool],
    layers: usize,
) -> Result<Function, PassError> {
    let mut f = Function::new(&Entry::new(Program::Train, Part::Start).to_string());
    let mut results = vec![];
    for (n, p) in step.params.iter().take(carried).enumerate() {
        if !holds[carried_parameter(step, n)] {
            continue;
        }
        let ty = with_layers(step.ty(*p), layers);
        let zero = Builder::new(&mut f).fill(0.0, &ty)?;
        f.results.push(zero);
        results.push(Output::Gradient(parameter(step, n).into()));
    }
    let ty = TensorType::scalar(DType::F32).stacked(Dim::new("micro", micro));
    let zero = Builder::new(&mut f).fill(0.0, &ty)?;
    f.results.push(zero);
    results.push(Output::Losses);
    Output::set(&mut f, &results);
    Ok(f)
}

/// The number among all parameters of the one that gradient `n` belongs to.
fn carried_parameter(step: &Function, n: usize) -> usize {
    trained(step).nth(n).map_or(0, |(i, _)| i)
}

/// Adds a copy of `op` to `to`; constants that it needs come with it.
fn copy(
    from: &Function,
    op: &Op,
    to: &mut Function,
    map: &mut HashMap<ValueId, ValueId>,
    module: Option<&Module>,
    attrs: &dyn Fn(&Attrs) -> Attrs,
) -> Result<(), PassError> {
    for o in &op.operands {
        if map.contains_key(o) {
            continue;
        }
        let maker = from.ops.iter().find(|op| op.results.contains(o) && op.kind == OpKind::Fill);
        let lost = || PassError::internal_at("a value is on no stage".into(), &op.loc);
        copy(from, maker.ok_or_else(lost)?, to, map, module, attrs)?;
    }
    let operands: Vec<ValueId> = op.operands.iter().map(|o| map[o]).collect();
    let mut b = match module {
        Some(m) => Builder::with_module(to, m),
        None => Builder::new(to),
    };
    b.at(&op.loc);
    let made = b.op(op.kind, &operands, attrs(&op.attrs))?;
    map.extend(op.results.iter().copied().zip(made));
    Ok(())
}

/// Attributes of an op on a stage, or a chunk, of so many layers.
fn shrink(attrs: &Attrs, layers: usize) -> Attrs {
    let (mut out, layers) = (attrs.clone(), layers as i64);
    if attrs.str("dim") == Some(LAYER) && attrs.int("count").is_some() {
        out.set("count", Attr::Int(layers));
    }
    if let (Some(dims), Some(sizes)) = (attrs.strs("dims"), attrs.ints("sizes")) {
        let size = |(d, s): (&&str, &i64)| if *d == LAYER { layers } else { *s };
        let sizes: Vec<i64> = dims.iter().zip(&sizes).map(size).collect();
        out.set("sizes", Attr::ints(&sizes));
    }
    out
}

/// What a loop over layers is: forward and backward hand a value on from layer to layer, in the order of the layers
/// and against it; what only leaves values, against it, are the gradients of weights.
fn part_of_loop(f: &Function, op: &Op) -> Result<Part, PassError> {
    let (dim, carried) = (op.attrs.str("dim").unwrap_or_default(), op.attrs.int("carried"));
    let callee = op.attrs.symbol("callee").unwrap_or_default();
    let fail = |what: String| Err(PassError::internal_at(what, &op.loc));
    if dim != LAYER {
        return fail(format!(
            "@{}: the loop of @{callee} is over `{dim}`, not over layers",
            f.name
        ));
    }
    match (carried, op.attrs.flag("reverse")) {
        (Some(1), false) => Ok(Part::Forward),
        (Some(1), true) => Ok(Part::Backward),
        (Some(0), true) => Ok(Part::Weights),
        _ => fail(format!("@{}: the loop of @{callee} is no forward or backward", f.name)),
    }
}

/// The part that each op belongs to.
fn parts(f: &Function) -> Result<Vec<Part>, PassError> {
    let mut loops: HashMap<Part, usize> = HashMap::new();
    for (i, op) in f.ops.iter().enumerate().filter(|(_, op)| op.kind == OpKind::Repeat) {
        let part = part_of_loop(f, op)?;
        let callee = |i: usize| f.ops[i].attrs.symbol("callee").unwrap_or_default();
        if let Some(other) = loops.insert(part, i) {
            let (a, b) = (callee(other), callee(i));
            let what = format!("@{}: the loops of @{a} and @{b} are both {part:?}", f.name);
            return Err(PassError::internal_at(what, &op.loc));
        }
    }
    let lost = || PassError::internal(format!("@{} has no loop over layers", f.name));
    let forward = *loops.get(&Part::Forward).ok_or_else(lost)?;
    let backward = loops.get(&Part::Backward).copied();
    let mut out = vec![Part::Head; f.ops.len()];
    let mut needed: HashSet<ValueId> = f.ops[forward].operands.iter().copied().collect();
    out[forward] = Part::Forward;
    for i in (0..forward).rev() {
        if f.ops[i].results.iter().any(|r| needed.contains(r)) {
            needed.extend(&f.ops[i].operands);
            out[i] = Part::Enter;
        }
    }
    if let Some(backward) = backward {
        out[backward] = Part::Backward;
        let mut after: HashSet<ValueId> = f.ops[backward].results.iter().copied().collect();
        for (op, part) in f.ops.iter().zip(&mut out).skip(backward + 1) {
            if op.operands.iter().any(|o| after.contains(o)) {
                after.extend(&op.results);
                *part = Part::Leave;
            }
        }
    }
    if let Some(weights) = loops.get(&Part::Weights) {
        out[*weights] = Part::Weights;
    }
    Ok(out)
}
