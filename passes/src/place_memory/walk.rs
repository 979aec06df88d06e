//! The walk that decides which values share a buffer, and when each buffer lives.

use std::collections::HashMap;

use neoxc_ir::op::Class;
use neoxc_ir::ops::repeat::totals;
use neoxc_ir::{Attr, Attrs, DType, Function, Module, Op, OpKind, ValueId, keys};

use super::intervals::{Buffer, assign};
use super::{GRADS, Place, aligned, next_of, note};
use crate::pass::PassError;

/// What placing an entry gave.
pub struct Placed {
    /// Bytes of the arena.
    pub arena: u64,
    /// Bytes of it that hold values saved for the backward pass.
    pub saved: u64,
}

/// A place during the walk: arena buffers have no offset yet.
#[derive(Debug, Clone, PartialEq)]
enum Spot {
    Fixed(Place),
    Buffer { id: usize, offset: u64, strides: Vec<(String, u64)> },
}

impl Spot {
    /// Slices of so many bytes along `dim`, from slice `first` on.
    fn slice(&self, dim: &str, stride: u64, first: u64) -> Spot {
        let mut spot = self.clone();
        let (offset, strides) = match &mut spot {
            Spot::Fixed(p) => (&mut p.offset, &mut p.strides),
            Spot::Buffer { offset, strides, .. } => (offset, strides),
        };
        *offset += first * stride;
        strides.push((dim.to_string(), stride));
        spot
    }
}

struct Walk<'m> {
    module: &'m mut Module,
    buffers: Vec<Buffer>,
    saved: Vec<usize>,
    now: usize,
    /// Buffers of gradients.
    grads: Vec<usize>,
    /// Spots of parameters and of each op's results, per function, written out at the end.
    spots: Vec<(String, Vec<Spot>, Vec<Vec<Spot>>)>,
}

/// Places everything reachable from `entry`; the first `kept` bytes of the arena are taken.
pub fn place(
    m: &mut Module,
    entry: &str,
    params: Vec<Place>,
    targets: Vec<Place>,
    kept: u64,
) -> Result<Placed, PassError> {
    let mut w =
        Walk { module: m, buffers: vec![], saved: vec![], now: 0, grads: vec![], spots: vec![] };
    let params = params.into_iter().map(Spot::Fixed).collect();
    let targets = targets.into_iter().map(|p| Some(Spot::Fixed(p))).collect();
    w.function(entry, params, targets)?;
    w.pin_gradients();
    let (offsets, arena) = assign(&w.buffers);
    let saved = w.saved.iter().map(|b| w.buffers[*b].size).sum();
    let resolve = |s: &Spot| match s {
        Spot::Fixed(p) => p.clone(),
        Spot::Buffer { id, offset, strides } => {
            let (segment, before) = match w.buffers[*id].pinned {
                Some(_) => (GRADS, 0),
                None => ("arena", kept),
            };
            let offset = before + offsets[*id] + offset;
            Place { segment: segment.into(), offset, strides: strides.clone() }
        }
    };
    for (name, params, results) in &w.spots {
        let Some(f) = w.module.function_mut(name) else { continue };
        for (attrs, s) in f.param_attrs.iter_mut().zip(params) {
            note(attrs, &[resolve(s)]);
        }
        for (op, s) in f.ops.iter_mut().zip(results) {
            note(&mut op.attrs, &s.iter().map(resolve).collect::<Vec<_>>());
        }
        f.renumber();
    }
    Ok(Placed { arena: kept + arena, saved })
}

impl Walk<'_> {
    fn new_buffer(&mut self, bytes: usize) -> Spot {
        let (size, now) = (aligned(bytes.max(1) as u64), self.now);
        self.add(Buffer { size, first: now, last: now, pinned: None })
    }

    fn add(&mut self, b: Buffer) -> Spot {
        self.buffers.push(b);
        Spot::Buffer { id: self.buffers.len() - 1, offset: 0, strides: vec![] }
    }

    fn touch(&mut self, spot: &Spot) {
        if let Spot::Buffer { id, .. } = spot {
            let b = &mut self.buffers[*id];
            (b.first, b.last) = (b.first.min(self.now), b.last.max(self.now));
        }
    }

    /// Whether a spot is a whole buffer of the arena, which may become another value's.
    fn is_free(&self, spot: &Spot) -> bool {
        match spot {
            Spot::Buffer { id, strides, .. } => strides.is_empty() && !self.grads.contains(id),
            Spot::Fixed(_) => false,
        }
    }

    /// Walks one function; its results end up at `targets` where given.
    fn function(
        &mut self,
        name: &str,
        params: Vec<Spot>,
        targets: Vec<Option<Spot>>,
    ) -> Result<Vec<Spot>, PassError> {
        let mut f = self
            .module
            .function(name)
            .cloned()
            .ok_or_else(|| PassError::internal(format!("there is no @{name}")))?;
        let mut wanted = self.settle_results(&mut f, &params, &targets)?;
        let mut at: HashMap<ValueId, Spot> = HashMap::new();
        for (p, s) in f.params.iter().zip(&params) {
            at.insert(*p, s.clone());
        }
        let mut results: Vec<Vec<Spot>> = vec![];
        let mut i = 0;
        while i < f.ops.len() {
            if f.ops[i].kind == OpKind::Repeat {
                self.settle_carried(&mut f, i, &at, &mut wanted, &targets)?;
            }
            self.now += 1;
            let op = f.ops[i].clone();
            let operands: Vec<Spot> = op.operands.iter().map(|o| at[o].clone()).collect();
            operands.iter().for_each(|s| self.touch(s));
            for sent in Self::sent(&f, &op) {
                // Its bytes were on their way until now.
                self.touch(&at[&sent].clone());
            }
            let spots = match op.kind.def().class() {
                Class::View => vec![operands[0].clone()],
                Class::Call if op.kind == OpKind::Repeat => {
                    self.repeat(&f, i, &op, &operands, &wanted)?
                }
                _ => self.kernel(&f, i, &op, &operands, &wanted)?,
            };
            spots.iter().for_each(|s| self.touch(s));
            for (r, s) in op.results.iter().zip(&spots) {
                at.insert(*r, s.clone());
            }
            results.push(spots);
            i += 1;
        }
        self.now += 1;
        let out: Vec<Spot> = f.results.iter().map(|r| at[r].clone()).collect();
        out.iter().for_each(|s| self.touch(s));
        for (s, t) in out.iter().zip(&targets) {
            if t.as_ref().is_some_and(|t| t != s) {
                return Err(PassError::internal(format!("@{name}: a result missed its place")));
            }
        }
        self.spots.push((name.to_string(), params, results));
        *self.module.function_mut(name).ok_or_else(|| PassError::internal("lost".into()))? = f;
        Ok(out)
    }

    /// What the collective sends that `op` waits for, if it waits for one. Collectives of a loop's iterations
    /// send what the iterations give back.
    fn sent(f: &Function, op: &Op) -> Vec<ValueId> {
        Self::sent_by(&|v| f.ops.iter().find(|o| o.results.contains(&v)), op)
    }

    /// The same, where `maker` finds the op that makes a value.
    fn sent_by<'f>(maker: &dyn Fn(ValueId) -> Option<&'f Op>, op: &Op) -> Vec<ValueId> {
        let waited = op.operands.first().filter(|_| op.kind == OpKind::Wait);
        match waited.and_then(|v| maker(*v)) {
            Some(o) if o.kind == OpKind::Repeat => {
                o.results[o.attrs.int("carried").unwrap_or(0) as usize..].to_vec()
            }
            Some(o) => vec![o.operands[0]],
            None => vec![],
        }
    }

    /// Whether an op behind `i` needs the buffer of `root`: reads it, or waits for a collective that does,
    /// unless that is `i` itself.
    fn used_behind(f: &Function, root: ValueId, i: usize) -> bool {
        // Searching the function for each operand would take the cube of its length.
        let made = f.definitions();
        let maker = |v: ValueId| made[v.index()].map(|n| &f.ops[n]);
        f.ops[i + 1..].iter().any(|o| {
            let mut sent = Self::sent_by(&maker, o);
            sent.retain(|_| !f.ops[i].results.contains(&o.operands[0]));
            o.operands.iter().chain(&sent).any(|v| Self::root_by(&maker, *v) == root)
        })
    }

    /// The value behind views.
    fn root(f: &Function, v: ValueId) -> ValueId {
        Self::root_by(&|v| f.ops.iter().find(|op| op.results.contains(&v)), v)
    }

    /// The same, where `maker` finds the op that makes a value.
    fn root_by<'f>(maker: &dyn Fn(ValueId) -> Option<&'f Op>, mut v: ValueId) -> ValueId {
        while let Some(op) = maker(v) {
            if op.kind.def().class() != Class::View {
                break;
            }
            v = op.operands[0];
        }
        v
    }

    /// Decides which value is made at which target; inserts copies where a result cannot be.
    fn settle_results(
        &mut self,
        f: &mut Function,
        params: &[Spot],
        targets: &[Option<Spot>],
    ) -> Result<HashMap<ValueId, Spot>, PassError> {
        let mut wanted: HashMap<ValueId, Spot> = HashMap::new();
        // Parameters that are returned first: their copies come before anything overwrites them.
        let from_param = |f: &Function, n: usize| f.params.contains(&Self::root(f, f.results[n]));
        let (early, late): (Vec<usize>, Vec<usize>) =
            (0..targets.len()).partition(|n| from_param(f, *n));
        for n in early.into_iter().chain(late) {
            let Some(target) = &targets[n] else { continue };
            let result = f.results[n];
            let root = Self::root(f, result);
            let is_param = f.params.contains(&root);
            let already = is_param
                && f.params.iter().position(|p| *p == root).map(|i| &params[i]) == Some(target);
            if already {
                continue;
            }
            if !is_param
                && !wanted.contains_key(&root)
                && Self::may_take(f, root, params, target, self.module)
            {
                wanted.insert(root, target.clone());
                self.settle_summed(f, root, params, target, &mut wanted);
                continue;
            }
            let at = if f.params.contains(&result) { 0 } else { f.ops.len() };
            let copy = self.copy_of(f, result, at)?;
            f.results[n] = copy;
            wanted.insert(copy, target.clone());
        }
        Ok(wanted)
    }

    /// What is summed over ranks at `target` is made there as well, if it can be: it then needs no bytes
    /// of its own, and those it has are not some later value's while the sum is on its way.
    fn settle_summed(
        &self,
        f: &Function,
        mut sum: ValueId,
        params: &[Spot],
        target: &Spot,
        wanted: &mut HashMap<ValueId, Spot>,
    ) {
        let maker = |v: ValueId| f.ops.iter().find(|op| op.results.contains(&v));
        while let Some(op) = maker(sum).filter(|op| op.kind == OpKind::AllReduce) {
            sum = Self::root(f, op.operands[0]);
            let is = |v: &ValueId| Self::root(f, *v) == sum;
            let computes = f.ops.iter().filter(|o| o.kind.def().class() != Class::View);
            let uses = computes.flat_map(|o| &o.operands).chain(&f.results).filter(|v| is(v));
            if uses.count() != 1
                || wanted.contains_key(&sum)
                || !Self::may_take(f, sum, params, target, self.module)
            {
                return;
            }
            wanted.insert(sum, target.clone());
        }
    }

    /// Whether `v` may be made at `target`: every parameter that lives there has been read for the
    /// last time, or the op that makes `v` may overwrite it.
    fn may_take(f: &Function, v: ValueId, params: &[Spot], target: &Spot, m: &Module) -> bool {
        let Some(i) = f.ops.iter().position(|op| op.results.contains(&v)) else { return false };
        let op = &f.ops[i];
        let made = f.definitions();
        let maker = |v: ValueId| made[v.index()].map(|n| &f.ops[n]);
        for (p, s) in f.params.iter().zip(params) {
            if s != target {
                continue;
            }
            let uses_it = |v: &ValueId| Self::root_by(&maker, *v) == *p;
            if Self::used_behind(f, *p, i) || f.results.iter().any(uses_it) {
                return false;
            }
            let here: Vec<usize> =
                (0..op.operands.len()).filter(|n| uses_it(&op.operands[*n])).collect();
            let result = op.results.iter().position(|r| *r == v).unwrap_or(0);
            let fine = match here[..] {
                [] => true,
                [n] => Self::in_place(m, op, result, n),
                _ => false,
            };
            if !fine {
                return false;
            }
        }
        true
    }

    /// Whether `op` may write `result` over `operand`.
    fn in_place(m: &Module, op: &Op, result: usize, operand: usize) -> bool {
        if op.kind == OpKind::Repeat {
            // The body sees to it, copying where it must; slices must correspond.
            let at = |name: &str| op.attrs.int(name).unwrap_or(0) as usize;
            let (carried, sliced) = (at("carried"), at("sliced"));
            let stacked = result >= carried && (carried..carried + sliced).contains(&operand);
            return stacked || (result < carried && operand == result);
        }
        if op.kind.def().class() == Class::Collective {
            // Every rank sums a stretch of its own; the others read what is elsewhere.
            return op.kind == OpKind::AllReduce;
        }
        let Some(callee) = op.attrs.symbol("callee").and_then(|c| m.function(c)) else {
            return false;
        };
        let pairs = callee.attrs.ints(keys::INPLACE).unwrap_or_default();
        pairs.chunks(2).any(|p| p == [result as i64, operand as i64])
    }

    /// Inserts a copy of `v` as op `at` and returns it.
    fn copy_of(&mut self, f: &mut Function, v: ValueId, at: usize) -> Result<ValueId, PassError> {
        let ty = f.ty(v).clone();
        let name = format!(
            "copy_{}{}x{}",
            if ty.dtype == DType::F32 { String::new() } else { format!("{}_", ty.dtype.name()) },
            ty.elements(),
            ty.dims.iter().map(|d| format!("{}{}", d.name, d.size)).collect::<Vec<_>>().join("_")
        );
        if self.module.function(&name).is_none() {
            let mut k = Function::new(&name);
            let p = k.add_param("p0", ty.clone(), Attrs::new());
            k.results = vec![p];
            k.attrs.set(keys::KERNEL, Attr::Str("rowwise".into()));
            self.module.functions.insert(0, k);
        }
        let out = f.add_value(ty);
        let loc = f.ops.iter().find(|o| o.results.contains(&v)).map(|o| o.loc.clone());
        let copy = Op {
            kind: OpKind::Call,
            operands: vec![v],
            results: vec![out],
            attrs: Attrs::new().with("callee", Attr::Symbol(name)),
            loc: loc.unwrap_or_default(),
        };
        f.ops.insert(at, copy);
        Ok(out)
    }

    /// Whether nothing after op `i` reads any value that shares `v`'s buffer.
    fn dies(f: &Function, v: ValueId, i: usize) -> bool {
        let made = f.definitions();
        let maker = |v: ValueId| made[v.index()].map(|n| &f.ops[n]);
        let root = Self::root_by(&maker, v);
        !f.params.contains(&root)
            && !f.results.iter().any(|r| Self::root_by(&maker, *r) == root)
            && !Self::used_behind(f, root, i)
    }

    fn kernel(
        &mut self,
        f: &Function,
        i: usize,
        op: &Op,
        operands: &[Spot],
        wanted: &HashMap<ValueId, Spot>,
    ) -> Result<Vec<Spot>, PassError> {
        let mut taken: Vec<usize> = vec![];
        let mut out = vec![];
        for (n, r) in op.results.iter().enumerate() {
            if let Some(s) = wanted.get(r) {
                out.push(s.clone());
                continue;
            }
            if let Some(s) = self.gradient_spot(f, *r) {
                out.push(s);
                continue;
            }
            // Over an operand that nobody needs any more, if the kernel can.
            let reuse = (0..op.operands.len()).find(|o| {
                let alone = op
                    .operands
                    .iter()
                    .filter(|x| Self::root(f, **x) == Self::root(f, op.operands[*o]))
                    .count()
                    == 1;
                alone
                    && self.is_free(&operands[*o])
                    && !taken.contains(o)
                    && Self::in_place(self.module, op, n, *o)
                    && Self::dies(f, op.operands[*o], i)
                    && f.ty(op.operands[*o]).bytes() == f.ty(*r).bytes()
            });
            match reuse {
                Some(o) => {
                    taken.push(o);
                    out.push(operands[o].clone());
                }
                None => out.push(self.new_buffer(f.ty(*r).bytes())),
            }
        }
        Ok(out)
    }

    /// Gives gradients, which live to the end, the first bytes. What is written last comes last, next to what else there
    /// is: until then, that has a place without gaps.
    fn pin_gradients(&mut self) {
        let mut at = 0;
        self.grads.sort_by_key(|id| (self.buffers[*id].first, *id));
        for id in &self.grads {
            let b = &mut self.buffers[*id];
            // Whoever asks what went wrong in a step finds them.
            (b.first, b.last, b.pinned) = (b.first.min(self.now), self.now, Some(at));
            at += b.size;
        }
    }

    /// Gradients of the whole step have a segment of their own, so that the runtime can name them. It is a part of
    /// the arena: what is not needed any more when a gradient is first written may have its bytes before.
    fn gradient_spot(&mut self, f: &Function, v: ValueId) -> Option<Spot> {
        f.ops.iter().find(|o| {
            let carried = o.attrs.int("carried").unwrap_or(0) as usize;
            let micro = o.kind == OpKind::Repeat && o.attrs.str("dim") == Some("micro");
            micro
                && (o.operands[..carried].contains(&v)
                    || totals(o).into_iter().any(|n| n >= carried && o.results[n] == v))
        })?;
        self.grads.push(self.buffers.len());
        let size = aligned(f.ty(v).bytes() as u64);
        Some(self.add(Buffer { size, first: usize::MAX, last: 0, pinned: None }))
    }

    /// Puts a copy in front of the loop at `i` for each carried value that it may not overwrite.
    fn settle_carried(
        &mut self,
        f: &mut Function,
        i: usize,
        at: &HashMap<ValueId, Spot>,
        wanted: &mut HashMap<ValueId, Spot>,
        targets: &[Option<Spot>],
    ) -> Result<(), PassError> {
        let carried = f.ops[i].attrs.int("carried").unwrap_or(0) as usize;
        for n in 0..carried {
            // A copy already made stands at `i`; the loop moves on behind it.
            let here = (i..f.ops.len()).find(|k| f.ops[*k].kind == OpKind::Repeat).unwrap_or(i);
            let op = f.ops[here].clone();
            let v = op.operands[n];
            let target = wanted.get(&op.results[n]).cloned();
            // A value made by a copy in front of this loop is nobody else's.
            let Some(place) = at.get(&v) else { continue };
            // A parameter whose place some result takes over is this function's to overwrite.
            let given = f.params.contains(&v) && targets.iter().flatten().any(|t| t == place);
            let unused = !f.results.contains(&v) && !Self::used_behind(f, v, here);
            let free = (Self::dies(f, v, here) || given && unused)
                && op.operands.iter().filter(|x| **x == v).count() == 1;
            let fits = match &target {
                Some(t) => t == place,
                None => free,
            };
            if fits {
                continue;
            }
            let copy = self.copy_of(f, v, here)?;
            if let Some(t) = target {
                wanted.insert(copy, t);
            }
            f.ops[here + 1].operands[n] = copy;
        }
        Ok(())
    }

    fn repeat(
        &mut self,
        f: &Function,
        i: usize,
        op: &Op,
        operands: &[Spot],
        wanted: &HashMap<ValueId, Spot>,
    ) -> Result<Vec<Spot>, PassError> {
        let at = |name: &str| op.attrs.int(name).unwrap_or(0) as usize;
        let (carried, sliced, count) = (at("carried"), at("sliced"), at("count"));
        let dim = op.attrs.str("dim").unwrap_or_default().to_string();
        let callee = op.attrs.symbol("callee").unwrap_or_default().to_string();
        let first = op.attrs.int("first");
        let next = op.attrs.ints("next").unwrap_or_default();
        let start = self.now;
        // `settle_carried` saw to it that the loop may work where its carried values are.
        let mut results = operands[..carried].to_vec();
        let mut params = operands.to_vec();
        for n in carried..carried + sliced {
            let ty = f.ty(op.operands[n]);
            let slices = ty.size(&dim).filter(|_| first.is_some()).unwrap_or(count);
            let bytes = (ty.bytes() / slices.max(1)) as u64;
            let var = if next.contains(&(n as i64)) { next_of(&dim) } else { dim.clone() };
            params[n] = operands[n].slice(&var, bytes, first.unwrap_or(0) as u64);
        }
        let mut targets: Vec<Option<Spot>> = results.iter().cloned().map(Some).collect();
        for r in &op.results[carried..] {
            let spot = match wanted.get(r) {
                Some(s) => s.clone(),
                None => {
                    // Over the sliced operand of the same shape that dies here: accumulators.
                    let own = self.accumulator(f, i, op, *r, operands, carried, sliced);
                    match own.or_else(|| self.gradient_spot(f, *r)) {
                        Some(s) => s,
                        None => {
                            let s = self.new_buffer(f.ty(*r).bytes());
                            if !op.attrs.flag("reverse")
                                && dim != "micro"
                                && dim != "chunk"
                                && let Spot::Buffer { id, .. } = &s
                            {
                                self.saved.push(*id);
                            }
                            s
                        }
                    }
                }
            };
            if count != 1 {
                // Some iteration makes a part of it while another's is there.
                self.touch(&spot);
            }
            let bytes = (f.ty(*r).bytes() / count.max(1)) as u64;
            targets.push(Some(spot.slice(&dim, bytes, 0)));
            results.push(spot);
        }
        self.function(&callee, params, targets)?;
        // What was alive before the loop and used in it is needed in every iteration.
        let now = self.now;
        for b in &mut self.buffers {
            if b.first <= start && b.last > start {
                b.last = now;
            }
        }
        for s in operands.iter().chain(&results) {
            self.touch(s);
        }
        Ok(results)
    }

    #[allow(clippy::too_many_arguments)] // one loop's whole surroundings
    fn accumulator(
        &self,
        f: &Function,
        i: usize,
        op: &Op,
        result: ValueId,
        operands: &[Spot],
        carried: usize,
        sliced: usize,
    ) -> Option<Spot> {
        let callee = op.attrs.symbol("callee").and_then(|c| self.module.function(c))?;
        let n = op.results.iter().position(|r| *r == result)?;
        let made = callee.results.get(n)?;
        // The body's result is an update of one of its own parameters, perhaps summed over ranks.
        let mut made = Self::root(callee, *made);
        let mut maker = callee.ops.iter().find(|o| o.results.contains(&made))?;
        while maker.kind == OpKind::AllReduce {
            made = Self::root(callee, maker.operands[0]);
            maker = callee.ops.iter().find(|o| o.results.contains(&made))?;
        }
        let slot = maker.results.iter().position(|r| *r == made)?;
        (carried..carried + sliced).find_map(|k| {
            let p = callee.params[k];
            let updates = maker
                .operands
                .iter()
                .position(|o| *o == p)
                .is_some_and(|o| Self::in_place(self.module, maker, slot, o));
            let fits = f.ty(op.operands[k]) == f.ty(result) && Self::dies(f, op.operands[k], i);
            (updates && fits).then(|| operands[k].clone())
        })
    }
}
