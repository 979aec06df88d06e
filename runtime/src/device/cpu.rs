//! The CPU: segments in memory, kernels from the plan's shared object, a pool of threads.

use std::io::{Seek, Write};
use std::sync::Arc;
use std::time::Duration;

use neoxc_base::processor;
use neoxc_plan::{Address, Collective, Instr, MAX_DEPTH, Plan, ROUND_WEIGHTS, SegmentKind, Stride};

use super::Device;
use super::check::{Check, Found};
use super::gate::{Gate, Loan};
use super::limits;
use super::log::{Event, Log, Watch, What};
use super::memory::Segment;
use super::pool::{Entry, Pool};
use super::staged::{Action, At, Staged};
use crate::RuntimeError;
use crate::collectives::{Collectives, Sizes, Ticket, sizes, take_part};

/// An address with the offset that each enclosing loop adds.
type Moving = (usize, Vec<(usize, usize)>);

/// A launch with everything resolved but the loop offsets.
enum Step {
    Launch {
        entry: Entry,
        tasks: u64,
        args: Vec<Moving>,
        kernel: u32,
        /// Number of the program in the plan, and line in its text.
        place: (u32, u32),
        /// Whether it changes weights or optimizer state.
        updates: bool,
    },
    Collective {
        kind: Collective,
        axis: usize,
        shape: Sizes,
        from: Moving,
        to: Moving,
        event: Option<usize>,
        updates: bool,
        /// Where it stands, for people.
        place: String,
    },
    /// For an event; and the place of the collective that has it.
    Wait(usize, String),
    Loop {
        depth: usize,
        count: usize,
        reverse: bool,
        body: Vec<Step>,
    },
}

/// The CPU of this machine.
pub struct CpuDevice {
    segments: Vec<Arc<Segment>>,
    /// By segment: the allocation that has its bytes, and where they begin.
    allocations: Vec<(usize, u64)>,
    /// By segment: whether checkpoints hold it.
    state: Vec<bool>,
    /// Closed while these are on loan.
    gate: Arc<Gate>,
    /// Addresses of numbers without which they are not updated if they are not finite.
    guards: Vec<usize>,
    programs: Vec<(String, Vec<Step>)>,
    /// The segment of weights that are to be rounded for programs which read them so.
    rounding: Option<usize>,
    /// Whether weights have come from outside since it was run.
    stale: bool,
    /// What this rank's stage does where a program is run in parts.
    schedules: Vec<(String, Staged)>,
    pool: Pool,
    pointers: Vec<*mut u8>,
    /// The iteration of each loop around, by depth; behind those the iterations that come next.
    index: Vec<usize>,
    /// By event: the axis of the collective that is under way with it, and its ticket.
    events: Vec<Option<(usize, Ticket)>>,
    /// The other ranks, if there are any.
    others: Option<Arc<dyn Collectives>>,
    /// Who looks at what is done.
    watch: Watch,
    // Kept last: symbols point into it.
    _library: libloading::Library,
    // The loader knows libraries by path, here /proc/self/fd/N: N must stay taken while one is loaded.
    _file: std::fs::File,
}

// SAFETY: the raw pointers are scratch for a launch's arguments and point into the device's own
// segments; whoever holds `&mut` is the only one to use them.
unsafe impl Send for CpuDevice {}

/// Refuses a plan whose kernels have instructions that this machine does not have.
pub fn check_processor(plan: &Plan) -> Result<(), RuntimeError> {
    let (listed, target) = (&plan.tables.features, plan.tables.target.parse());
    // Plans of earlier versions list none: their target tells the least.
    let least = target.map_or(vec![], |t| processor::of(t, ""));
    let missing = processor::missing(if listed.is_empty() { &least } else { listed });
    match missing[..] {
        [] => Ok(()),
        _ => Err(RuntimeError::Kernels(format!(
            "the plan was compiled for a processor with {}, which this one does not have",
            missing.join(", ")
        ))),
    }
}

/// Refuses a plan if these ranks together take more memory than can be had.
pub fn check_memory(plan: &Plan, threads: usize, ranks: &[u64]) -> Result<(), RuntimeError> {
    let scratch = plan.tables.kernels.iter().map(|k| k.scratch).max().unwrap_or(0);
    let one = |rank: u64| {
        let stage = plan.along("pipe", rank).1;
        let sizes = plan.tables.segments.iter().map(|s| plan.allocated_bytes(s, stage));
        sizes.sum::<u64>().saturating_add(scratch.saturating_mul(threads as u64))
    };
    let all = ranks.iter().fold(0, |sum: u64, rank| sum.saturating_add(one(*rank)));
    limits::check(neoxc_base::codes::memory::PLAN, all)
}

impl CpuDevice {
    /// Allocates the plan's segments and loads its kernels, for a plan of one rank.
    pub fn new(plan: &Plan, threads: usize) -> Result<CpuDevice, RuntimeError> {
        if plan.ranks() != 1 {
            return Err(RuntimeError::Settings(format!("the plan is for {} ranks", plan.ranks())));
        }
        check_memory(plan, threads, &[0])?;
        Self::build(plan, threads, None)
    }

    /// One rank of several.
    pub fn with_collectives(
        plan: &Plan,
        threads: usize,
        others: Arc<dyn Collectives>,
    ) -> Result<CpuDevice, RuntimeError> {
        Self::build(plan, threads, Some(others))
    }

    /// Tells the other ranks not to wait for this one any more.
    pub fn give_up(&self) {
        if let Some(o) = &self.others {
            o.give_up();
        }
    }

    fn build(
        plan: &Plan,
        threads: usize,
        others: Option<Arc<dyn Collectives>>,
    ) -> Result<CpuDevice, RuntimeError> {
        check_processor(plan)?;
        let file = plan.library();
        let bytes = plan
            .files
            .get(&file)
            .ok_or_else(|| RuntimeError::Kernels(format!("the plan has no {file}")))?;
        plan.check_kernels()?;
        let (library, file) = load(bytes)?;
        super::tiles::allow(&library)?;
        let scratch = plan.tables.kernels.iter().map(|k| k.scratch).max().unwrap_or(0);
        let axes = &plan.tables.mesh[..];
        let stage = axes
            .iter()
            .position(|(name, _)| name == "pipe")
            .and_then(|n| Some(others.as_ref()?.place(n).1))
            .unwrap_or(0);
        let segments = plan
            .tables
            .segments
            .iter()
            .map(|s| Ok(Arc::new(Segment::new(plan.allocated_bytes(s, stage as u64))?)))
            .collect::<Result<Vec<_>, RuntimeError>>()?;
        let state: Vec<bool> = plan.tables.segments.iter().map(|s| s.kind.is_state()).collect();
        let mut entries = vec![];
        for k in &plan.tables.kernels {
            // SAFETY: the symbol was compiled with the kernel ABI; the plan's hashes vouch for it.
            let symbol = unsafe { library.get::<Entry>(k.name.as_bytes()) };
            let entry = symbol.map_err(|e| RuntimeError::Kernels(format!("{}: {e}", k.name)))?;
            entries.push((*entry, k.tasks));
        }
        let most = plan.tables.kernels.iter().map(|k| k.args.len()).max().unwrap_or(0);
        let allocations: Vec<(usize, u64)> =
            (0..segments.len()).map(|n| plan.allocation(n)).collect();
        let base = |(at, offset): &(usize, u64)| segments[*at].base() as usize + *offset as usize;
        let bases: Vec<usize> = allocations.iter().map(base).collect();
        let loaded = Loaded { entries: &entries, bases: &bases, state: &state, plan };
        let programs = plan
            .programs
            .iter()
            .enumerate()
            .map(|(n, p)| {
                let file = (n, &*format!("programs/{}.txt", p.name));
                (p.name.clone(), resolve(&p.body, &loaded, 0, (file, &mut 0)))
            })
            .collect();
        let rounding =
            plan.segment_of(SegmentKind::Weights).filter(|_| plan.program(ROUND_WEIGHTS).is_some());
        let slots = plan.segment_of(SegmentKind::Slots).map_or(0, |at| bases[at]);
        let schedules = plan
            .tables
            .schedules
            .iter()
            .map(|(name, s)| Ok((name.clone(), Staged::new(plan, s, stage, slots)?)))
            .collect::<Result<_, RuntimeError>>()?;
        let mut device = CpuDevice {
            segments,
            allocations,
            state,
            gate: Arc::default(),
            guards: vec![],
            programs,
            rounding,
            stale: true,
            schedules,
            pool: Pool::new(threads, scratch)?,
            pointers: vec![std::ptr::null_mut(); most],
            index: vec![0; 2 * MAX_DEPTH],
            events: vec![None; plan.events()],
            others,
            watch: Watch::Nobody,
            _library: library,
            _file: file,
        };
        if let Some(at) = plan.segment_of(SegmentKind::Consts) {
            device.write(at, 0, &plan.consts);
        }
        Ok(device)
    }

    /// Runs this stage's schedule.
    fn run_staged(&mut self, at: usize) -> Result<(), RuntimeError> {
        let staged = &mut self.schedules[at].1;
        let lost = || RuntimeError::Settings("a part of the schedule is missing".into());
        // The instructions for one slot, micro-batch and chunk stand inside three loops.
        let parts: Vec<&[Step]> = staged
            .parts
            .iter()
            .map(|name| {
                let (_, steps) = self.programs.iter().find(|(n, _)| n == name)?;
                let mut inside = &steps[..];
                for _ in 0..3 {
                    let [Step::Loop { body, .. }] = inside else { return None };
                    inside = body;
                }
                Some(inside)
            })
            .collect::<Option<_>>()
            .ok_or_else(lost)?;
        let others = self.others.as_deref().ok_or_else(lost)?;
        let (stride, axis) = (staged.stride, staged.axis);
        let hold = Hold { gate: &self.gate, guards: &self.guards };
        let (pool, pointers, index) = (&mut self.pool, &mut self.pointers, &mut self.index);
        let (events, watch) = (&mut self.events, &mut self.watch);
        staged.each(&mut |action, at| {
            let start = watch.now();
            let moved = match action {
                Action::Run { part, last } => {
                    index[..3].copy_from_slice(&[at.slot, at.micro, at.chunk]);
                    let steps = parts[last.filter(|_| at.is_last).unwrap_or(*part)];
                    return execute(
                        steps,
                        pool,
                        pointers,
                        index,
                        events,
                        &hold,
                        Some(others),
                        watch,
                    );
                }
                // SAFETY: a validated plan keeps the value inside its slot; the schedule was proved to use a
                // slot again only after the value in it was received, and to pair every send with a
                // receive.
                Action::Send { forward, channel, base, elements } => unsafe {
                    let from = (base + at.slot * stride) as *const f32;
                    others
                        .send(axis, (*forward, *channel), from, *elements, at.slots - 1)
                        .map_err(|e| e.at(&handed("send", *forward, at)))
                },
                // SAFETY: as above.
                Action::Receive { forward, channel, base, elements } => unsafe {
                    let to = (base + at.slot * stride) as *mut f32;
                    others
                        .receive(axis, (*forward, *channel), to, *elements)
                        .map_err(|e| e.at(&handed("receive", *forward, at)))
                },
            };
            watch.done(What::Collective(axis as u32), start);
            moved
        })?;
        others.settle().map_err(|e| e.at("the end of the schedule"))
    }

    /// Notes from now on what is done when, in seconds after `origin`, with room for `events`.
    pub fn log(&mut self, origin: std::time::Instant, events: usize) {
        self.watch = Watch::Log(Log::new(origin, events));
    }

    /// What was done since [`CpuDevice::log`].
    pub fn logged(&self) -> &[Event] {
        match &self.watch {
            Watch::Log(log) => log.events(),
            _ => &[],
        }
    }

    /// Looks from now on for a launch that writes a number that is not finite.
    pub fn check(&mut self, plan: &Plan) {
        self.watch = Watch::Check(Check::new(plan.tables.kernels.clone()));
    }

    /// The first one since [`CpuDevice::check`].
    pub fn found(&self) -> Option<&Found> {
        match &self.watch {
            Watch::Check(check) => check.found(),
            _ => None,
        }
    }

    /// Bytes of a segment, for checkpoints.
    pub fn bytes(&self, segment: usize, offset: u64, len: usize) -> &[u8] {
        let (at, before) = self.allocations[segment];
        self.segments[at].slice(before + offset, len)
    }

    /// Bytes of a segment, to fill.
    pub fn bytes_mut(&mut self, segment: usize, offset: u64, len: usize) -> &mut [u8] {
        if self.state[segment] {
            self.gate.wait();
        }
        self.stale |= self.rounding == Some(segment);
        let (at, before) = self.allocations[segment];
        // SAFETY: no kernel runs beside `&mut self`, and those it is lent to read only the state, which
        // is not on loan any more.
        unsafe { self.segments[at].slice_mut(before + offset, len) }
    }

    /// Lends weights and optimizer state: programs run on, up to the first instruction that would change them.
    pub fn lend(&self) -> Loan {
        Loan::new(&self.segments, &self.gate)
    }

    /// From now on weights and optimizer state stay as they are while one of these numbers (f32, by segment and
    /// offset) is not finite. A program computes them before its first update.
    pub fn guard(&mut self, numbers: &[(usize, u64)]) {
        let address = |(at, offset): &(usize, u64)| self.bytes(*at, *offset, 4).as_ptr() as usize;
        self.guards = numbers.iter().map(address).collect();
    }

    /// How long programs have waited for what was lent.
    pub fn waited(&self) -> Duration {
        self.gate.waited()
    }
}

/// Loads a shared object from memory: what runs is what was verified.
pub(super) fn load(bytes: &[u8]) -> Result<(libloading::Library, std::fs::File), RuntimeError> {
    let fail = |e: &dyn std::fmt::Display| RuntimeError::Kernels(format!("cannot be loaded: {e}"));
    // SAFETY: memfd_create takes a C string and flags; the result is checked.
    let fd = unsafe { libc::memfd_create(c"neoxc-kernels".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(fail(&std::io::Error::last_os_error()));
    }
    // SAFETY: `fd` is a fresh descriptor that nobody else owns.
    let mut file = unsafe { <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    file.write_all(bytes).and_then(|()| file.rewind()).map_err(|e| fail(&e))?;
    // SAFETY: the object has no initialisers; it was made by the compiler and verified by hash.
    let library = unsafe { libloading::Library::new(format!("/proc/self/fd/{fd}")) };
    Ok((library.map_err(|e| fail(&e))?, file))
}

/// What instructions refer to.
struct Loaded<'a> {
    plan: &'a Plan,
    entries: &'a [(Entry, u64)],
    bases: &'a [usize],
    state: &'a [bool],
}

/// `line` counts the lines of `file`, the program's number and the name of its text.
fn resolve(
    body: &[Instr],
    loaded: &Loaded,
    depth: usize,
    (file, line): ((usize, &str), &mut usize),
) -> Vec<Step> {
    let (kernels, axes) = (&loaded.plan.tables.kernels, &loaded.plan.tables.mesh);
    // By event: the collective of this body that has it.
    let mut started: Vec<(usize, String)> = vec![];
    let address = |a: &Address| {
        let number = |s: &Stride| if s.next { MAX_DEPTH + s.depth } else { s.depth };
        let strides = a.strides.iter().map(|s| (number(s), s.bytes as usize)).collect();
        (loaded.bases[a.segment] + a.offset as usize, strides)
    };
    let updates = |a: &Address| loaded.state[a.segment];
    let mut step = |instr: &Instr| {
        // As `print_program` writes them.
        *line += 1;
        match instr {
            Instr::Launch { kernel, args, .. } => {
                let (entry, tasks) = loaded.entries[*kernel];
                let updates = args.iter().skip(kernels[*kernel].operands).any(updates);
                let args = args.iter().map(address).collect();
                let place = (file.0 as u32, *line as u32);
                Step::Launch { entry, tasks, args, kernel: *kernel as u32, place, updates }
            }
            Instr::Collective { kind, axis, shape, from, to, event, loc } => {
                let place = format!("`{} {axis}` ({}:{line}, {loc})", kind.name(), file.1);
                started.extend(event.map(|e| (e, place.clone())));
                Step::Collective {
                    event: *event,
                    kind: *kind,
                    // A validated plan names no other axes.
                    axis: axes.iter().position(|(name, _)| name == axis).unwrap_or(axes.len()),
                    shape: sizes(shape),
                    from: address(from),
                    to: address(to),
                    updates: updates(to),
                    place,
                }
            }
            Instr::Wait { event } => {
                let place = started.iter().rev().find(|(e, _)| e == event);
                Step::Wait(*event, place.map(|(_, p)| p.clone()).unwrap_or_default())
            }
            Instr::Loop { count, reverse, body, .. } => {
                let body = resolve(body, loaded, depth + 1, (file, line));
                *line += 1;
                Step::Loop { depth, count: *count as usize, reverse: *reverse, body }
            }
        }
    };
    body.iter().map(&mut step).collect()
}

/// What a stage waits for when it hands a value on, for people.
fn handed(what: &str, forward: bool, at: At) -> String {
    let whom = if (what == "send") == forward { "the next stage" } else { "the stage before" };
    let preposition = if what == "send" { "to" } else { "from" };
    let At { micro, chunk, .. } = at;
    format!("`{what}` {preposition} {whom} (step {micro} of chunk {chunk} in the schedule)")
}

/// What may keep a program from updating weights and optimizer state.
struct Hold<'a> {
    gate: &'a Gate,
    guards: &'a [usize],
}

impl Hold<'_> {
    /// Waits until the state is not on loan; whether it may change then.
    fn lets_update(&self) -> bool {
        self.gate.wait();
        // SAFETY: addresses of whole numbers inside segments (`guard`), which live as long as the device;
        // the kernels that write them are over.
        self.guards.iter().all(|at| unsafe { (*at as *const f32).read_unaligned() }.is_finite())
    }
}

#[allow(clippy::too_many_arguments)] // a rank's whole state
fn execute(
    steps: &[Step],
    pool: &mut Pool,
    pointers: &mut [*mut u8],
    index: &mut [usize],
    events: &mut [Option<(usize, Ticket)>],
    hold: &Hold,
    others: Option<&dyn Collectives>,
    watch: &mut Watch,
) -> Result<(), RuntimeError> {
    for step in steps {
        match step {
            Step::Launch { entry, tasks, args, kernel, place, updates } => {
                if *updates && !hold.lets_update() {
                    continue;
                }
                for (slot, at) in pointers.iter_mut().zip(args) {
                    *slot = here(at, index) as *mut u8;
                }
                if let Watch::Check(check) = watch {
                    // SAFETY: what a launch reads nobody writes to beside it.
                    unsafe { check.before(*kernel as usize, pointers) };
                }
                let start = watch.now();
                // SAFETY: a validated plan keeps every argument inside its segment; the compiler
                // checked that no kernel overwrites what it reads.
                unsafe { pool.launch(*entry, pointers.as_ptr(), *tasks) };
                watch.done(What::Kernel(*kernel), start);
                if let Watch::Check(check) = watch {
                    let place = (place.0 as usize, place.1 as usize);
                    // SAFETY: nor does anybody write to its results.
                    unsafe { check.after(*kernel as usize, pointers, place, index) };
                }
            }
            Step::Collective { kind, axis, shape, from, to, event, updates, place } => {
                let Some(others) = others else { continue };
                if *updates && !hold.lets_update() {
                    continue;
                }
                let from = here(from, index) as *mut f32;
                let to = here(to, index) as *mut f32;
                let start = watch.now();
                // SAFETY: a validated plan keeps both inside their segments and leaves them alone until
                // the collective is waited for, the compiler keeps them apart, and all ranks of a group
                // make the same collectives in the same order.
                unsafe {
                    match event {
                        _ if *kind == Collective::TakePart => {
                            let [before, dim, after, ..] = *shape;
                            take_part(others.place(*axis), from, to, [before, dim, after]);
                        }
                        None => others
                            .collective(*axis, *kind, *shape, from, to)
                            .map_err(|e| e.at(place))?,
                        Some(event) => {
                            // Of the iteration before.
                            if let Some((axis, ticket)) = events[*event].take() {
                                others.wait(axis, ticket).map_err(|e| e.at(place))?;
                            }
                            let ticket = others.start(*axis, *kind, *shape, from, to);
                            let ticket = ticket.map_err(|e| e.at(place))?;
                            events[*event] = Some((*axis, ticket));
                        }
                    }
                }
                watch.done(What::Collective(*axis as u32), start);
            }
            Step::Wait(event, place) => {
                let Some(others) = others else { continue };
                // Nothing was started where nothing may be updated.
                let Some((axis, ticket)) = events[*event].take() else { continue };
                let start = watch.now();
                // SAFETY: the ticket is that of a start, and is taken once.
                unsafe { others.wait(axis, ticket).map_err(|e| e.at(place))? };
                watch.done(What::Collective(axis as u32), start);
            }
            Step::Loop { depth, count, reverse, body } => {
                for i in 0..*count {
                    let number = |i| if *reverse { count - 1 - i } else { i };
                    index[*depth] = number(i);
                    index[MAX_DEPTH + depth] = number((i + 1) % count);
                    execute(body, pool, pointers, index, events, hold, others, watch)?;
                }
            }
        }
    }
    Ok(())
}

/// The address in this iteration.
fn here(at: &Moving, index: &[usize]) -> usize {
    at.0 + at.1.iter().map(|(depth, stride)| index[*depth] * stride).sum::<usize>()
}

impl Device for CpuDevice {
    fn run(&mut self, program: &str) -> Result<(), RuntimeError> {
        if self.stale && self.rounding.is_some() {
            self.stale = false;
            if program != ROUND_WEIGHTS {
                self.run(ROUND_WEIGHTS)?;
            }
        }
        if let Some(at) = self.schedules.iter().position(|(n, _)| n == program) {
            return self.run_staged(at);
        }
        let at = self.programs.iter().position(|(n, _)| n == program);
        let at = at.ok_or_else(|| RuntimeError::Settings(format!("the plan has no {program}")))?;
        let steps = &self.programs[at].1;
        execute(
            steps,
            &mut self.pool,
            &mut self.pointers,
            &mut self.index,
            &mut self.events,
            &Hold { gate: &self.gate, guards: &self.guards },
            self.others.as_deref(),
            &mut self.watch,
        )
    }

    fn write(&mut self, segment: usize, offset: u64, bytes: &[u8]) {
        self.bytes_mut(segment, offset, bytes.len()).copy_from_slice(bytes);
    }

    fn read(&self, segment: usize, offset: u64, bytes: &mut [u8]) {
        bytes.copy_from_slice(self.bytes(segment, offset, bytes.len()));
    }

    fn width(&self) -> usize {
        self.pool.width()
    }
}
