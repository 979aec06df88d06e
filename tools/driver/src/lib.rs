//! The driver: a configuration becomes a plan, phase by phase.
//!
//! Each phase's IR is kept as text (for `dump`, `explain` and replay); kernels of every target are
//! compiled in parallel and cached by content.
//!
//! # Example
//! What `neoxc compile configs/pythia/14M.yml configs/local/quickstart.yml -o plan` does:
//!
//! ```no_run
//! use neoxc_driver::Options;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let files = ["configs/pythia/14M.yml".into(), "configs/local/quickstart.yml".into()];
//! let config = neoxc_frontend::load(&files, None, &[]).config.ok_or("see the diagnostics")?;
//! let options = Options {
//!     targets: vec!["x86-64-native".parse()?],
//!     cache: None,
//!     threads: 2,
//!     machine: None,
//!     overlap: true,
//! };
//! let compiled = neoxc_driver::compile(&config, &options)?;
//! println!("{} bytes", compiled.plan.tables.memory.peak);
//! compiled.plan.write("plan".as_ref())?;
//! # Ok(())
//! # }
//! ```

// Printing is the runtime's `say`: the standard macros panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod clock;
mod error;
pub mod flops;
mod freeze;
pub mod hugging_face;
pub mod lower_config;
pub mod report;
mod resume;
pub mod tensors;
pub mod tune;
mod undivided;

use std::path::PathBuf;
use std::time::Instant;

pub use error::CompileError;
use neoxc_base::codes::no_main_target::no_main_target;
use neoxc_base::diag::Diagnostic;
pub use neoxc_codegen::CodegenError;
pub use neoxc_codegen::kernels::Cut;
use neoxc_codegen::kernels::{Choice, Tuned};
use neoxc_codegen::{emit_plan, gpu, kernels, x86};
use neoxc_frontend::Config;
use neoxc_ir::cluster::Machine;
use neoxc_ir::target::{Family, Target};
use neoxc_ir::{Module, keys, text};
use neoxc_passes::PassCx;
pub use neoxc_passes::Phase;
use neoxc_passes::schedule_pipeline::Schedule;
pub use neoxc_passes::{pass, pipeline};
use neoxc_plan::Plan;
pub use resume::config;
use resume::refused;

/// How to compile.
#[derive(Debug, Clone)]
pub struct Options {
    /// Targets; the first x86 one is what `run` uses.
    pub targets: Vec<Target>,
    /// Kernel cache, if any.
    pub cache: Option<PathBuf>,
    /// Threads that the runtime will have: their scratch is part of the memory.
    pub threads: u64,
    /// What the ranks are, if not this machine.
    pub machine: Option<Machine>,
    /// Whether collectives may go on beside compute, which takes memory.
    pub overlap: bool,
}

/// What compiling gave besides the plan.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The plan.
    pub plan: Plan,
    /// Milliseconds per phase.
    pub phases_ms: Vec<(String, f64)>,
    /// Notes of the passes: what was found, how much is saved.
    pub notes: Vec<(String, String)>,
    /// FLOPs of each program of one rank, run once.
    pub program_flops: std::collections::BTreeMap<String, f64>,
    /// The part of a step that stages wait, if backward takes twice as long as forward.
    pub bubble: f64,
    /// Distinct kernels, launches in the programs' text, and cache hits.
    pub kernels: KernelCounts,
    /// What of the configuration the plan does another way than was asked for.
    pub warnings: Vec<Diagnostic>,
}

/// Kernel numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelCounts {
    /// Launch instructions in the programs.
    pub count: usize,
    /// Distinct kernels.
    pub distinct: usize,
    /// Kernels that came from the cache.
    pub cached: usize,
}

/// Who is shown each phase: the module, milliseconds, and (pass, note) pairs.
pub type Seen<'a> = &'a mut dyn FnMut(Phase, &Module, f64, Vec<(String, String)>);

fn degrees(c: &Config) -> pass::Degrees {
    let p = &c.parallel;
    pass::Degrees {
        pipe: p.pipe,
        data: p.data,
        expert: p.expert,
        context: p.context,
        tensor: p.tensor,
    }
}

/// What passes are given for a configuration, on ranks that are `machine`, or one node of `target`.
pub fn settings(
    config: &Config,
    target: Target,
    machine: Option<Machine>,
    overlap: bool,
) -> PassCx {
    PassCx {
        degrees: degrees(config),
        zero_stage: config.parallel.zero_stage,
        sequence_parallel: config.parallel.sequence_parallel,
        expert_tensor: config.parallel.expert_tensor,
        schedule: config.parallel.schedule,
        machine: machine.unwrap_or(Machine::of(target)),
        overlap,
        chunks: config.parallel.chunks,
        partition: config.parallel.partition,
        ..PassCx::new(target)
    }
}

/// Runs all phases up to `last`; calls `seen` with each phase's module. Ranks are `machine`, or one node of
/// `target`.
pub fn phases(
    config: &Config,
    target: Target,
    machine: Option<Machine>,
    overlap: bool,
    last: Phase,
    seen: Seen<'_>,
) -> Result<Module, CompileError> {
    let start = Instant::now();
    let arch = lower_config::arch(config);
    hugging_face::is_of_family(config, &arch)?;
    let mut m = neoxc_models::build(&arch).map_err(|e| CompileError::Model(e.to_string()))?;
    lower_config::set_optimizer(config, &mut m)?;
    freeze::set_frozen(config, &mut m)?;
    resume::note(config, &mut m);
    let cx = settings(config, target, machine, overlap);
    cx.note(&mut m);
    neoxc_ir::verify(&m).map_err(|e| CompileError::Model(e.to_string()))?;
    seen(Phase::Model, &m, start.elapsed().as_secs_f64() * 1e3, vec![]);
    resume::go_on(m, &cx, last, seen)
}

/// Says whether a checked configuration compiles: runs every phase but the kernels', which no configuration fails. Gives
/// what the plan does another way than was asked for.
///
/// # Errors
/// What only the built model shows, or a mistake of neoxc.
pub fn check(config: &Config, o: &Options) -> Result<Vec<Diagnostic>, CompileError> {
    let main = main_target(o)?;
    let last = Phase::Scheduled;
    let m = phases(config, main, o.machine, o.overlap, last, &mut |_, _, _, _| {})?;
    Ok(undivided::warning(config, &m).into_iter().collect())
}

/// Compiles a checked configuration.
pub fn compile(config: &Config, o: &Options) -> Result<Compiled, CompileError> {
    let main = main_target(o)?;
    let mut dumps = Dumps::default();
    let mut seen = |phase, m: &Module, ms, notes| dumps.keep(phase, m, ms, notes);
    let m = phases(config, main, o.machine, o.overlap, Phase::Scheduled, &mut seen)?;
    emit(config, &settings(config, main, o.machine, o.overlap), &m, dumps, o)
}

/// Compiles what a dump holds, from the pass on that stands behind the last one that has run on it. Its settings
/// stand at its head; `o` changes the target and the machine.
pub fn compile_from(m: Module, o: &Options) -> Result<Compiled, CompileError> {
    let main = main_target(o)?;
    let config = resume::config(&m)?;
    let mut cx = PassCx::new(main).of_module(&m).map_err(|e| refused(&e))?;
    if cx.target != main || o.machine.is_some() {
        cx.target = main;
        cx.machine = o.machine.unwrap_or(Machine::of(main));
    }
    cx.overlap &= o.overlap;
    let mut dumps = Dumps::default();
    let mut seen = |phase, m: &Module, ms, notes| dumps.keep(phase, m, ms, notes);
    let m = resume::go_on(m, &cx, Phase::Scheduled, &mut seen)?;
    emit(&config, &cx, &m, dumps, o)
}

/// The target whose kernels `run` uses.
fn main_target(o: &Options) -> Result<Target, CompileError> {
    o.targets.iter().copied().find(|t| t.family() == Family::X86).ok_or_else(|| {
        let names: Vec<&str> = o.targets.iter().map(|t| t.name()).collect();
        CompileError::Target(Box::new(no_main_target(&names)))
    })
}

/// What is kept of the phases.
#[derive(Default)]
struct Dumps {
    phases_ms: Vec<(String, f64)>,
    notes: Vec<(String, String)>,
    files: std::collections::BTreeMap<String, Vec<u8>>,
}

impl Dumps {
    fn keep(&mut self, phase: Phase, m: &Module, ms: f64, notes: Vec<(String, String)>) {
        self.phases_ms.push((phase.name().to_string(), ms));
        for (pass, note) in &notes {
            tracing::info!("{pass}: {note}");
        }
        self.notes.extend(notes);
        self.files.insert(format!("ir/{}.mlir", phase.name()), text::print(m).into_bytes());
    }
}

/// Compiles the kernels of a scheduled module for every target, and makes the plan.
fn emit(
    config: &Config,
    cx: &PassCx,
    m: &Module,
    dumps: Dumps,
    o: &Options,
) -> Result<Compiled, CompileError> {
    let main = cx.target;
    let Dumps { mut phases_ms, notes, mut files } = dumps;
    let start = Instant::now();
    let functions = emit_plan::kernel_functions(m);
    let mut cached = 0;
    let mut first = vec![];
    for target in &o.targets {
        if target.family() != Family::X86 {
            let built = functions
                .iter()
                .map(|f| kernels::build_gpu(m, f, *target))
                .collect::<Result<Vec<_>, _>>()?;
            let made = gpu::compile(&built, *target, o.cache.as_deref())?;
            cached += made.cached;
            files.insert(format!("kernels/{target}.{}", made.extension), made.file);
            let dump: String = built.iter().map(|k| k.mlir.as_str()).collect::<Vec<_>>().join("\n");
            files.insert(format!("ir/kernels.{target}.mlir"), dump.into_bytes());
            continue;
        }
        let tuned = o.cache.as_ref().and_then(|dir| Tuned::open(dir, *target));
        let choice = tuned.as_ref().map_or(Choice::Model, Choice::Tuned);
        let built = functions
            .iter()
            .map(|f| kernels::build_for(m, f, *target, x86::Cpu::of(*target), choice))
            .collect::<Result<Vec<_>, _>>()?;
        let made = x86::compile(&built, *target, o.cache.as_deref())?;
        cached += made.cached;
        files.insert(format!("kernels/{target}.so"), made.so);
        let dump: String = built.iter().map(|k| k.mlir.as_str()).collect::<Vec<_>>().join("\n");
        files.insert(format!("ir/kernels.{target}.mlir"), dump.into_bytes());
        if *target == main {
            first = built;
        }
    }
    phases_ms.push((Phase::Kernels.name().to_string(), start.elapsed().as_secs_f64() * 1e3));
    let extras = emit_plan::Extras {
        compiler: env!("CARGO_PKG_VERSION").to_string(),
        target: main.name().to_string(),
        features: x86::features(main),
        config: serde_json::to_value(config).unwrap_or_default(),
        run: serde_json::to_value(lower_config::run(config)).unwrap_or_default(),
        flops_per_step: m.attrs.float(keys::FLOPS).unwrap_or(0.0),
        threads: (o.threads / cx.degrees.ranks() as u64).max(1),
    };
    let mut plan = emit_plan::emit(m, &first, extras)?;
    plan.files = files;
    plan.bind_kernels().map_err(|e| CompileError::Model(e.to_string()))?;
    let kernels = KernelCounts {
        count: plan.programs.iter().map(|p| flops::launches(&p.body)).sum(),
        distinct: first.len(),
        cached,
    };
    let program_flops =
        plan.programs.iter().map(|p| (p.name.clone(), flops::of_entry(m, &p.name))).collect();
    let bubble = match plan.tables.schedules.get("train_step") {
        None => 0.0,
        Some(s) => {
            let micro = s.micro as usize;
            Schedule::train(cx.schedule, s.stages.len(), s.chunks(), micro).bubble()
        }
    };
    let warnings = undivided::warning(config, m).into_iter().collect();
    Ok(Compiled { plan, phases_ms, notes, program_flops, bubble, kernels, warnings })
}
