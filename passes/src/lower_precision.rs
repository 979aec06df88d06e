//! `lower-precision`: a program that computes in f32 becomes one whose matmuls and saved values are bf16 or f16.
//!
//! ```text
//! %y = matmul(%x, %w)          ⇒  %h = cast(%w) {bf16}, once in a program; %p = matmul(%x, %h)
//! %z = gelu(%y)                   %y = cast(%p) {bf16}; %0 = cast(%y) {f32}; %z = gelu(%0)
//! ```
//! The module's `neox.precision` names the 16-bit dtype (shown: bf16), and each op says how it reads its operands and rounds its results
//! ([`Rounding`]). From that follows the dtype of each value:
//! - A value has 16 bits for all of its readers if a matmul reads or makes it, or if a loop carries or saves it.
//! - A value that is only moved, or handed to a callee, has the same dtype before and after.
//! - Losses, statistics, sums of gradients and parameters are *exact*: they are f32 whatever reads them. A value that is computed
//!   from exact values alone is exact too, and so is every summand of an exact sum.

use std::collections::HashMap;

use neoxc_base::codes::uncomputed_dtype::uncomputed_dtype;
use neoxc_ir::op::{Class, Rounding, RuleCx};
use neoxc_ir::{
    Attr, Attrs, DType, Function, Loc, Module, Op, OpKind, Output, Role, TensorType, ValueId, keys,
};

use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "lower-precision",
    doc: "multiply and save values in 16 bits where the module says so",
    requires: &[],
    ensures: &[],
    run,
};

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let low = match m.attrs.str(keys::PRECISION) {
        None | Some("f32") => return Ok(PassReport::default()),
        Some("bf16") => DType::Bf16,
        Some("f16") => DType::F16,
        Some(other) => {
            return Err(uncomputed_dtype(other, &[]).into());
        }
    };
    let stored = Values::of(m).decide(low);
    let (mut casts, mut parameters) = (0, 0);
    // Callees' types first: a loop's are theirs.
    for (f, dtypes) in m.functions.iter_mut().zip(&stored) {
        for v in f.params.iter().chain(&f.results) {
            f.values[v.index()].ty.dtype = dtypes[v.index()];
        }
    }
    for (i, dtypes) in stored.iter().enumerate() {
        if skipped(&m.functions[i]) {
            continue;
        }
        let before = m.functions[i].clone();
        let mut lower =
            Lowering { old: &before, low, dtypes, module: m, made: HashMap::new(), ops: vec![] };
        let f = lower.function()?;
        let is_cast = |op: &&Op| op.kind == OpKind::Cast && f.ty(op.results[0]).dtype == low;
        casts += f.ops.iter().filter(is_cast).count();
        parameters +=
            f.ops.iter().filter(is_cast).filter(|op| f.params.contains(&op.operands[0])).count();
        m.functions[i] = f;
    }
    let note = format!("{casts} roundings to {}, {parameters} of them of parameters", low.name());
    Ok(PassReport { notes: vec![note] })
}

/// Functions that stay as they are.
fn skipped(f: &Function) -> bool {
    f.name == "setup" || f.attrs.get(keys::KERNEL).is_some()
}

/// The values of all functions in classes that have one dtype.
struct Values<'a> {
    m: &'a Module,
    first: Vec<usize>,
    parent: Vec<usize>,
    exact: Vec<bool>,
    wanted: Vec<bool>,
    /// Parameters of entries: f32 for the optimizer, with a rounded copy for the readers in low precision.
    masters: Vec<bool>,
}

impl<'a> Values<'a> {
    fn of(m: &'a Module) -> Self {
        let mut first = vec![];
        let mut count = 0;
        for f in &m.functions {
            first.push(count);
            count += f.values.len();
        }
        let flags = || vec![false; count];
        let mut values = Self {
            m,
            first,
            parent: (0..count).collect(),
            exact: flags(),
            wanted: flags(),
            masters: flags(),
        };
        values.entries();
        for i in 0..m.functions.len() {
            if !skipped(&m.functions[i]) {
                m.functions[i].ops.iter().for_each(|op| values.relate(i, op));
            }
        }
        values
    }

    fn at(&self, f: usize, v: ValueId) -> usize {
        self.first[f] + v.index()
    }

    fn find(&self, mut v: usize) -> usize {
        while self.parent[v] != v {
            v = self.parent[v];
        }
        v
    }

    fn unite(&mut self, a: usize, b: usize) {
        if self.masters[a] || self.masters[b] {
            return;
        }
        let (a, b) = (self.find(a), self.find(b));
        if a != b {
            self.parent[b] = a;
            self.exact[a] |= self.exact[b];
            self.wanted[a] |= self.wanted[b];
        }
    }

    fn float(&self, f: usize, v: ValueId) -> bool {
        self.m.functions[f].ty(v).dtype.is_float()
    }

    fn position(&self, name: Option<&str>) -> Option<usize> {
        self.m.functions.iter().position(|f| Some(f.name.as_str()) == name)
    }

    /// What the outside gives and gets is exact, but for values that stages hand on and what a cache keeps.
    fn entries(&mut self) {
        let m = self.m;
        let called: Vec<&str> = m
            .functions
            .iter()
            .flat_map(|f| &f.ops)
            .filter_map(|op| op.attrs.symbol("callee"))
            .collect();
        let mut slots: HashMap<String, usize> = HashMap::new();
        for (i, f) in m.functions.iter().enumerate() {
            if called.contains(&f.name.as_str()) || skipped(f) {
                continue;
            }
            let what = Output::all(f).unwrap_or_default();
            let slot_of_result = |n: usize| match what.get(n)? {
                // What an entry adds to a cache is as the cache is.
                Output::Slot(name) | Output::Cache(name) => Some(name.as_str()),
                _ => None,
            };
            let results = f.results.iter().enumerate().map(|(n, v)| (*v, slot_of_result(n), false));
            let params = f.params.iter().zip(&f.param_attrs).map(|(v, a)| {
                let slot = Role::Slot.is(a) || Role::Cache.is(a);
                (*v, a.str(keys::NAME).filter(|_| slot), Role::Parameter.is(a))
            });
            let all: Vec<(ValueId, Option<&str>, bool)> = params.chain(results).collect();
            for (v, slot, master) in all {
                let v = self.at(i, v);
                self.masters[v] |= master;
                let Some(name) = slot else {
                    let class = self.find(v);
                    self.exact[class] = true;
                    continue;
                };
                // What a stage gives is what the next one gets.
                let name = match name {
                    "y" => "x",
                    "dx" => "dy",
                    other => other,
                };
                let other = *slots.entry(name.to_string()).or_insert(v);
                self.unite(other, v);
                let class = self.find(v);
                // Stages hand on words of 32 bits.
                match f.values[v - self.first[i]].ty.elements().is_multiple_of(2) {
                    true => self.wanted[class] = true,
                    false => self.exact[class] = true,
                }
            }
        }
    }

    /// What the op `op` of function `f` says of its values.
    fn relate(&mut self, f: usize, op: &Op) {
        let callee = op.attrs.symbol("callee").filter(|_| op.kind.def().class() == Class::Call);
        if let Some(g) = self.position(callee) {
            let callee = &self.m.functions[g];
            let carried = op.attrs.int("carried").unwrap_or(0) as usize;
            for (n, (o, p)) in op.operands.iter().zip(&callee.params).enumerate() {
                let (o, p) = (self.at(f, *o), self.at(g, *p));
                self.unite(o, p);
                if n < carried {
                    let r = self.at(g, callee.results[n]);
                    self.unite(p, r);
                }
            }
            for (r, inner) in op.results.iter().zip(&callee.results) {
                let (r, inner) = (self.at(f, *r), self.at(g, *inner));
                self.unite(r, inner);
                let class = self.find(r);
                self.wanted[class] |= op.kind == OpKind::Repeat;
            }
            return;
        }
        let rule = op.kind.def().precision();
        if sums_ranks(op) {
            let f32_before = self.maker_rounds(f, op.operands[0]);
            let result = self.at(f, op.results[0]);
            let class = self.find(result);
            self.wanted[class] |= f32_before;
            return;
        }
        if moves_words(op) && !op.results.iter().all(|r| in_pairs(&self.m.functions[f], op, *r)) {
            for v in op.operands.iter().chain(&op.results) {
                let class = self.find(self.at(f, *v));
                self.exact[class] = true;
            }
        }
        let operands = op.operands.iter().enumerate().map(|(n, v)| (*v, rule.operand(n)));
        let results = op.results.iter().enumerate().map(|(n, v)| (*v, rule.result(n)));
        let mut moved = None;
        for (v, held) in operands.chain(results) {
            if !self.float(f, v) {
                continue;
            }
            let (id, v) = (v, self.at(f, v));
            let class = self.find(v);
            match held {
                // What ranks sum is rounded when it is whole.
                Rounding::Low if self.summed(f, id) => {}
                Rounding::Low => self.wanted[class] = true,
                Rounding::Exact => self.exact[class] = true,
                Rounding::Same => match moved {
                    None => moved = (!self.masters[v]).then_some(v),
                    Some(other) => self.unite(other, v),
                },
                Rounding::Free | Rounding::Stored => {}
            }
        }
    }

    /// Whether `v` is made only to be summed over ranks.
    fn summed(&self, f: usize, v: ValueId) -> bool {
        let f = &self.m.functions[f];
        let mut users = f.ops.iter().filter(|op| op.operands.contains(&v)).peekable();
        users.peek().is_some() && users.all(sums_ranks) && !f.results.contains(&v)
    }

    /// Whether what makes `v` rounds it.
    fn maker_rounds(&self, f: usize, v: ValueId) -> bool {
        let maker = self.m.functions[f].ops.iter().find(|op| op.results.contains(&v));
        maker.is_some_and(|op| {
            let at = op.results.iter().position(|r| *r == v).unwrap_or(0);
            op.kind.def().precision().result(at) == Rounding::Low
        })
    }

    /// What follows from what is exact, until nothing more does.
    fn spread(&mut self) {
        let m = self.m;
        loop {
            let mut changed = false;
            for (i, f) in m.functions.iter().enumerate().filter(|(_, f)| !skipped(f)) {
                for op in &f.ops {
                    if op.kind.def().precision().operand(0) != Rounding::Free
                        || op.operands.is_empty()
                    {
                        continue;
                    }
                    let classes = |s: &Self, list: &[ValueId]| -> Vec<usize> {
                        let floats = list.iter().filter(|v| s.float(i, **v));
                        floats.map(|v| s.find(s.at(i, *v))).collect()
                    };
                    let constants = |v: &ValueId| {
                        !f.ops.iter().any(|o| o.kind == OpKind::Fill && o.results.contains(v))
                    };
                    let read: Vec<ValueId> =
                        op.operands.iter().copied().filter(constants).collect();
                    let (read, made) = (classes(self, &read), classes(self, &op.results));
                    let from_exact = !read.is_empty() && read.iter().all(|c| self.exact[*c]);
                    let into_exact = (op.kind == OpKind::Add || sums_ranks(op))
                        && made.iter().all(|c| self.exact[*c]);
                    let then = [(from_exact, made), (into_exact, read)];
                    for c in then.into_iter().filter(|(holds, _)| *holds).flat_map(|(_, list)| list)
                    {
                        changed |= !std::mem::replace(&mut self.exact[c], true);
                    }
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// The dtype of every value of every function.
    fn decide(mut self, low: DType) -> Vec<Vec<DType>> {
        self.spread();
        let dtype = |i: usize, f: &Function, n: usize| {
            let class = self.find(self.first[i] + n);
            match f.values[n].ty.dtype {
                DType::F32 if self.wanted[class] && !self.exact[class] && !skipped(f) => low,
                other => other,
            }
        };
        let all = self.m.functions.iter().enumerate();
        all.map(|(i, f)| (0..f.values.len()).map(|n| dtype(i, f, n)).collect()).collect()
    }
}

/// Whether the op sums over ranks.
fn sums_ranks(op: &Op) -> bool {
    matches!(op.kind, OpKind::AllReduce | OpKind::ReduceScatter)
}

/// Whether the op hands elements to other ranks as they are.
fn moves_words(op: &Op) -> bool {
    op.kind.def().class() == Class::Collective && !sums_ranks(op)
}

/// Whether 16-bit elements can be sent in pairs: what lies behind the divided dims of the result `r` is even.
fn in_pairs(f: &Function, op: &Op, r: ValueId) -> bool {
    let ty = f.ty(r);
    let at = |key: &str| op.attrs.str(key).and_then(|d| ty.position(d));
    let last = at("dim").max(at("from"));
    let behind = last.map_or(&ty.dims[..], |last| &ty.dims[last + 1..]);
    behind.iter().map(|d| d.size).product::<usize>().is_multiple_of(2)
}

/// One function on its way to low precision.
struct Lowering<'a> {
    old: &'a Function,
    low: DType,
    dtypes: &'a [DType],
    module: &'a Module,
    /// Casts of a value to a dtype that are there already.
    made: HashMap<(ValueId, DType), ValueId>,
    ops: Vec<Op>,
}

impl Lowering<'_> {
    fn function(&mut self) -> Result<Function, PassError> {
        let mut f = self.old.clone();
        for (value, dtype) in f.values.iter_mut().zip(self.dtypes) {
            value.ty.dtype = *dtype;
        }
        for op in &self.old.ops {
            self.op(&mut f, op.clone())?;
        }
        f.ops = std::mem::take(&mut self.ops);
        f.renumber();
        Ok(f)
    }

    fn op(&mut self, f: &mut Function, mut op: Op) -> Result<(), PassError> {
        let wanted = self.wanted(&op)?;
        let loc = op.loc.clone();
        for (v, want) in op.operands.iter_mut().zip(wanted) {
            *v = self.cast(f, *v, want, &loc)?;
        }
        if op.attrs.symbol("callee").is_some() {
            self.ops.push(op);
            return Ok(());
        }
        if op.kind == OpKind::Fill && f.ty(op.results[0]).dtype.is_float() {
            let dtype = f.ty(op.results[0]).dtype;
            op.attrs.set("dtype", Attr::Str(dtype.name().into()));
        }
        let types: Vec<TensorType> = op.operands.iter().map(|v| f.ty(*v).clone()).collect();
        let rule =
            RuleCx { operands: &types, results: &[], attrs: &op.attrs, module: Some(self.module) };
        let natural = op.kind.def().infer(&rule)?;
        let mut rounded = vec![];
        for (r, made) in op.results.iter_mut().zip(&natural) {
            let dtype = f.ty(*r).dtype;
            if made.dtype != dtype {
                let mut ty = f.ty(*r).clone();
                ty.dtype = made.dtype;
                let v = f.add_value(ty);
                rounded.push((v, *r, dtype));
                *r = v;
            }
        }
        self.ops.push(op);
        for (from, to, dtype) in rounded {
            self.push_cast(from, to, dtype, &loc)?;
        }
        Ok(())
    }

    /// The dtype in which `op` reads each operand.
    fn wanted(&self, op: &Op) -> Result<Vec<DType>, PassError> {
        let dtype = |v: &ValueId| self.dtypes[v.index()];
        if let Some(name) = op.attrs.symbol("callee") {
            let lost = || PassError::internal(format!("there is no @{name}"));
            let g = self.module.function(name).ok_or_else(lost)?;
            return Ok(g.params.iter().map(|p| g.ty(*p).dtype).collect());
        }
        let rule = op.kind.def().precision();
        let moved_dtype = |(n, v): (usize, &ValueId)| {
            (rule.result(n) == Rounding::Same && dtype(v).is_float()).then(|| dtype(v))
        };
        let moved = op.results.iter().enumerate().find_map(moved_dtype);
        let read = |(n, v): (usize, &ValueId)| match (dtype(v), rule.operand(n)) {
            (d, Rounding::Low) if d.wide() == DType::F32 => self.low,
            (d, Rounding::Free | Rounding::Exact) => d.wide(),
            (d, Rounding::Same) if d.is_float() => moved.unwrap_or(d),
            (d, _) => d,
        };
        Ok(op.operands.iter().enumerate().map(read).collect())
    }

    /// `v` as `dtype`.
    fn cast(
        &mut self,
        f: &mut Function,
        v: ValueId,
        dtype: DType,
        loc: &Loc,
    ) -> Result<ValueId, PassError> {
        if f.ty(v).dtype == dtype {
            return Ok(v);
        }
        if let Some(made) = self.made.get(&(v, dtype)) {
            return Ok(*made);
        }
        let ty = f.ty(v).with_dtype(dtype);
        let made = f.add_value(ty);
        self.push_cast(v, made, dtype, loc)?;
        self.made.insert((v, dtype), made);
        Ok(made)
    }

    fn push_cast(
        &mut self,
        from: ValueId,
        to: ValueId,
        dtype: DType,
        loc: &Loc,
    ) -> Result<(), PassError> {
        let kind = OpKind::Cast;
        let attrs = Attrs::new().with("dtype", Attr::Str(dtype.name().into()));
        let (operands, results) = (vec![from], vec![to]);
        self.ops.push(Op { kind, operands, results, attrs, loc: loc.clone() });
        Ok(())
    }
}
