//! `place-memory`: an address for every value.
//!
//! ```text
//! %3 = call @matmul_1(…)   ⇒   %3 = call @matmul_1(…) {neox.place = ["arena+4096+layer*65536"]}
//! ```
//! The program is walked in its order, loops once; a value lives from where it is made to its last
//! use, and one that lives into a loop lives to the loop's end. Lives that do not overlap share
//! bytes. Carried values, accumulators and stacked results are made in their final place; where that
//! would overwrite something still needed, a copy is inserted instead. What a collective sends lives until it is
//! waited for, and so does what it makes.
//!
//! Invariant (checked by `check`): no read sees bytes of another value, nothing touches the bytes of a collective under
//! way, and a step's gradients are still there at its end.

mod check;
mod intervals;
mod shared;
mod walk;

pub use check::check;
use neoxc_ir::role::{name_of, state_segment};
use neoxc_ir::{Attr, Attrs, Function, Module, Output, Role, keys};

use self::shared::Shared;
use crate::entries::{class_of, entries};
use crate::facts::Fact;
use crate::keep_weights;
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "place-memory",
    doc: "give every value a fixed address",
    requires: &[Fact::OneCallSite, Fact::InKernels, Fact::WaitedFor],
    ensures: &[Fact::Placed],
    run,
};

/// Alignment of every buffer, bytes: a cache line, and a full vector.
pub const ALIGN: u64 = 64;

/// The segment of gradients. Where a step is one program, it is a part of the arena that begins at the module's
/// `neox.grads`.
pub const GRADS: &str = "grads";

/// An address: segment, byte offset, and a stride per enclosing loop (by the loop's dim).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Segment name.
    pub segment: String,
    /// Bytes.
    pub offset: u64,
    /// (loop dim, bytes per iteration), outermost first; `layer.next` stands for the next iteration of `layer`.
    pub strides: Vec<(String, u64)>,
}

impl Place {
    /// The place of slice `dim` of this stacked place.
    #[must_use]
    pub fn slice(&self, dim: &str, stride: u64) -> Place {
        let mut p = self.clone();
        p.strides.push((dim.to_string(), stride));
        p
    }

    /// Reads `segment+offset+dim*stride…`.
    pub fn parse(text: &str) -> Option<Place> {
        let mut parts = text.split('+');
        let segment = parts.next()?.to_string();
        let offset = parts.next()?.parse().ok()?;
        let strides = parts
            .map(|p| {
                let (dim, stride) = p.split_once('*')?;
                Some((dim.to_string(), stride.parse().ok()?))
            })
            .collect::<Option<_>>()?;
        Some(Place { segment, offset, strides })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.segment, self.offset)?;
        for (dim, stride) in &self.strides {
            write!(f, "+{dim}*{stride}")?;
        }
        Ok(())
    }
}

/// What a place calls the number of the next iteration of the loop over `dim`.
fn next_of(dim: &str) -> String {
    format!("{dim}.next")
}

/// Rounds up to the alignment.
pub fn aligned(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGN) * ALIGN
}

/// Where an entry that has `places` for its parameters has what `result` becomes: the weights, the state or the
/// rounded weights that it is the new value of.
fn place_of(f: &Function, places: &[Place], result: &Output) -> Option<Place> {
    let at = match result {
        Output::Rounded(name) => {
            f.param_attrs.iter().position(|a| Role::Rounded.is(a) && name_of(a) == name)
        }
        other => other.replaces(f),
    };
    places.get(at?).cloned()
}

/// Fixed places of an entry's parameters, by role.
fn entry_places(f: &Function) -> Result<Vec<Place>, PassError> {
    let mut next = std::collections::BTreeMap::<String, u64>::new();
    let mut out = vec![];
    // Rounded weights lie first, so that all entries have them in the same place.
    let rounded = Role::Rounded.all(f);
    next.insert("arena".into(), rounded.map(|(p, _)| aligned(f.ty(p).bytes() as u64)).sum());
    for (p, attrs) in f.params.iter().zip(&f.param_attrs) {
        let segment = match Role::of(attrs) {
            Some(Role::Parameter) => "params".to_string(),
            Some(Role::State) => state_segment(attrs.str(keys::SLOT).unwrap_or_default()),
            Some(Role::Batch | Role::Layers | Role::Scalar) => "io".into(),
            Some(Role::Const) => "consts".into(),
            Some(Role::Rounded) => "rounded".into(),
            // Stays from one run to the next, where training has its activations.
            Some(Role::Cache) => "arena".into(),
            _ => {
                return Err(PassError::internal(format!("@{}: a parameter has no role", f.name)));
            }
        };
        let at = next.entry(segment.clone()).or_default();
        let segment = if segment == "rounded" { "arena".into() } else { segment };
        out.push(Place { segment, offset: *at, strides: vec![] });
        *at += aligned(f.ty(*p).bytes() as u64);
    }
    Ok(out)
}

/// Bytes of a segment that an entry's parameters take; what else is in it comes behind them.
fn taken(segment: &str, f: &Function, places: &[Place]) -> u64 {
    f.params
        .iter()
        .zip(places)
        .filter(|(_, p)| p.segment == segment)
        .map(|(v, p)| p.offset + aligned(f.ty(*v).bytes() as u64))
        .max()
        .unwrap_or(0)
}

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let report = place(m)?;
    verify(m)?;
    Ok(report)
}

/// Checks the places of every entry, whoever has written them.
///
/// # Errors
/// If a value has no place, or a read would see another value's bytes.
pub fn verify(m: &Module) -> Result<(), PassError> {
    Fact::Placed.check(m).map_err(|found| PassError::Requires { fact: Fact::Placed, found })?;
    entries(m).iter().try_for_each(|entry| check(m, entry))
}

/// Bytes of the arena that `m` takes as it is, and of the slots of the stage that has most.
pub fn arena(m: &Module) -> Result<(u64, u64), PassError> {
    let mut placed = m.clone();
    place(&mut placed)?;
    let classes = m.attrs.strs(keys::CLASSES).map_or(0, |c| c.len());
    let slot = (0..classes).map(|class| Shared::of(m, class).slot_bytes()).max().unwrap_or(0);
    let chunks = m.attrs.int(keys::CHUNKS).unwrap_or(1).max(1) as usize;
    let slots = m.attrs.ints(keys::SLOTS).unwrap_or_default();
    let slots = slots.chunks(chunks).map(|n| n.iter().sum::<i64>()).max().unwrap_or(0);
    let arena = placed.attrs.int(keys::ARENA).unwrap_or(0).max(0) as u64;
    Ok((arena, slot * slots.max(0) as u64))
}

fn place(m: &mut Module) -> Result<PassReport, PassError> {
    let mut report = PassReport::default();
    let (mut arena, mut saved) = (0, 0);
    // By class of stages.
    let mut shared: Vec<Shared> = vec![];
    let mut arenas: Vec<i64> = vec![];
    if let Some(classes) = m.attrs.strs(keys::CLASSES) {
        shared = (0..classes.len()).map(|class| Shared::of(m, class)).collect();
        arenas = vec![0; classes.len()];
    }
    for entry in &entries(m) {
        let Some(f) = m.function(entry).cloned() else { continue };
        let class = class_of(entry).1;
        if let Some(shared) = shared.get(class) {
            let placed = walk::place(m, entry, shared.params(&f)?, shared.results(&f)?, 0)?;
            report.notes.push(format!("@{entry}: arena {} bytes", placed.arena));
            arena = arena.max(placed.arena);
            arenas[class] = arenas[class].max(placed.arena as i64);
            continue;
        }
        let params = entry_places(&f)?;
        let mut out_at = taken("io", &f, &params);
        let mut kept = taken("arena", &f, &params);
        // Rounded weights are made where they are read.
        let maker = m.function(keep_weights::UPDATE).filter(|_| *entry == keep_weights::MAKER);
        let reader = maker.unwrap_or(&f);
        let places = if maker.is_some() { entry_places(reader)? } else { params.clone() };
        if maker.is_some() {
            kept = taken("arena", reader, &places);
        }
        let what = Output::all(&f).unwrap_or_default();
        let mut targets: Vec<Place> = vec![];
        for (n, r) in f.results.iter().enumerate() {
            let known = what.get(n).and_then(|what| place_of(reader, &places, what));
            targets.push(known.unwrap_or_else(|| {
                let at = out_at;
                out_at += aligned(f.ty(*r).bytes() as u64);
                Place { segment: "io".into(), offset: at, strides: vec![] }
            }));
        }
        let placed = walk::place(m, entry, params, targets, kept)?;
        report.notes.push(format!(
            "@{entry}: arena {} bytes, {} saved for backward",
            placed.arena, placed.saved
        ));
        arena = arena.max(placed.arena);
        saved = saved.max(placed.saved);
        if *entry == keep_weights::UPDATE {
            m.attrs.set(keys::GRADS, Attr::Int(kept as i64));
        }
    }
    m.attrs.set(keys::ARENA, Attr::Int(arena as i64));
    if !arenas.is_empty() {
        m.attrs.set(keys::ARENAS, Attr::ints(&arenas));
    }
    m.attrs.set(keys::SAVED, Attr::Int(saved as i64));
    Ok(report)
}

/// Records a value's place on the op or parameter that makes it.
fn note(attrs: &mut Attrs, places: &[Place]) {
    let text: Vec<String> = places.iter().map(Place::to_string).collect();
    attrs.set(keys::PLACE, Attr::strs(&text));
}
