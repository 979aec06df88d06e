//! `partition-program`: one rank's program out of the whole one.
//!
//! ```text
//! %y = matmul(%x, %w) {contract = "ffn"}   %w divided along ffn over `tensor`
//!   ⇒  %p = matmul(%x', %w')               each rank's part of the sum
//!      %y = all_reduce(%p) {axis = "tensor", ranks = 2}
//! ```
//! Layouts start at the entries' parameters (`neox.layout`) and go through every op by its own
//! sharding rule: a dim divided on one operand is divided on all, and on the results; a dim that is
//! summed away leaves partial sums, which linear ops pass on and every other op wants whole, so that
//! a collective is put where layouts meet and no earlier: all-reduce for a sum wanted whole,
//! reduce-scatter for one wanted divided, all-gather for a divided value wanted whole. Where two ways come
//! to the same, the one is taken that takes less time (`choose`, `route`). From here on the sizes of types
//! are those of one rank's part, and all ranks run the same program.
//!
//! With sequence parallelism (Korthikanti et al. 2022) the residual stream, which layers hand on, is
//! divided along the sequence: what was an all-reduce behind a layer becomes a reduce-scatter there and
//! an all-gather in front of the next, and norms are computed once. Context parallelism divides the
//! sequence from the tokens on, over ranks of its own; attention, which needs the whole sequence, is
//! divided along the heads over the same ranks (Jacobs et al. 2023). Expert ranks divide the sequences of
//! a micro-batch.
//!
//! A loop whose slices are divided runs the rank's own iterations; what it only ever adds to
//! (accumulators that start at zero) becomes a partial sum over the axis.

mod accumulators;
mod choose;
mod convert;
mod layout;
mod loops;
mod ops;
mod route;

use std::collections::HashMap;

use neoxc_ir::op::Class;
use neoxc_ir::{
    Attr, Attrs, Builder, Dim, Function, Loc, Module, Op, OpKind, Output, Role, TensorType,
    ValueId, keys,
};

use self::layout::{Axes, Layout, ranks};
use crate::entries::{class_of, entries};
use crate::facts::Fact;
use crate::links::Links;
use crate::pass::{Degrees, Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "partition-program",
    doc: "make one rank's program, with the collectives between ranks",
    requires: &[Fact::HasTrainStep],
    ensures: &[Fact::OneRank],
    run,
};

fn run(m: &mut Module, cx: &PassCx) -> Result<PassReport, PassError> {
    m.attrs.set(keys::MESH, Attr::strs(&cx.degrees.text()));
    if cx.degrees.ranks() == 1 {
        return Ok(PassReport::default());
    }
    let mut p = Partition {
        source: m,
        out: Module { attrs: m.attrs.clone(), functions: vec![] },
        degrees: cx.degrees,
        links: Links::new(cx),
        stream: Stream {
            degrees: cx.degrees,
            batch: if cx.degrees.expert > 1 { vec!["expert".into()] } else { vec![] },
            seq: [("context", true), ("tensor", cx.sequence_parallel)]
                .into_iter()
                .filter(|(axis, wanted)| *wanted && cx.degrees.of(axis) > 1)
                .map(|(axis, _)| axis.into())
                .collect(),
        },
        known: HashMap::new(),
    };
    // Layouts of values that one program of a stage leaves for another.
    let mut slots: HashMap<(usize, String), Layout> = HashMap::new();
    for entry in &entries(p.source) {
        let Some(f) = p.source.function(entry) else { continue };
        let class = class_of(entry).1;
        let layout = |(v, a): (&ValueId, &Attrs)| {
            let slot = a.str(keys::NAME).filter(|_| Role::Slot.is(a));
            let left = slot.and_then(|n| slots.get(&(class, n.to_string()))).cloned();
            // What comes from another stage.
            let handed = slot.filter(|n| ["x", "dy"].contains(n)).is_some();
            let handed = p.stream.layout(f.ty(*v)).filter(|_| handed);
            Some(left.or(handed).unwrap_or_else(|| Layout::of_attr(f.ty(*v), a)))
        };
        let layouts = f.params.iter().zip(&f.param_attrs).map(layout).collect();
        let done = p.function(f, entry, layouts, Ends::Entry)?;
        for (what, layout) in Output::all(f).unwrap_or_default().into_iter().zip(done.results) {
            if let Output::Slot(name) = what {
                slots.insert((class, name), layout);
            }
        }
    }
    if let Some(setup) = p.source.function("setup") {
        p.out.insert(setup.clone());
    }
    let mut notes = vec![];
    for f in &p.out.functions {
        let mut counts = std::collections::BTreeMap::new();
        for op in f.ops.iter().filter(|o| o.kind.def().class() == Class::Collective) {
            *counts.entry(op.kind.name()).or_insert(0) += 1;
        }
        notes.extend(counts.iter().map(|(op, n)| format!("@{}: {n} × {op}", f.name)));
    }
    *m = p.out;
    Ok(PassReport { notes })
}

/// What the results of a function must be.
#[derive(Clone, Copy)]
enum Ends {
    /// The first so many as the parameters in the same place: a loop's body.
    Carried(usize),
    /// As `neox.results` says: state and sums as their parameter, what other stages see whole, what this stage
    /// keeps as it is. Whole on every rank where it says nothing.
    Entry,
}

/// A function after partitioning.
#[derive(Clone)]
struct Done {
    name: String,
    params: Vec<Layout>,
    results: Vec<Layout>,
}

struct Partition<'m> {
    source: &'m Module,
    out: Module,
    degrees: Degrees,
    links: Links,
    stream: Stream,
    known: HashMap<(String, Vec<Option<Layout>>), Done>,
}

/// A value of the whole program, as this rank has it.
#[derive(Clone)]
enum Val {
    /// A constant, made where it is needed in the layout that is needed.
    Constant(f64, TensorType),
    /// A value with its layout.
    Known(ValueId, Layout),
    /// A parameter whose layout its first use decides.
    Open(ValueId, usize),
    /// A view of such a parameter.
    View(Op),
}

/// One function on its way.
struct Body<'f> {
    /// The whole program's function.
    f: &'f Function,
    /// This rank's.
    g: Function,
    values: HashMap<ValueId, Val>,
    params: Vec<Option<Layout>>,
    degrees: Degrees,
    links: Links,
    stream: Stream,
    /// Layouts in which partial sums will be wanted.
    meets: HashMap<ValueId, Layout>,
    /// Conversions made already.
    converted: HashMap<(ValueId, Layout), ValueId>,
    /// The number of this rank's part where axes divide a dim, if it was asked for.
    part_of: HashMap<Axes, ValueId>,
}

impl Partition<'_> {
    fn function(
        &mut self,
        f: &Function,
        name: &str,
        layouts: Vec<Option<Layout>>,
        ends: Ends,
    ) -> Result<Done, PassError> {
        let mut b = self.begin(f, name, layouts);
        for op in &f.ops {
            self.op(&mut b, op)?;
        }
        let mut results = vec![];
        let outputs = Output::all(f).unwrap_or_default();
        for (i, r) in f.results.iter().enumerate() {
            let wanted = match ends {
                Ends::Carried(n) if i < n => {
                    // Nobody used the parameter before: it is as what is handed on.
                    let as_handed = || b.layout(*r).unwrap_or_else(|| Layout::whole(f.ty(*r)));
                    let l = b.params[i].clone().unwrap_or_else(as_handed);
                    b.settle(f.params[i], &l)?;
                    Some(l)
                }
                Ends::Carried(_) => None,
                Ends::Entry => Some(b.result_of_entry(i, outputs.get(i))),
            };
            let (v, l) = b.bring(*r, wanted.as_ref())?;
            b.g.results.push(v);
            results.push(l);
        }
        for p in &f.params {
            let whole = Layout::whole(f.ty(*p));
            b.settle(*p, &whole)?;
        }
        let params: Vec<Layout> = b.params.into_iter().flatten().collect();
        self.out.insert(b.g);
        Ok(Done { name: name.to_string(), params, results })
    }

    /// The function of this rank with its parameters, as far as their layouts are given, and no ops yet.
    fn begin<'f>(&self, f: &'f Function, name: &str, layouts: Vec<Option<Layout>>) -> Body<'f> {
        let mut g = Function::new(name);
        g.attrs = f.attrs.clone();
        let mut values = HashMap::new();
        for (i, (p, attrs)) in f.params.iter().zip(&f.param_attrs).enumerate() {
            let (ty, label) = (f.ty(*p).clone(), f.values[p.index()].name.clone());
            let local = layouts[i].as_ref().map_or(ty.clone(), |l| l.local(&ty, self.degrees));
            let v = g.add_param(label.as_deref().unwrap_or(""), local, attrs.clone());
            g.values[v.index()].name = label;
            let val = match &layouts[i] {
                Some(l) => Val::Known(v, l.clone()),
                None => Val::Open(v, i),
            };
            values.insert(*p, val);
        }
        let meets = meetings(f, &layouts);
        Body {
            f,
            g,
            values,
            params: layouts,
            degrees: self.degrees,
            links: self.links,
            stream: self.stream.clone(),
            meets,
            converted: HashMap::new(),
            part_of: HashMap::new(),
        }
    }

    /// Adds this rank's form of one op.
    fn op(&mut self, b: &mut Body<'_>, op: &Op) -> Result<(), PassError> {
        match op.kind {
            OpKind::Fill => {
                let value = op.attrs.float("value").unwrap_or(0.0);
                let ty = b.f.ty(op.results[0]).clone();
                b.values.insert(op.results[0], Val::Constant(value, ty));
            }
            OpKind::Repeat => self.repeat(b, op)?,
            // Over an axis that divides nothing: it passes on what is divided, and other sums.
            OpKind::AllReduce => {
                let (local, layout) = b.bring(op.operands[0], None)?;
                let mut builder = Builder::new(&mut b.g);
                builder.at(&op.loc);
                let made = builder.one(OpKind::AllReduce, &[local], op.attrs.clone())?;
                b.values.insert(op.results[0], Val::Known(made, layout));
            }
            OpKind::Call => {
                return Err(PassError::internal_at(format!("@{} has a call", b.g.name), &op.loc));
            }
            OpKind::Map => {
                let body = op.attrs.symbol("callee").and_then(|c| self.source.function(c));
                if let Some(body) = body {
                    self.out.insert(body.clone());
                }
                ops::step(b, op)?;
            }
            OpKind::Reshape if b.is_open(op.operands[0]) => {
                b.values.insert(op.results[0], Val::View(op.clone()));
            }
            _ => ops::step(b, op)?,
        }
        Ok(())
    }
}

impl Body<'_> {
    /// The layout of a value, where it has one.
    fn layout(&self, v: ValueId) -> Option<Layout> {
        match self.values.get(&v) {
            Some(Val::Known(_, l)) => Some(l.clone()),
            _ => None,
        }
    }

    /// The layout that result `i` of an entry, which is `what`, leaves with. A new value of a parameter or state is divided as
    /// the old one; what one stage hands to the next, as the stream; what lies in a slot, as it is, without partial sums;
    /// anything else as the attribute says, or not at all.
    fn result_of_entry(&self, i: usize, what: Option<&Output>) -> Layout {
        let (f, r) = (self.f, self.f.results[i]);
        let slot = what.and_then(|w| match w {
            Output::Slot(name) => Some(name.as_str()),
            _ => None,
        });
        let handed = slot.is_some_and(|n| ["x", "y", "dy", "dx"].contains(&n));
        let kept = self.layout(r).filter(|_| slot.is_some() && !handed);
        let given = f.attrs.strs(keys::LAYOUTS).unwrap_or_default();
        let like = what.and_then(|w| self.params[w.replaces(f)?].clone());
        like.or(kept.map(|l| Layout { partial: Default::default(), ..l }))
            .or(given.get(i).map(|text| Layout::parse(text)))
            .or(self.stream.layout(f.ty(r)).filter(|_| handed))
            .unwrap_or_else(|| Layout::whole(f.ty(r)))
    }

    /// Whether the value's layout is not decided yet.
    fn is_open(&self, v: ValueId) -> bool {
        matches!(self.values.get(&v), Some(Val::Open(..) | Val::View(_)))
    }

    /// The number of this rank's part of a dim divided over `axes`: its part of 0, 1, 2, ….
    fn part(&mut self, axes: &Axes, loc: &Loc) -> Result<ValueId, PassError> {
        if let Some(made) = self.part_of.get(axes) {
            return Ok(*made);
        }
        let number = |n: usize| Attr::Int(n as i64);
        let dim = Attrs::new().with("dim", Attr::Str("rank".into()));
        let all = dim.clone().with("size", number(ranks(axes, self.degrees)));
        let mut b = Builder::new(&mut self.g);
        b.at(loc);
        let mut part = b.one(OpKind::Iota, &[], all)?;
        for axis in axes {
            let attrs = dim.clone().with("axis", Attr::Str(axis.to_string()));
            let attrs = attrs.with("ranks", number(self.degrees.of(axis)));
            part = b.one(OpKind::TakePart, &[part], attrs)?;
        }
        self.part_of.insert(axes.clone(), part);
        Ok(part)
    }

    /// The axes that divide `dim` of a parameter of this function, if it has one with that dim.
    fn axes_of_parameter(&self, dim: &Dim) -> Axes {
        let axes = self.f.params.iter().zip(&self.params).find_map(|(p, layout)| {
            let at = self.f.ty(*p).dims.iter().position(|d| d == dim)?;
            Some(layout.as_ref()?.dims[at].clone()).filter(|axes| !axes.is_empty())
        });
        axes.unwrap_or_default()
    }

    /// Decides an open parameter's layout.
    fn settle(&mut self, v: ValueId, layout: &Layout) -> Result<(), PassError> {
        if let Some(Val::Open(local, i)) = self.values.get(&v).cloned() {
            self.g.values[local.index()].ty = layout.local(self.f.ty(v), self.degrees);
            self.params[i] = Some(layout.clone());
            self.values.insert(v, Val::Known(local, layout.clone()));
        }
        Ok(())
    }

    /// The value in the layout `wanted`, or in its own.
    fn bring(
        &mut self,
        v: ValueId,
        wanted: Option<&Layout>,
    ) -> Result<(ValueId, Layout), PassError> {
        let ty = self.f.ty(v).clone();
        let lost = || PassError::internal("a value is used before it is defined".into());
        let whole = Layout::whole(&ty);
        match self.values.get(&v).cloned().ok_or_else(lost)? {
            Val::Constant(value, ty) => {
                let layout = wanted.cloned().unwrap_or(whole);
                if !layout.partial.is_empty() && value != 0.0 {
                    return Err(PassError::internal("a constant as a partial sum".into()));
                }
                let local = layout.local(&ty, self.degrees);
                let made = Builder::new(&mut self.g).fill(value, &local)?;
                Ok((made, layout))
            }
            Val::Open(..) => {
                let layout = wanted.cloned().unwrap_or(whole);
                self.settle(v, &layout)?;
                self.bring(v, None)
            }
            Val::View(op) => {
                let layout = wanted.cloned().unwrap_or(whole);
                // Dims keep their layout, under another name where the view gives them one.
                let from = self.f.ty(op.operands[0]).clone();
                let rule = ops::rule(self.f, &op);
                let axes = |d: &Dim| layout.axes(&ty, rule.target(&d.name));
                let dims = from.dims.iter().map(axes).collect();
                let under = Layout { dims, partial: layout.partial.clone() };
                self.bring(op.operands[0], Some(&under))?;
                ops::step(self, &op)?;
                self.bring(v, Some(&layout))
            }
            Val::Known(local, have) => {
                let Some(wanted) = wanted.filter(|w| **w != have) else {
                    return Ok((local, have));
                };
                if let Some(made) = self.converted.get(&(v, wanted.clone())) {
                    return Ok((*made, wanted.clone()));
                }
                let maker = self.f.ops.iter().find(|o| o.results.contains(&v));
                let loc = maker.map(|o| o.loc.clone()).unwrap_or_default();
                let made = self.convert(local, &ty, &have, wanted, &loc)?;
                self.converted.insert((v, wanted.clone()), made);
                Ok((made, wanted.clone()))
            }
        }
    }

    /// Makes a partial sum into a value, divided as an op that follows wants it, or whole; later uses
    /// get that.
    fn reduce(&mut self, v: ValueId) -> Result<(), PassError> {
        let Some(have) = self.layout(v).filter(|l| !l.partial.is_empty()) else { return Ok(()) };
        let mut wanted = Layout { partial: Default::default(), ..have.clone() };
        let stream = self.stream.layout(self.f.ty(v));
        // Not every sum is over the ranks that divide the stream.
        let finer = |want: &Axes, now: &Axes| {
            want.starts_with(now) && want[now.len()..].iter().all(|a| have.partial.contains(a))
        };
        let stream = stream.filter(|l| l.dims.iter().zip(&have.dims).all(|(w, h)| finer(w, h)));
        if let Some(meets) = stream.as_ref().or(self.meets.get(&v)) {
            for (slot, axes) in wanted.dims.iter_mut().zip(&meets.dims) {
                if finer(axes, slot) {
                    slot.clone_from(axes);
                }
            }
        }
        let (local, layout) = self.bring(v, Some(&wanted))?;
        self.values.insert(v, Val::Known(local, layout));
        Ok(())
    }
}

/// The axes that divide the residual stream, which layers hand on.
#[derive(Clone)]
struct Stream {
    degrees: Degrees,
    batch: Axes,
    seq: Axes,
}

impl Stream {
    /// The layout of a value of the stream's dims, if it is divided.
    fn layout(&self, ty: &TensorType) -> Option<Layout> {
        let names: Vec<&str> = ty.dims.iter().map(|d| &*d.name).collect();
        if names != ["batch", "seq", "embed"] {
            return None;
        }
        let mut layout = Layout::whole(ty);
        for (i, axes) in [&self.batch, &self.seq].into_iter().enumerate() {
            if ty.dims[i].size.is_multiple_of(ranks(axes, self.degrees)) {
                layout.dims[i].clone_from(axes);
            }
        }
        layout.is_divided().then_some(layout)
    }
}

/// Values that an element-wise op takes together with a parameter that is divided: the layout that
/// they will be wanted in.
fn meetings(f: &Function, layouts: &[Option<Layout>]) -> HashMap<ValueId, Layout> {
    let mut out = HashMap::new();
    let parameter = |v: &ValueId| f.params.iter().position(|p| p == v);
    for op in f.ops.iter().filter(|op| op.operands.len() > 1) {
        // Of several, the one that is divided most: ZeRO divides moments over more axes than weights.
        let count = |l: &Layout| l.dims.iter().flatten().count();
        let all = op.operands.iter().filter_map(|o| {
            let layout = layouts[parameter(o)?].as_ref()?;
            layout.is_divided().then(|| (*o, layout.clone()))
        });
        let divided = all.reduce(|a, b| if count(&b.1) > count(&a.1) { b } else { a });
        let Some((with, layout)) = divided else { continue };
        for o in op.operands.iter().filter(|o| f.ty(**o).dims == f.ty(with).dims) {
            let slot = out.entry(*o).or_insert_with(|| layout.clone());
            if count(&layout) > count(slot) {
                *slot = layout.clone();
            }
        }
    }
    out
}
