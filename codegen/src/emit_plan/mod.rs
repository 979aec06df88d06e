//! Scheduled IR and compiled kernels → a plan.
//!
//! The Scheduled phase says everything: addresses are attributes, loops are `neox.repeat`, kernels
//! are called by name. Here it is only transcribed, entry by entry.

mod stages;
mod tables;

use std::collections::{BTreeMap, HashMap};

use neoxc_ir::op::Class;
use neoxc_ir::ops::repeat::totals;
use neoxc_ir::role::{is_frozen, name_of as parameter_of};
use neoxc_ir::{Attrs, Dim, Function, Module, Op, OpKind, Output, Role, ValueId, keys};
use neoxc_plan::{
    Address, Collective, Held, Init, Instr, Memory, Parameter, Plan, Port, Program, ROUND_WEIGHTS,
    Schedule, SegmentKind, State, Stride, Tables, Values, name_of,
};

use crate::CodegenError;
use crate::kernels::Kernel;

/// A segment: its name in addresses, and what it holds.
type Named = (String, SegmentKind);

/// Segments, in the order of their numbers; `slots` are those that the optimizer keeps.
fn segments(slots: &[&str]) -> Vec<Named> {
    let of = |values: Values| (values.segment(), values.kind());
    let mut out = vec![of(Values::Weights), of(Values::Gradient)];
    out.extend(slots.iter().map(|slot| of(Values::State((*slot).to_string()))));
    let rest = [
        ("arena", SegmentKind::Arena),
        ("consts", SegmentKind::Consts),
        ("io", SegmentKind::Io),
        ("slots", SegmentKind::Slots),
    ];
    out.extend(rest.map(|(name, kind)| (name.to_string(), kind)));
    out
}

/// The updates of the stages of all classes, or of the one rank's step.
fn updates(m: &Module, classes: usize) -> impl Iterator<Item = &Function> {
    let names = ["train_step", "train_finish"];
    let all = (0..classes).flat_map(move |c| names.map(|base| name_of(base, c)));
    all.filter_map(|name| m.function(&name))
}

/// The optimizer's slots, in their order.
fn slots_of(m: &Module, classes: usize) -> Vec<&str> {
    let mut out: Vec<&str> = vec![];
    for (_, attrs) in updates(m, classes).flat_map(|f| Role::State.all(f)) {
        let slot = attrs.str(keys::SLOT).unwrap_or_default();
        if !out.contains(&slot) {
            out.push(slot);
        }
    }
    out
}

fn bad(message: impl Into<String>) -> CodegenError {
    CodegenError::Schedule(message.into())
}

/// Entries of a scheduled module.
pub const ENTRIES: [&str; 5] = ["train_step", "eval_step", "logits", "decode", ROUND_WEIGHTS];

/// Kernel functions of a module that its entries launch.
pub fn kernel_functions(m: &Module) -> Vec<&Function> {
    m.functions.iter().filter(|f| f.attrs.get(keys::KERNEL).is_some()).collect()
}

struct Emitter<'a> {
    m: &'a Module,
    kernels: HashMap<&'a str, usize>,
    segments: &'a [Named],
    /// Of each segment.
    bytes: Vec<u64>,
    /// Which numbers of events are under way.
    events: Vec<bool>,
}

impl<'a> Emitter<'a> {
    fn new(m: &'a Module, kernels: &'a [Kernel], segments: &'a [Named]) -> Self {
        let symbols = kernels.iter().enumerate().map(|(i, k)| (k.symbol.as_str(), i));
        let (kernels, bytes) = (symbols.collect(), vec![0; segments.len()]);
        Emitter { m, kernels, segments, bytes, events: vec![] }
    }

    fn address(
        &mut self,
        text: &str,
        vars: &[String],
        bytes: u64,
        counts: &[u64],
    ) -> Result<Address, CodegenError> {
        let wrong = || bad(format!("`{text}` is not an address"));
        let mut parts = text.split('+');
        let segment = parts.next().ok_or_else(wrong)?;
        let segment = self.segments.iter().position(|(s, _)| s == segment).ok_or_else(wrong)?;
        let offset: u64 = parts.next().and_then(|o| o.parse().ok()).ok_or_else(wrong)?;
        let mut end = offset + bytes;
        let mut strides = vec![];
        for p in parts {
            let (var, stride) = p.split_once('*').ok_or_else(wrong)?;
            let bytes = stride.parse().map_err(|_| wrong())?;
            let stride = Stride::of(var, bytes, vars).ok_or_else(wrong)?;
            end += (counts[stride.depth] - 1) * bytes;
            strides.push(stride);
        }
        self.bytes[segment] = self.bytes[segment].max(end);
        Ok(Address { segment, offset, strides })
    }

    fn places(attrs: &neoxc_ir::Attrs) -> Result<Vec<String>, CodegenError> {
        let list = attrs.strs(keys::PLACE).ok_or_else(|| bad("a value has no place"))?;
        Ok(list.into_iter().map(str::to_string).collect())
    }

    fn body(
        &mut self,
        f: &Function,
        vars: &mut Vec<String>,
        counts: &mut Vec<u64>,
    ) -> Result<Vec<Instr>, CodegenError> {
        Ok(self.part(f, vars, counts, &[])?.0)
    }

    /// Transcribes a function whose results numbered `late` are waited for by its caller: their events.
    fn part(
        &mut self,
        f: &Function,
        vars: &mut Vec<String>,
        counts: &mut Vec<u64>,
        late: &[usize],
    ) -> Result<(Vec<Instr>, Vec<Vec<usize>>), CodegenError> {
        let mut at: HashMap<ValueId, String> = HashMap::new();
        for (p, attrs) in f.params.iter().zip(&f.param_attrs) {
            let place =
                Self::places(attrs)?.pop().ok_or_else(|| bad("a parameter has no place"))?;
            at.insert(*p, place);
        }
        let mut out = vec![];
        // Numbers of the events of collectives under way.
        let mut events = HashMap::<ValueId, Vec<usize>>::new();
        let is_late = |v: &ValueId| late.iter().any(|n| f.results[*n] == *v);
        let waited = |v: &ValueId| {
            is_late(v) || f.ops.iter().any(|o| o.kind == OpKind::Wait && o.operands[0] == *v)
        };
        // Those that go on into the next iteration have numbers that nothing before them has.
        let mut kept = HashMap::<ValueId, usize>::new();
        for n in late {
            kept.insert(f.results[*n], self.events.len());
            self.events.push(true);
        }
        for op in &f.ops {
            for (r, place) in op.results.iter().zip(Self::places(&op.attrs)?) {
                at.insert(*r, place);
            }
            let callee = op.attrs.symbol("callee");
            match op.kind.def().class() {
                Class::View if op.kind == OpKind::Wait => {
                    let event = events.remove(&op.operands[0]);
                    for event in event.ok_or_else(|| bad("a wait for nothing"))? {
                        self.events[event] = false;
                        out.push(Instr::Wait { event });
                    }
                }
                Class::View => {}
                Class::Call if op.kind == OpKind::Repeat => {
                    let g =
                        callee.and_then(|c| self.m.function(c)).ok_or_else(|| bad("no body"))?;
                    let count = op.attrs.int("count").unwrap_or(1) as u64;
                    let var = op.attrs.str("dim").unwrap_or_default().to_string();
                    if vars.contains(&var) {
                        return Err(bad(format!(
                            "@{} is a loop over {var} inside another",
                            g.name
                        )));
                    }
                    vars.push(var.clone());
                    counts.push(count);
                    let late: Vec<usize> =
                        (0..op.results.len()).filter(|n| waited(&op.results[*n])).collect();
                    let (body, left) = self.part(g, vars, counts, &late)?;
                    events.extend(late.iter().map(|n| op.results[*n]).zip(left));
                    vars.pop();
                    counts.pop();
                    let reverse = op.attrs.flag("reverse");
                    out.push(Instr::Loop { var, count, reverse, body });
                }
                Class::Collective => {
                    let mut at =
                        |v: &ValueId| self.address(&at[v], vars, f.ty(*v).bytes() as u64, counts);
                    let (from, to) = (at(&op.operands[0])?, at(&op.results[0])?);
                    let axis = op.attrs.str("axis").unwrap_or_default().to_string();
                    let (kind, shape) = collective(f, op)?;
                    let loc = op.loc.to_string();
                    let event = match kept.get(&op.results[0]) {
                        Some(event) => Some(*event),
                        None => waited(&op.results[0]).then(|| self.free_event()),
                    };
                    events.extend(event.map(|e| (op.results[0], vec![e])));
                    out.push(Instr::Collective { kind, axis, shape, from, to, event, loc });
                }
                _ => {
                    let kernel = callee
                        .and_then(|c| self.kernels.get(c).copied())
                        .ok_or_else(|| bad(format!("@{} has an op outside any kernel", f.name)))?;
                    let mut args = vec![];
                    for v in op.operands.iter().chain(&op.results) {
                        let bytes = f.ty(*v).bytes() as u64;
                        args.push(self.address(&at[v], vars, bytes, counts)?);
                    }
                    out.push(Instr::Launch { kernel, args, loc: op.loc.to_string() });
                }
            }
        }
        let left = late.iter().map(|n| events.remove(&f.results[*n]).unwrap_or_default());
        Ok((out, left.collect()))
    }

    /// The lowest number of an event that is not under way.
    fn free_event(&mut self) -> usize {
        let free = self.events.iter().position(|taken| !taken).unwrap_or(self.events.len());
        if free == self.events.len() {
            self.events.push(false);
        }
        self.events[free] = true;
        free
    }
}

/// The kind of a collective, and the sizes of the undivided value.
fn collective(f: &Function, op: &Op) -> Result<(Collective, Vec<u64>), CodegenError> {
    let name = op.kind.name();
    let kind =
        Collective::named(name).ok_or_else(|| bad(format!("no collective is called {name}")))?;
    let (x, y) = (f.ty(op.operands[0]), f.ty(op.results[0]));
    let product = |dims: &[Dim]| dims.iter().map(|d| d.size as u64).product::<u64>();
    let at = |key: &str| op.attrs.str(key).and_then(|d| y.position(d));
    if let (Some(from), Some(to)) = (at("from"), at("dim")) {
        // Each dim is whole on the side where it is not divided.
        let whole: Vec<Dim> = x
            .dims
            .iter()
            .zip(&y.dims)
            .map(|(a, b)| Dim::new(&a.name, a.size.max(b.size)))
            .collect();
        let (first, second) = (from.min(to), from.max(to));
        let kind = if from < to { Collective::AllToAll } else { Collective::AllToAllBack };
        let sizes = vec![
            product(&whole[..first]),
            whole[first].size as u64,
            product(&whole[first + 1..second]),
            whole[second].size as u64,
            product(&whole[second + 1..]),
        ];
        return Ok((kind, in_words(x, sizes)?));
    }
    let whole = if x.elements() > y.elements() { x } else { y };
    let sizes = match at("dim") {
        None => vec![1, whole.elements() as u64, 1],
        Some(i) => {
            let (before, after) = (&whole.dims[..i], &whole.dims[i + 1..]);
            vec![product(before), whole.dims[i].size as u64, product(after)]
        }
    };
    Ok((kind, in_words(x, sizes)?))
}

/// The sizes of a value whose elements are moved as words of 32 bits. bf16 elements go in pairs along the innermost
/// dim that has them on both sides; `lower-precision` leaves f32 what has none.
fn in_words(ty: &neoxc_ir::TensorType, mut sizes: Vec<u64>) -> Result<Vec<u64>, CodegenError> {
    if ty.dtype.bytes() == 4 {
        return Ok(sizes);
    }
    match sizes.last_mut() {
        Some(after) if ty.dtype.bytes() == 2 && after.is_multiple_of(2) => *after /= 2,
        _ => return Err(bad(format!("{ty} is not sent in words of 32 bits"))),
    }
    Ok(sizes)
}

fn port(
    name: &str,
    ty: &neoxc_ir::TensorType,
    place: &str,
    attrs: &Attrs,
) -> Result<Port, CodegenError> {
    let (segment, offset) = place.split_once('+').ok_or_else(|| bad("a port has no place"))?;
    Ok(Port {
        name: name.to_string(),
        dtype: ty.dtype.name().to_string(),
        shape: ty.dims.iter().map(|d| d.size as u64).collect(),
        segment: segment.to_string(),
        offset: offset.parse().map_err(|_| bad("a port lies in a loop"))?,
        axes: axes_of(attrs),
    })
}

/// The shape that published checkpoints have, if it is not `dims`.
fn published_shape(attrs: &Attrs, dims: &[u64]) -> Vec<u64> {
    let shape = attrs.ints(keys::SHAPE);
    shape.map_or(dims.to_vec(), |s| s.into_iter().map(|n| n.max(0) as u64).collect())
}

/// Offsets of the gradients' sums: the totals of the loop over micro-batches, or what the update of a
/// pipeline's stage is given.
fn gradient_offsets(f: &Function) -> Result<Vec<u64>, CodegenError> {
    let given: Vec<&Attrs> = Role::Gradient.all(f).map(|(_, a)| a).collect();
    if !given.is_empty() {
        let offset = |a: &&Attrs| {
            let place = Emitter::places(a)?.pop().unwrap_or_default();
            let offset = place.strip_prefix("grads+").and_then(|o| o.parse().ok());
            offset.ok_or_else(|| bad(format!("a gradient lies at {place}")))
        };
        return given.iter().map(offset).collect();
    }
    let micro = |op: &&Op| op.kind == OpKind::Repeat && op.attrs.str("dim") == Some("micro");
    let op = f.ops.iter().find(micro).ok_or_else(|| bad("there is no loop over micro-batches"))?;
    let places = Emitter::places(&op.attrs)?;
    let offset = |n: usize| {
        let place = places.get(n).map_or("no place", String::as_str);
        let offset = place.strip_prefix("grads+").and_then(|o| o.parse().ok());
        offset.ok_or_else(|| bad(format!("a gradient lies at {place}")))
    };
    totals(op).into_iter().map(offset).collect()
}

fn parameters(
    f: &Function,
    mesh: &[(String, u64)],
    staged: bool,
) -> Result<Vec<Parameter>, CodegenError> {
    let mut out = vec![];
    let mut grads = gradient_offsets(f)?.into_iter();
    for (p, attrs) in Role::Parameter.all(f) {
        let name = parameter_of(attrs);
        let init = attrs.str(keys::INIT).unwrap_or_default();
        let init: Init = init.parse().map_err(|e| bad(format!("{name}: {e}")))?;
        let mut dims: Vec<u64> = f.ty(p).dims.iter().map(|d| d.size as u64).collect();
        let axes = axes_of(attrs);
        // Sizes of the whole parameter.
        for (dim, axis) in dims.iter_mut().zip(&axes) {
            *dim *= mesh.iter().find(|(n, _)| n == axis).map_or(1, |(_, n)| *n);
        }
        let stacked = neoxc_plan::names::is_stacked(name);
        let layers = stacked.then(|| dims.remove(0));
        let layer_axis = (stacked && staged).then(|| "pipe".to_string());
        let held = |attrs: &Attrs| -> Result<Held, CodegenError> {
            let place = Emitter::places(attrs)?.pop().unwrap_or_default();
            let offset = place.split_once('+').and_then(|(_, o)| o.parse().ok());
            let axes = axes_of(attrs);
            Ok(Held {
                offsets: vec![Some(offset.ok_or_else(|| bad(format!("{name} has no place")))?)],
                axes: axes.into_iter().skip(usize::from(stacked)).collect(),
            })
        };
        let own = |(_, a): &(ValueId, &Attrs)| parameter_of(a) == name;
        let state = Role::State.all(f).filter(own).map(|(_, a)| {
            let slot = a.str(keys::SLOT).unwrap_or_default().to_string();
            Ok(State { slot, held: held(a)? })
        });
        let weights = held(attrs)?;
        let skip = |axes: Vec<&str>| -> Vec<String> {
            axes.into_iter().skip(usize::from(stacked)).map(str::to_string).collect()
        };
        let layout = match Role::Gradient.all(f).find(own) {
            Some((_, a)) => skip(a.strs(keys::LAYOUT).unwrap_or_default()),
            // As the weights, but whole on every data rank unless it says otherwise.
            None => match attrs.strs(keys::GRADIENT_LAYOUT) {
                Some(axes) => skip(axes),
                None => weights.axes.iter().map(|a| a.replace("data", "")).collect(),
            },
        };
        let gradient = match is_frozen(attrs) {
            true => None,
            false => {
                let offset = grads.next().ok_or_else(|| bad(format!("{name} has no gradient")))?;
                Some(Held { offsets: vec![Some(offset)], axes: layout })
            }
        };
        out.push(Parameter {
            name: name.to_string(),
            layers,
            layer_axis,
            shape: published_shape(attrs, &dims),
            dims,
            init,
            before_layers: attrs.flag(keys::BEFORE_LAYERS),
            gradient,
            weights,
            state: state.collect::<Result<_, CodegenError>>()?,
        });
    }
    Ok(out)
}

/// The mesh axis of each dim of a parameter; empty if it is not divided.
fn axes_of(attrs: &Attrs) -> Vec<String> {
    attrs.strs(keys::LAYOUT).unwrap_or_default().into_iter().map(str::to_string).collect()
}

/// The place of a value that an op makes.
fn place_of(f: &Function, v: ValueId) -> Option<String> {
    let op = f.ops.iter().find(|op| op.results.contains(&v))?;
    let at = op.results.iter().position(|r| *r == v)?;
    Emitter::places(&op.attrs).ok()?.get(at).cloned()
}

/// Whether the runtime gives a parameter of this role before a run.
fn is_given(role: Option<Role>) -> bool {
    matches!(role, Some(Role::Batch | Role::Layers | Role::Scalar))
}

/// What the runtime reads after a run: what an entry says it puts out, and what is to be added to each of its caches.
fn outputs(f: &Function) -> Result<Vec<Port>, CodegenError> {
    let unsaid = || bad(format!("@{} does not say what its results are", f.name));
    let mut out = vec![];
    for (what, r) in Output::all(f).ok_or_else(unsaid)?.into_iter().zip(&f.results) {
        let name = match what {
            Output::Port(name) => name,
            Output::Cache(name) => format!("new_{name}"),
            _ => continue,
        };
        let place = place_of(f, *r).ok_or_else(|| bad("an output has no place"))?;
        out.push(port(&name, f.ty(*r), &place, &Attrs::new())?);
    }
    Ok(out)
}

/// What the driver adds to a plan.
pub struct Extras {
    /// Compiler version.
    pub compiler: String,
    /// Target of the kernels `run` uses.
    pub target: String,
    /// Features of the processor that these may use.
    pub features: Vec<String>,
    /// Resolved configuration.
    pub config: serde_json::Value,
    /// Settings of the run.
    pub run: serde_json::Value,
    /// FLOPs of one step.
    pub flops_per_step: f64,
    /// Threads' scratch counts as this many copies.
    pub threads: u64,
}

/// Transcribes a scheduled module.
pub fn emit(m: &Module, kernels: &[Kernel], extras: Extras) -> Result<Plan, CodegenError> {
    let staged = m.attrs.get(keys::SLOTS).is_some();
    let classes = m.attrs.strs(keys::CLASSES).map_or(1, |c| c.len());
    let segments = segments(&slots_of(m, classes));
    let mut emitted = if staged {
        emit_stages(m, kernels, &segments, classes)?
    } else {
        emit_entries(m, kernels, &segments)?
    };
    // In the order in which a plan on disk has them.
    emitted.programs.sort_by(|a, b| a.name.cmp(&b.name));
    let segments = tables::segments(m, segments, emitted.bytes);
    let consts = tables::consts(m, staged, &segments)?;
    let mesh = tables::mesh(m);
    let parameters = all_parameters(m, &mesh, staged, classes)?;
    let count = |p: &Parameter| p.elements() * p.layers.unwrap_or(1);
    let stage_layers = m.attrs.strs(keys::STAGE_LAYERS).unwrap_or_default();
    let stage_class = m.attrs.ints(keys::STAGE_CLASS).unwrap_or_default();
    let mut plan = Plan {
        tables: Tables {
            compiler: extras.compiler,
            target: extras.target,
            features: extras.features,
            memory: Memory::default(),
            class_memory: tables::memory(m, &segments, kernels, extras.threads),
            parameter_count: parameters.iter().map(count).sum(),
            flops_per_step: extras.flops_per_step,
            tokens_per_step: tables::tokens(&emitted.programs, &mesh),
            mesh,
            stage_layers: stage_layers.into_iter().map(stages::layers).collect::<Result<_, _>>()?,
            stage_class: stage_class.iter().map(|n| (*n).max(0) as usize).collect(),
            schedules: emitted.schedules,
            segments,
            parameters,
            scalars: tables::scalars(m, classes)?,
            kernels: tables::kernels(m, kernels),
            ports: Default::default(),
            config: extras.config,
            run: extras.run,
        },
        programs: emitted.programs,
        consts,
        files: Default::default(),
    };
    let stages = plan.along("pipe", 0).0;
    let of_stages = (0..stages).map(|stage| plan.memory_of(stage));
    plan.tables.memory = of_stages.max_by_key(|m| m.peak).unwrap_or_default();
    Ok(plan)
}

/// The programs of a module, and what transcribing them has found.
struct Emitted {
    programs: Vec<Program>,
    schedules: BTreeMap<String, Schedule>,
    /// Bytes of each segment, by class of stages.
    bytes: Vec<Vec<u64>>,
}

/// The programs of a pipeline's stages, class by class.
fn emit_stages(
    m: &Module,
    kernels: &[Kernel],
    segments: &[Named],
    classes: usize,
) -> Result<Emitted, CodegenError> {
    let mut out = Emitted { programs: vec![], schedules: BTreeMap::new(), bytes: vec![] };
    for class in 0..classes {
        let mut e = Emitter::new(m, kernels, segments);
        let stages::Staged { programs, schedules } = stages::emit(&mut e, class)?;
        out.programs.extend(programs);
        for (name, s) in schedules {
            match out.schedules.get_mut(&name) {
                Some(known) => known.places.extend(s.places),
                None => {
                    out.schedules.insert(name, s);
                }
            }
        }
        out.bytes.push(e.bytes);
    }
    Ok(out)
}

/// The programs of one stage that is the whole model: its entries.
fn emit_entries(
    m: &Module,
    kernels: &[Kernel],
    segments: &[Named],
) -> Result<Emitted, CodegenError> {
    let mut e = Emitter::new(m, kernels, segments);
    let mut programs = vec![];
    for entry in ENTRIES {
        let Some(f) = m.function(entry) else {
            // A model with experts, a plan of several ranks; one that computes in f32.
            if ["decode", ROUND_WEIGHTS].contains(&entry) {
                continue;
            }
            return Err(bad(format!("there is no @{entry}")));
        };
        let body = e.body(f, &mut vec![], &mut vec![])?;
        let mut program = Program { name: entry.to_string(), body, ..Program::default() };
        for (p, attrs) in f.params.iter().zip(&f.param_attrs) {
            let place = Emitter::places(attrs)?.pop().unwrap_or_default();
            e.address(&place, &[], f.ty(*p).bytes() as u64, &[])?;
            let role = Role::of(attrs);
            let given = role == Some(Role::Cache) || is_given(role);
            if let Some(name) = attrs.str(keys::NAME).filter(|_| given) {
                program.inputs.push(port(name, f.ty(*p), &place, attrs)?);
            }
        }
        program.outputs = outputs(f)?;
        programs.push(program);
    }
    Ok(Emitted { programs, schedules: BTreeMap::new(), bytes: vec![e.bytes] })
}

/// The parameters of the model in its order, with their places on the stages of each class.
fn all_parameters(
    m: &Module,
    mesh: &[(String, u64)],
    staged: bool,
    classes: usize,
) -> Result<Vec<Parameter>, CodegenError> {
    let get = |name: String| m.function(&name).ok_or_else(|| bad(format!("there is no @{name}")));
    if !staged {
        return parameters(get("train_step".into())?, mesh, false);
    }
    let by_class: Vec<Vec<Parameter>> = (0..classes)
        .map(|class| parameters(get(name_of("train_finish", class))?, mesh, true))
        .collect::<Result<_, _>>()?;
    let stages = m.attrs.strs(keys::STAGE_LAYERS).unwrap_or_default();
    let runs: Vec<Vec<(u64, u64)>> =
        stages.into_iter().map(stages::layers).collect::<Result<_, _>>()?;
    let layers = runs.iter().flatten().map(|(_, n)| n).sum();
    let names = m.attrs.strs(keys::PARAMETERS).ok_or_else(|| bad("there are no parameters"))?;
    let mut out = vec![];
    for name in names {
        let here: Vec<Option<&Parameter>> =
            by_class.iter().map(|all| all.iter().find(|p| p.name == name)).collect();
        let some = here.iter().flatten().next();
        let mut p = (*some.ok_or_else(|| bad(format!("{name} is on no stage")))?).clone();
        for values in p.values() {
            let offset = |p: &&Parameter| p.held(&values).and_then(|held| held.offset(0));
            let offsets = here.iter().map(|p| p.as_ref().and_then(offset)).collect();
            let held = match &values {
                Values::Weights => Some(&mut p.weights),
                Values::Gradient => p.gradient.as_mut(),
                Values::State(slot) => {
                    p.state.iter_mut().find(|s| s.slot == *slot).map(|s| &mut s.held)
                }
            };
            if let Some(held) = held {
                held.offsets = offsets;
            }
        }
        p.layers = p.layers.map(|_| layers);
        out.push(p);
    }
    Ok(out)
}
