//! `keep-weights`: weights that every step and every token would round are rounded once, where they change.
//!
//! ```text
//! @train_step(%w): %h = cast(%w) {bf16}; …; %n, … = map(%w, …); return %n, …
//!   ⇒  @train_step(%w, %h {neox.role = "rounded"}): …; %n, … = map(%w, …); return %n, …, cast(%n) {bf16}
//!      @round_weights(%w): return cast(%w) {bf16}
//! @decode(%w): %h = cast(%w) {bf16}; …   ⇒   @decode(%w, %h {neox.role = "rounded"}): …
//! ```
//! The copies lie at the start of the arena, in the same place for all entries, and stay from one run to the next. The
//! update stores them beside the weights, in its own sweep; `@round_weights` is run where weights have come from
//! elsewhere: start values, a checkpoint. Nothing else knows of them, and what they take of memory is the plan's.
//!
//! A weight of which each data rank updates a part is whole only after a collective, and is rounded in every run as before.

use neoxc_ir::role::{is_frozen, name_of};
use neoxc_ir::{
    Attrs, Builder, DType, Function, Module, Op, OpKind, Output, Role, TensorType, ValueId,
};

use crate::entries::{DECODE, EVAL_STEP, LOGITS, ROUND_WEIGHTS, TRAIN_STEP};
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "keep-weights",
    doc: "round weights where they change, not where they are read",
    requires: &[],
    ensures: &[],
    run,
};

/// The entry that makes the rounded weights.
pub const MAKER: &str = ROUND_WEIGHTS;

/// The entry that changes weights.
pub const UPDATE: &str = TRAIN_STEP;

/// The entries that read them, all of which have all rounded weights as their last parameters.
const READERS: [&str; 4] = [UPDATE, EVAL_STEP, LOGITS, DECODE];

/// A weight that has a rounded copy.
struct Weight {
    /// Which of the weights it is.
    at: usize,
    /// What the weight is called.
    name: String,
    /// What the copy is.
    ty: TensorType,
    /// The op that makes one.
    cast: Op,
}

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    // A pipeline's stages have no step of their own.
    let Some(update) = m.function(UPDATE).cloned() else { return Ok(PassReport::default()) };
    let readers: Vec<Function> = READERS.iter().filter_map(|n| m.function(n).cloned()).collect();
    // Of a weight that is not trained, and of one whose update makes all of it.
    let whole = |(w, attrs): &(ValueId, &Attrs)| {
        let new = result(&update, name_of(attrs)).map(|at| update.results[at]);
        let maker = update.ops.iter().find(|op| op.results.first() == new.as_ref());
        is_frozen(attrs) || maker.is_some_and(|op| op.kind == OpKind::Map && op.operands[0] == *w)
    };
    let kept: Vec<Weight> = Role::Parameter
        .all(&update)
        .enumerate()
        .filter(|(_, one)| whole(one))
        .filter_map(|(at, (_, attrs))| {
            let (f, cast) = readers.iter().find_map(|f| Some((f, rounding(f, at)?)))?;
            let (name, ty) = (name_of(attrs).to_string(), f.ty(cast.results[0]).clone());
            Some(Weight { at, name, ty, cast: cast.clone() })
        })
        .collect();
    if kept.is_empty() {
        return Ok(PassReport::default());
    }
    for mut f in readers {
        read(&mut f, &kept);
        if f.name == UPDATE {
            keep_up(&mut f, &kept)?;
        }
        f.renumber();
        m.insert(f);
    }
    m.insert(maker(&update, &kept)?);
    let note = format!("{} weights are rounded where they change", kept.len());
    Ok(PassReport { notes: vec![note] })
}

/// The weights among an entry's parameters, which all entries have in the same order.
fn weights(f: &Function) -> Vec<ValueId> {
    Role::Parameter.all(f).map(|(p, _)| p).collect()
}

/// Which of the update's results are the new weights called `name`.
fn result(update: &Function, name: &str) -> Option<usize> {
    let new = Output::Parameter(name.to_string());
    Output::all(update)?.iter().position(|r| *r == new)
}

/// The op that rounds weight number `at` in `f`.
fn rounding(f: &Function, at: usize) -> Option<&Op> {
    let w = *weights(f).get(at)?;
    let rounds = |op: &&Op| op.kind == OpKind::Cast && op.operands == [w];
    f.ops.iter().filter(rounds).find(|op| f.ty(op.results[0]).dtype != DType::F32)
}

/// Makes `f` take the rounded weights instead of rounding them.
fn read(f: &mut Function, kept: &[Weight]) {
    for w in kept {
        let made = rounding(f, w.at).map(|op| op.results[0]);
        let v = made.unwrap_or_else(|| f.add_value(w.ty.clone()));
        f.ops.retain(|op| !op.results.contains(&v));
        f.params.push(v);
        f.param_attrs.push(Role::Rounded.attrs(&w.name));
    }
}

/// Makes the step `f` hand on the rounded weights that it changes as well.
fn keep_up(f: &mut Function, kept: &[Weight]) -> Result<(), PassError> {
    let mut results = Output::all(f).unwrap_or_default();
    for w in kept {
        let new = Output::Parameter(w.name.clone());
        let Some(at) = results.iter().position(|r| *r == new) else { continue };
        let v = f.results[at];
        let rounded = Builder::new(f).at(&w.cast.loc).cast(v, w.ty.dtype)?;
        f.results.push(rounded);
        results.push(Output::Rounded(w.name.clone()));
    }
    Output::set(f, &results);
    Ok(())
}

/// `@round_weights`, with all weights, so that each lies where the other entries have it.
fn maker(update: &Function, kept: &[Weight]) -> Result<Function, PassError> {
    let mut f = Function::new(MAKER);
    let mut params = vec![];
    for (p, attrs) in Role::Parameter.all(update) {
        let name = update.values[p.index()].name.clone().unwrap_or_default();
        params.push(f.add_param(&name, update.ty(p).clone(), attrs.clone()));
    }
    for w in kept {
        let mut b = Builder::new(&mut f);
        let v = b.at(&w.cast.loc).cast(params[w.at], w.ty.dtype)?;
        f.results.push(v);
    }
    let results: Vec<Output> = kept.iter().map(|w| Output::Rounded(w.name.clone())).collect();
    Output::set(&mut f, &results);
    Ok(f)
}
