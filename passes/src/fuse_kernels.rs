//! `fuse-kernels`: every op into a kernel function.
//!
//! ```text
//! %0 = matmul(%x, %w); %1 = add(%0, %bias); %2 = gelu(%1)
//!   ⇒ %0:2 = call @matmul_3(%x, %w, %bias)      @matmul_3 {neox.kernel = "matmul"}: those three ops
//! ```
//! Greedy and deterministic: reductions pull in the pointwise ops that only they use; pointwise ops
//! join the latest kernel that makes one of their operands, if all others are older, or one that reads the same given
//! values; a projection stores the queries, keys and values that it makes; constants, and casts of bf16 to f32, are copied into
//! each kernel that reads them. Views, calls and loops stay. Equal kernels become one.

mod between;

use std::collections::HashMap;

use neoxc_ir::op::{Class, Decomposition};
use neoxc_ir::{
    Attr, Attrs, Builder, DType, Function, Loc, Module, Op, OpKind, ValueId, keys, text,
};

use crate::facts::Fact;
use crate::pass::{Pass, PassCx, PassError, PassReport};

/// The pass.
pub const PASS: Pass = Pass {
    name: "fuse-kernels",
    doc: "partition every function into kernel functions",
    requires: &[Fact::HeadInChunks, Fact::OneRank],
    ensures: &[Fact::InKernels],
    run,
};

fn run(m: &mut Module, _cx: &PassCx) -> Result<PassReport, PassError> {
    let mut kernels = Kernels::default();
    let mut fused = vec![];
    for f in &m.functions {
        if f.name == "setup" || f.attrs.get(keys::KERNEL).is_some() {
            fused.push(f.clone());
        } else if !is_mapped(m, &f.name) {
            fused.push(fuse(m, f, &mut kernels)?);
        }
    }
    let count = kernels.list.len();
    m.functions = kernels.list;
    m.functions.append(&mut fused);
    Ok(PassReport { notes: vec![format!("{count} distinct kernels")] })
}

/// Whether `name` is a function of one element: kernels have its ops.
fn is_mapped(m: &Module, name: &str) -> bool {
    let mut ops = m.functions.iter().flat_map(|f| &f.ops);
    ops.any(|op| op.kind == OpKind::Map && op.attrs.symbol("callee") == Some(name))
}

/// Distinct kernel functions so far.
#[derive(Default)]
struct Kernels {
    list: Vec<Function>,
    by_text: HashMap<String, String>,
}

impl Kernels {
    /// The name of a kernel equal to `f`, which is added if it is new.
    fn name_of(&mut self, mut f: Function, family: &str) -> String {
        // Two uses from other lines of the YAML are one kernel: the first one's places stay.
        let mut bare = f.clone();
        bare.ops.iter_mut().for_each(|op| op.loc = Loc::Unknown);
        for p in &bare.params {
            bare.values[p.index()].name = None;
        }
        let key = text::print_function(&bare);
        if let Some(name) = self.by_text.get(&key) {
            return name.clone();
        }
        let number = self.list.iter().filter(|k| k.attrs.str(keys::KERNEL) == Some(family)).count();
        let name = format!("{family}_{number}");
        f.name.clone_from(&name);
        self.by_text.insert(key, name.clone());
        self.list.push(f);
        name
    }
}

/// Ops that become one kernel.
struct Group {
    family: &'static str,
    ops: Vec<usize>,
}

fn family(op: &Op) -> Option<&'static str> {
    Some(match op.kind {
        OpKind::Matmul => "matmul",
        OpKind::Attention | OpKind::DropoutAttention => "attention",
        OpKind::AttentionGrad | OpKind::DropoutAttentionGrad => "attention_grad",
        OpKind::CachedAttention => "cached_attention",
        OpKind::CrossEntropy | OpKind::CrossEntropyPart | OpKind::CrossEntropyJoin => {
            "cross_entropy"
        }
        OpKind::Gather => "gather_rows",
        OpKind::ScatterAdd => "scatter_rows",
        OpKind::Iota => "iota",
        OpKind::QkvMerge => "qkv_merge",
        OpKind::Transpose | OpKind::Slice | OpKind::Pad => "copy",
        OpKind::LayerNorm | OpKind::LayerNormGrad | OpKind::RmsNorm | OpKind::RmsNormGrad => {
            "rowwise"
        }
        OpKind::SumSquares | OpKind::Map | OpKind::Softmax => "rowwise",
        OpKind::GroupedMatmul => "matmul",
        OpKind::GroupedWeight | OpKind::SumRows => "grouped_sum",
        OpKind::TopK
        | OpKind::TakeChoices
        | OpKind::PutChoices
        | OpKind::Sinkhorn
        | OpKind::ExpertLoad
        | OpKind::ExpertSlots
        | OpKind::ExpertRows => "route",
        OpKind::Dispatch | OpKind::Combine | OpKind::RouteDot | OpKind::ExpandRows => "move_tokens",
        _ => return None,
    })
}

/// Whether the reduced dims of `op` are the innermost ones, neighbours further out, or neither.
fn reduction_family(f: &Function, op: &Op) -> Option<&'static str> {
    let (x, y) = (f.ty(op.operands[0]), f.ty(op.results[0]));
    let kept: Vec<bool> = x.dims.iter().map(|d| y.has(&d.name)).collect();
    let first_reduced = kept.iter().position(|k| !k)?;
    if kept[first_reduced..].iter().all(|k| !k) {
        return Some("rowwise");
    }
    let first_kept = first_reduced + kept[first_reduced..].iter().position(|k| *k)?;
    kept[first_kept..].iter().all(|k| *k).then_some("columnwise")
}

struct Fusing<'a> {
    f: &'a Function,
    defs: Vec<Option<usize>>,
    uses: Vec<usize>,
    groups: Vec<Group>,
    /// Group of each op; `None` for structural ops and constants.
    of: Vec<Option<usize>>,
}

impl Fusing<'_> {
    fn new_group(&mut self, family: &'static str, op: usize) -> usize {
        self.groups.push(Group { family, ops: vec![op] });
        self.of[op] = Some(self.groups.len() - 1);
        self.groups.len() - 1
    }

    /// The op that makes `v`, or what `v` is copied from.
    fn def(&self, v: ValueId) -> Option<usize> {
        match self.defs[v.index()] {
            Some(d) if is_widening(self.f, &self.f.ops[d]) => self.def(self.f.ops[d].operands[0]),
            other => other,
        }
    }

    /// The value that `v` is, or is copied from.
    fn source(&self, v: ValueId) -> ValueId {
        match self.defs[v.index()] {
            Some(d) if is_widening(self.f, &self.f.ops[d]) => self.f.ops[d].operands[0],
            _ => v,
        }
    }

    /// Moves the pointwise producers that only this group uses into it.
    fn pull(&mut self, group: usize, op: usize, allow: &dyn Fn(&Op) -> bool) {
        for o in self.f.ops[op].operands.clone() {
            let Some(d) = self.defs[o.index()] else { continue };
            let producer = &self.f.ops[d];
            let only = producer.results.iter().map(|r| self.uses[r.index()]).sum::<usize>() == 1;
            if !only || !allow(producer) || self.of[d] == Some(group) {
                continue;
            }
            let taken = match self.of[d] {
                None => vec![d],
                // The producer's whole group moves, if nothing else reads what it makes.
                Some(g) if self.serves_only(g, d, allow) => std::mem::take(&mut self.groups[g].ops),
                Some(_) => continue,
            };
            for d in taken {
                self.of[d] = Some(group);
                self.groups[group].ops.push(d);
                self.pull(group, d, allow);
            }
        }
    }

    /// Whether group `g` exists only to make the result of op `last`.
    fn serves_only(&self, g: usize, last: usize, allow: &dyn Fn(&Op) -> bool) -> bool {
        let ops = &self.groups[g].ops;
        let inner = |v: &ValueId| {
            !self.f.results.contains(v)
                && self
                    .f
                    .ops
                    .iter()
                    .enumerate()
                    .all(|(j, o)| ops.contains(&j) || !o.operands.contains(v))
        };
        ops.iter().all(|i| {
            let op = &self.f.ops[*i];
            allow(op) && (*i == last || op.results.iter().all(inner))
        })
    }

    /// Whether `op` may join `group` as an epilogue.
    fn joins(&self, group: usize, op: usize) -> bool {
        let (f, g) = (self.f, &self.groups[group]);
        if g.ops.is_empty() {
            return false;
        }
        let result = f.ty(f.ops[op].results[0]);
        let fits = match g.family {
            "matmul" => {
                let matmul = g.ops.iter().find(|o| is_matmul(&f.ops[**o]));
                matmul.is_some_and(|o| f.ty(f.ops[*o].results[0]).dims == result.dims)
            }
            "rowwise" => g.ops.iter().any(|o| {
                let r = &f.ops[*o];
                r.results.iter().any(|v| f.ty(*v).dims == result.dims)
            }),
            "columnwise" => g.ops.iter().any(|o| {
                let r = &f.ops[*o];
                r.kind == OpKind::ReduceSum && f.ty(r.results[0]).dims == result.dims
            }),
            // The gradient of logits, rounded for the matmuls that read it.
            "cross_entropy" => {
                let made = |o: &usize| {
                    let op = &f.ops[*o];
                    (op.kind == OpKind::CrossEntropyGrad).then(|| op.results[0])
                };
                f.ops[op].kind == OpKind::Cast
                    && g.ops.iter().filter_map(made).any(|v| v == f.ops[op].operands[0])
                    && self.uses[f.ops[op].operands[0].index()] == 1
            }
            // Rows of a table, rounded.
            "gather_rows" => {
                let rows = f.ops[g.ops[0]].results[0];
                f.ops[op].kind == OpKind::Cast && g.ops.len() == 1 && self.uses[rows.index()] == 1
            }
            "scatter_rows" | "grouped_sum" => {
                let same = f.ty(f.ops[g.ops[0]].results[0]).dims == result.dims;
                f.ops[op].kind == OpKind::Add && g.ops.len() == 1 && same
            }
            _ => false,
        };
        // Operands must be older than the group, constants, or its own.
        fits && f.ops[op].operands.iter().all(|o| match self.def(*o) {
            None => true,
            Some(d) if f.ops[d].kind == OpKind::Fill => true,
            Some(d) => match self.of[d] {
                Some(other) => other <= group,
                None => d < g.ops.iter().copied().min().unwrap_or(0),
            },
        }) && self.factors_stay(group, op)
    }

    /// The group whose matmul can store queries, keys and values itself, rotated or not, in the place of `split`. Three
    /// things must hold: nothing but `split` reads the matmul's result; the rotary tables are computed before it; and it
    /// has more than one row, since a matmul of one row has kernels of its own.
    fn stores_parts(&self, split: &Op) -> Option<usize> {
        let f = self.f;
        let fused = split.operands[0];
        let group = self.of[self.defs[fused.index()]?]?;
        let g = &self.groups[group];
        let matmul = g.ops.iter().map(|o| &f.ops[*o]).find(|op| op.kind == OpKind::Matmul)?;
        let (made, ty) = (f.ty(matmul.results[0]), f.ty(fused));
        let rows: usize = ["batch", "seq"].iter().filter_map(|d| ty.size(d)).product();
        let turns = f
            .ops
            .iter()
            .filter(|op| op.kind == OpKind::Rotary && split.results.contains(&op.operands[0]));
        let first = g.ops.iter().copied().min()?;
        let older = |v: &ValueId| match self.def(*v) {
            None => true,
            Some(d) => self.of[d].map_or(d < first, |other| other < group),
        };
        let fits = g.family == "matmul" && made.dims == ty.dims && self.uses[fused.index()] == 1;
        (fits && rows > 1 && turns.flat_map(|op| &op.operands[1..]).all(older)).then_some(group)
    }

    /// A matmul's own factors cannot be read again tile by tile.
    fn factors_stay(&self, group: usize, op: usize) -> bool {
        let g = &self.groups[group];
        g.family != "matmul"
            || g.ops.iter().filter(|o| is_matmul(&self.f.ops[**o])).all(|o| {
                let factors = &self.f.ops[*o].operands;
                self.f.ops[op].operands.iter().all(|v| !factors.contains(&self.source(*v)))
            })
    }
}

fn partition(f: &Function) -> Result<Fusing<'_>, PassError> {
    let mut s = Fusing {
        f,
        defs: f.definitions(),
        uses: f.use_counts(),
        groups: vec![],
        of: vec![None; f.ops.len()],
    };
    let pointwise = |op: &Op| op.kind.def().class() == Class::Pointwise && !is_copied(f, op);
    for (i, op) in f.ops.iter().enumerate() {
        match op.kind.def().class() {
            Class::View | Class::Call | Class::Collective => continue,
            Class::Reduction => {
                let family = reduction_family(f, op).filter(|_| op.kind == OpKind::ReduceSum);
                let family = family.ok_or_else(|| unsupported(f, op))?;
                let g = s.new_group(family, i);
                s.pull(g, i, &pointwise);
            }
            Class::Pointwise if is_copied(f, op) => {}
            Class::Pointwise if op.kind == OpKind::CausalMask => return Err(unsupported(f, op)),
            Class::Pointwise => {
                let candidates = op.operands.iter().filter_map(|o| s.def(*o).and_then(|d| s.of[d]));
                match candidates.max().filter(|g| s.joins(*g, i)) {
                    Some(g) => {
                        s.of[i] = Some(g);
                        s.groups[g].ops.push(i);
                    }
                    None => {
                        s.new_group("rowwise", i);
                    }
                }
            }
            _ if op.kind == OpKind::QkvSplit => match s.stores_parts(op) {
                Some(g) => {
                    s.of[i] = Some(g);
                    s.groups[g].ops.push(i);
                }
                None => {
                    s.new_group("qkv_split", i);
                }
            },
            _ if op.kind == OpKind::Rotary => {
                let from = s.def(op.operands[0]).filter(|d| f.ops[*d].kind == OpKind::QkvSplit);
                match from.and_then(|d| s.of[d]) {
                    Some(g) => {
                        s.of[i] = Some(g);
                        s.groups[g].ops.push(i);
                    }
                    // Backward: pulled in by the merge that follows, unless norms stand between.
                    None => {
                        s.new_group("rotary", i);
                    }
                }
            }
            _ if op.kind == OpKind::CrossEntropyGrad => {
                let from = s.def(op.operands[2]).filter(|d| f.ops[*d].kind == OpKind::CrossEntropy);
                match from.and_then(|d| s.of[d]) {
                    Some(g) => {
                        s.of[i] = Some(g);
                        s.groups[g].ops.push(i);
                    }
                    // The loss came from other ranks too.
                    None => {
                        s.new_group("cross_entropy", i);
                    }
                }
            }
            _ => {
                let family = family(op).ok_or_else(|| unsupported(f, op))?;
                rows_lie_together(f, op, family)?;
                let g = s.new_group(family, i);
                if op.kind == OpKind::QkvMerge {
                    s.pull(g, i, &|op| op.kind == OpKind::Rotary || op.kind == OpKind::Neg);
                }
            }
        }
    }
    s.move_beside();
    s.move_behind();
    Ok(s)
}

/// Whether the op casts bf16 to f32, which is free where the value is read.
fn is_widening(f: &Function, op: &Op) -> bool {
    let ty = |v: &[ValueId]| f.ty(v[0]).dtype;
    op.kind == OpKind::Cast
        && ty(&op.operands).wide() == ty(&op.results)
        && ty(&op.operands) != DType::F32
}

/// Whether each kernel that reads what the op makes has a copy of it.
fn is_copied(f: &Function, op: &Op) -> bool {
    op.kind == OpKind::Fill || is_widening(f, op)
}

/// Whether the op is what a kernel of matmuls is about.
fn is_matmul(op: &Op) -> bool {
    matches!(op.kind, OpKind::Matmul | OpKind::GroupedMatmul)
}

/// Refuses ops along a dim whose elements do not lie together: `rowwise` reads rows.
fn rows_lie_together(f: &Function, op: &Op, family: &str) -> Result<(), PassError> {
    let (Some(dim), "rowwise") = (op.attrs.str("dim"), family) else { return Ok(()) };
    let innermost = f.ty(op.operands[0]).dims.last().is_some_and(|d| &*d.name == dim);
    if innermost {
        return Ok(());
    }
    let name = op.kind.full_name();
    let what = format!("@{}: `{name}` along `{dim}`, which is not the innermost dim", f.name);
    Err(PassError::internal_at(what, &op.loc))
}

fn unsupported(f: &Function, op: &Op) -> PassError {
    let what = format!("@{}: no kernel family takes {}", f.name, op.kind.full_name());
    PassError::internal_at(what, &op.loc)
}

fn fuse(m: &Module, f: &Function, kernels: &mut Kernels) -> Result<Function, PassError> {
    // A group runs where its first op stands: what a rank takes of a parameter is there before.
    let early = |op: &Op| op.kind == OpKind::TakePart && f.params.contains(&op.operands[0]);
    let mut sorted = f.clone();
    sorted.ops.sort_by_key(|op| !early(op));
    let f = &sorted;
    let s = partition(f)?;
    let mut out = Function::new(&f.name);
    out.attrs = f.attrs.clone();
    let mut map: Vec<Option<ValueId>> = vec![None; f.values.len()];
    for (p, attrs) in f.params.iter().zip(&f.param_attrs) {
        let name = f.values[p.index()].name.clone();
        let v = out.add_param(name.as_deref().unwrap_or(""), f.ty(*p).clone(), attrs.clone());
        out.values[v.index()].name = name;
        map[p.index()] = Some(v);
    }
    // A copied value that a structural op, or the caller, needs is a kernel of its own.
    let mut constants = HashMap::new();
    for (i, op) in f.ops.iter().enumerate().filter(|(_, op)| is_copied(f, op)) {
        let v = op.results[0];
        let structural = f
            .ops
            .iter()
            .enumerate()
            .any(|(j, o)| s.of[j].is_none() && !is_copied(f, o) && o.operands.contains(&v));
        if structural || f.results.contains(&v) {
            constants.insert(i, Group { family: "rowwise", ops: vec![i] });
        }
    }
    // A group runs where its first op stands, but after what it reads: groups keep their order.
    let mut first = HashMap::new();
    for (g, group) in s.groups.iter().enumerate().filter(|(_, g)| !g.ops.is_empty()) {
        let anchor = group.ops[0];
        first.insert(anchor, g);
    }
    for (i, op) in f.ops.iter().enumerate() {
        if let Some(group) = constants.get(&i) {
            emit((m, f), group, kernels, &mut out, &mut map)?;
        }
        if let Some(g) = first.get(&i) {
            emit((m, f), &s.groups[*g], kernels, &mut out, &mut map)?;
        }
        if s.of[i].is_none() && !is_copied(f, op) {
            let operands = lookup(f, &map, &op.operands)?;
            let results: Vec<ValueId> =
                op.results.iter().map(|r| out.add_value(f.ty(*r).clone())).collect();
            for (old, new) in op.results.iter().zip(&results) {
                map[old.index()] = Some(*new);
            }
            out.ops.push(Op { operands, results, ..op.clone() });
        }
    }
    out.results = lookup(f, &map, &f.results)?;
    Ok(out)
}

fn lookup(
    f: &Function,
    map: &[Option<ValueId>],
    ids: &[ValueId],
) -> Result<Vec<ValueId>, PassError> {
    ids.iter()
        .map(|v| {
            map[v.index()].ok_or_else(|| {
                let maker = f.ops.iter().find(|op| op.results.contains(v));
                let maker = maker.map_or("a parameter".into(), |op| {
                    format!("what {} makes at {}", op.kind.full_name(), op.loc)
                });
                PassError::internal(format!("@{}: fusion reordered {maker} before its use", f.name))
            })
        })
        .collect()
}

/// Makes the kernel function of `group`, and the call of it.
fn emit(
    (m, f): (&Module, &Function),
    group: &Group,
    kernels: &mut Kernels,
    out: &mut Function,
    map: &mut [Option<ValueId>],
) -> Result<(), PassError> {
    let mut inside = group.ops.clone();
    let defs = f.definitions();
    for i in group.ops.clone() {
        for o in &f.ops[i].operands {
            if let Some(d) = defs[o.index()]
                && is_copied(f, &f.ops[d])
                && !inside.contains(&d)
            {
                inside.push(d);
            }
        }
    }
    inside.sort_unstable();
    let made: Vec<ValueId> = inside.iter().flat_map(|i| f.ops[*i].results.clone()).collect();
    let mut params: Vec<ValueId> = vec![];
    for o in inside.iter().flat_map(|i| &f.ops[*i].operands) {
        if !made.contains(o) && !params.contains(o) {
            params.push(*o);
        }
    }
    let outside = |v: &ValueId| {
        f.results.contains(v)
            || f.ops
                .iter()
                .enumerate()
                .any(|(j, op)| !inside.contains(&j) && op.operands.contains(v))
    };
    // Another kernel's copy of what this one copies too reads the value that is copied.
    let outside = |v: &ValueId| {
        let copies = inside.iter().map(|j| &f.ops[*j]).filter(|op| is_copied(f, op));
        outside(v) || copies.filter(|op| op.operands.contains(v)).any(|op| outside(&op.results[0]))
    };
    let copied = |v: &ValueId| defs[v.index()].is_some_and(|d| is_copied(f, &f.ops[d]));
    let results: Vec<ValueId> = made
        .iter()
        .copied()
        .filter(|v| {
            outside(v)
                && (!copied(v)
                    || group.ops.len() == 1
                        && !params.contains(v)
                        && f.ops[group.ops[0]].results.contains(v))
        })
        .collect();
    let mut k = Function::new("kernel");
    let mut inner: HashMap<ValueId, ValueId> = HashMap::new();
    for (i, p) in params.iter().enumerate() {
        inner.insert(*p, k.add_param(&format!("p{i}"), f.ty(*p).clone(), Attrs::new()));
    }
    for i in &inside {
        let op = &f.ops[*i];
        let operands: Vec<ValueId> = op.operands.iter().map(|o| inner[o]).collect();
        let mut b = Builder::with_module(&mut k, m);
        b.at(&op.loc);
        let r = match op.kind == OpKind::Map {
            false => b.op(op.kind, &operands, op.attrs.clone())?,
            true => match op.kind.def().decompose(&mut b, &operands, &op.attrs)? {
                Decomposition::Values(values) => values,
                Decomposition::Primitive => return Err(unsupported(f, op)),
            },
        };
        inner.extend(op.results.iter().copied().zip(r));
    }
    k.results = results.iter().map(|r| inner[r]).collect();
    k.attrs.set(keys::KERNEL, Attr::Str(group.family.into()));
    let pairs = in_place(&k, group.family);
    if !pairs.is_empty() {
        k.attrs.set(keys::INPLACE, Attr::ints(&pairs));
    }
    let loc = Loc::fuse(k.ops.iter().map(|op| &op.loc));
    let name = kernels.name_of(k, group.family);
    let operands = lookup(f, map, &params)?;
    let new: Vec<ValueId> = results.iter().map(|r| out.add_value(f.ty(*r).clone())).collect();
    for (old, new) in results.iter().zip(&new) {
        map[old.index()] = Some(*new);
    }
    let call = OpKind::Call;
    let attrs = Attrs::new().with("callee", Attr::Symbol(name));
    out.ops.push(Op { kind: call, operands, results: new, attrs, loc });
    Ok(())
}

/// Pairs (result, operand) that may share a buffer: the kernel reads the operand's element before it
/// writes the result's, and nowhere else.
fn in_place(k: &Function, family: &str) -> Vec<i64> {
    let factors: Vec<ValueId> =
        k.ops.iter().filter(|op| is_matmul(op)).flat_map(|op| op.operands.clone()).collect();
    let mut pairs = vec![];
    for (i, r) in k.results.iter().enumerate() {
        for (j, p) in k.params.iter().enumerate() {
            let allowed = match family {
                "matmul" => !factors.contains(p),
                "rowwise" => true,
                "columnwise" => true,
                "scatter_rows" | "grouped_sum" => {
                    k.ops.iter().any(|op| op.kind == OpKind::Add && op.operands.contains(p))
                }
                "cross_entropy" => k.ops[0].operands.first() == Some(p),
                _ => false,
            };
            if allowed && k.ty(*r) == k.ty(*p) {
                pairs.extend([i as i64, j as i64]);
            }
        }
    }
    pairs
}
