//! The plan: everything that the runtime needs, as a folder of verified files. There are no compiler types in it.
//!
//! ```text
//! plan/manifest.json            format version; size and SHA-256 of every other file
//!      plan.json                segments, parameters, kernels, ports, memory, run settings
//!      programs/<name>.txt      instruction lists, readable
//!      consts.bin               initial bytes of the `consts` segment
//!      kernels/<target>.so …    machine code
//!      ir/<phase>.mlir          the IR of each phase, for `neoxc dump` and `explain`
//! ```
//! Invariant: a [`Plan`] that [`Plan::open`] returned is whole (every file as it was written) and
//! valid (every address of every loop iteration lies inside its segment).
//!
//! # Example
//! A program is text with loops, launches and collectives. This one sums a value of four floats over two ranks, once per layer.
//! A plan whose addresses do not fit its memory is not written.
//!
//! ```
//! use neoxc_plan::{Plan, Program, Segment, parse_program};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut plan = Plan::default();
//! plan.tables.mesh = vec![("tensor".into(), 2)];
//! plan.tables.segments = vec![Segment { name: "arena".into(), bytes: vec![64], ..Segment::default() }];
//! let text = "\
//! loop layer 4
//!   all_reduce tensor 1 4 1 arena+0+layer*16 arena+0+layer*16
//! end
//! ";
//! let body = parse_program(text, &["arena".into()], &[])?;
//! plan.programs.push(Program { name: "eval_step".into(), body, ..Program::default() });
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("plan");
//! plan.write(&path)?;
//! assert_eq!(Plan::open(&path)?.programs, plan.programs);
//!
//! plan.tables.segments[0].bytes = vec![63];
//! let refused = plan.check().expect_err("the last layer's value ends at byte 64");
//! println!("{refused}");
//!
//! let file = path.join("programs/eval_step.txt");
//! std::fs::write(&file, std::fs::read_to_string(&file)?.replace("layer 4", "layer 3"))?;
//! assert!(Plan::open(&path).is_err(), "the hash of the file is in the manifest");
//! # Ok(())
//! # }
//! ```

// Printing is the runtime's `say`: the standard macros panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod bound;
mod formula;
mod held;
pub mod init;
pub mod names;
mod program;
mod replace;
mod schedule;
mod store;
mod trust;
mod validate;
mod values;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use formula::{Formula, Given};
pub use held::{Block, Held, Run};
pub use init::Init;
pub use neoxc_base::entry::{ROUND_WEIGHTS, name_of};
pub use program::{
    Address, Collective, Instr, MAX_DEPTH, ProgramError, Stride, parse_program, print_program,
};
pub use replace::may_replace;
pub use schedule::{Handed, Move, Round, Schedule, SlotPlaces, Turn, parse_schedule};
pub use values::{SegmentKind, State, Values};

/// The axis of the first and the last stage of a pipeline.
pub const ENDS: &str = "ends";

/// Version of the format; a plan of another version is refused.
pub const FORMAT: u32 = 9;

/// Why a plan was refused.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what was written.
    #[error("{path}: {message}")]
    Damaged {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The parts do not fit together.
    #[error("the plan is inconsistent: {0}")]
    Invalid(String),
    /// Writing would replace something that is not a plan.
    #[error("{0}: exists and is not a plan alone: {1}; nothing was written")]
    NotAPlan(std::path::PathBuf, String),
    /// Somebody else may write to what would be run.
    #[error("{0}: {1}, and a plan is code that runs as you")]
    Untrusted(std::path::PathBuf, String),
}

/// Memory of one rank, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Parameters.
    pub parameters: u64,
    /// Gradients. Where a step is one program, other values have these bytes until a gradient is written.
    pub gradients: u64,
    /// Optimizer state.
    pub optimizer: u64,
    /// Values kept from the forward to the backward pass, beyond what lies where gradients come.
    pub activations: u64,
    /// The rest: temporary values, tables, inputs, scratch.
    pub workspace: u64,
    /// All of it together: what is allocated.
    pub peak: u64,
}

/// One allocation, or a part of another that has a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Segment {
    /// Its name in addresses.
    pub name: String,
    /// What it holds.
    pub kind: SegmentKind,
    /// Bytes on the stages of each class.
    pub bytes: Vec<u64>,
    /// The number of the segment that it is a part of, and where in that it begins, bytes: gradients are a part of
    /// the arena where a step is one program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<(usize, u64)>,
}

/// A parameter tensor, or the stack of one parameter of all layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    /// Logical name; `{layer}` stands for the layer's number (see [`names`]).
    pub name: String,
    /// Number of layers, if stacked.
    pub layers: Option<u64>,
    /// The mesh axis over which the layers are divided, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_axis: Option<String>,
    /// Shape of one layer's tensor as published checkpoints have it.
    pub shape: Vec<u64>,
    /// The same elements by the dims that can be divided.
    pub dims: Vec<u64>,
    /// Start value.
    pub init: Init,
    /// Whether it is used before the layers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub before_layers: bool,
    /// Where the weights lie.
    pub weights: Held,
    /// Where their gradients lie; nowhere where the parameter is not trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient: Option<Held>,
    /// What the optimizer keeps of it, and where; nothing where the parameter is not trained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<State>,
}

impl Parameter {
    /// Elements of one layer's whole tensor.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Where values of it lie, if it has them.
    pub fn held(&self, values: &Values) -> Option<&Held> {
        match values {
            Values::Weights => Some(&self.weights),
            Values::Gradient => self.gradient.as_ref(),
            Values::State(slot) => self.state.iter().find(|s| s.slot == *slot).map(|s| &s.held),
        }
    }

    /// All values that it has.
    pub fn values(&self) -> Vec<Values> {
        let state = self.state.iter().map(|s| Values::State(s.slot.clone()));
        let gradient = self.gradient.as_ref().map(|_| Values::Gradient);
        [Values::Weights].into_iter().chain(gradient).chain(state).collect()
    }

    /// Each tensor's logical name, layer by layer.
    pub fn names(&self) -> Vec<String> {
        match self.layers {
            None => vec![self.name.clone()],
            Some(n) => (0..n).map(|i| names::of_slice(&self.name, i)).collect(),
        }
    }
}

/// A compiled kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Symbol.
    pub name: String,
    /// Family, for profiles.
    pub family: String,
    /// Independent tasks.
    pub tasks: u64,
    /// Scratch per thread, bytes.
    pub scratch: u64,
    /// Bytes of each argument, operands before results.
    pub args: Vec<u64>,
    /// Their element types: `f32`, `bf16`, `f16`, `i32`.
    #[serde(default)]
    pub dtypes: Vec<String>,
    /// How many of the arguments are operands, which it only reads.
    pub operands: usize,
    /// YAML places it came from.
    pub loc: String,
    /// Floating-point operations of one launch.
    #[serde(default)]
    pub flops: u64,
    /// Bytes that a launch has to read and write, each once.
    #[serde(default)]
    pub bytes: u64,
    /// Whether it is a matmul of bf16 operands, and so has the limit of those.
    #[serde(default)]
    pub bf16: bool,
}

/// A named input or output of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Name.
    pub name: String,
    /// `f32` or `i32`; `bf16` or `f16` of what is kept between two runs of a program.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// Segment and offset in bytes.
    pub segment: String,
    /// Offset, bytes.
    pub offset: u64,
    /// For each dim the mesh axis that it is divided over, or nothing: `shape` is one rank's part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub axes: Vec<String>,
}

impl Port {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes of an element.
    pub fn width(&self) -> u64 {
        if matches!(self.dtype.as_str(), "bf16" | "f16") { 2 } else { 4 }
    }
}

/// One entry point.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Program {
    /// `train_step`, `eval_step`, `logits`, `decode`, `round_weights`, or a part of a stage's step.
    pub name: String,
    /// Inputs the runtime fills.
    pub inputs: Vec<Port>,
    /// Outputs the runtime reads.
    pub outputs: Vec<Port>,
    /// Instructions.
    pub body: Vec<Instr>,
}

/// The part of the plan that `plan.json` holds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Tables {
    /// Compiler version.
    pub compiler: String,
    /// Target of the kernels that `run` uses.
    pub target: String,
    /// Features of the processor that these may use ([`neoxc_base::processor`]).
    #[serde(default)]
    pub features: Vec<String>,
    /// Memory of the rank that needs most.
    pub memory: Memory,
    /// Memory of a rank of each class of stages, with as many slots as any stage has.
    pub class_memory: Vec<Memory>,
    /// Parameters in all.
    pub parameter_count: u64,
    /// FLOPs of one optimizer step.
    pub flops_per_step: f64,
    /// Tokens of one optimizer step.
    pub tokens_per_step: u64,
    /// Axes of the mesh and ranks along each, from the slowest to the fastest in the numbering of ranks.
    #[serde(default)]
    pub mesh: Vec<(String, u64)>,
    /// Allocations of one rank.
    pub segments: Vec<Segment>,
    /// Parameters.
    pub parameters: Vec<Parameter>,
    /// Numbers that a training step is given, and their formulas.
    pub scalars: Vec<(String, Formula)>,
    /// For each pipeline stage the layers that it has, in the order in which it has them: runs of (first,
    /// how many). Empty where every rank has all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stage_layers: Vec<Vec<(u64, u64)>>,
    /// The class of each pipeline stage: those of one class have the same programs and places. Empty where
    /// there is one class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stage_class: Vec<usize>,
    /// Programs that pipeline stages run in parts, by the name of the whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schedules: BTreeMap<String, Schedule>,
    /// Kernels; launches name them by number.
    pub kernels: Vec<Kernel>,
    /// Ports of each program.
    pub ports: BTreeMap<String, (Vec<Port>, Vec<Port>)>,
    /// The resolved configuration, for people and for resuming.
    pub config: serde_json::Value,
    /// What the runtime reads of it.
    pub run: serde_json::Value,
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Tables.
    pub tables: Tables,
    /// Programs.
    pub programs: Vec<Program>,
    /// Initial bytes of the `consts` segment.
    pub consts: Vec<u8>,
    /// Further files by relative path: kernels and IR.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Plan {
    /// Whether its parts fit together: what writing and opening check as well, for a plan that was only
    /// made in memory.
    pub fn check(&self) -> Result<(), PlanError> {
        validate::validate(self)
    }

    /// The program called `name`.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|p| p.name == name)
    }

    /// Number of ranks.
    pub fn ranks(&self) -> u64 {
        self.tables.mesh.iter().map(|(_, n)| n).product()
    }

    /// The class of a pipeline stage.
    pub fn class_of(&self, stage: u64) -> usize {
        self.tables.stage_class.get(stage as usize).copied().unwrap_or(0)
    }

    /// The program called `name` of a pipeline stage.
    pub fn program_of(&self, name: &str, stage: u64) -> Option<&Program> {
        self.program(&name_of(name, self.class_of(stage)))
    }

    /// Ranks along `axis`, and which of them `rank` is; `(1, 0)` if there is no such axis. The first and the
    /// last stage of a pipeline are an axis of their own, called `ends`.
    pub fn along(&self, axis: &str, rank: u64) -> (u64, u64) {
        if axis == ENDS {
            let (stages, stage) = self.along("pipe", rank);
            return (stages.min(2), u64::from(stage > 0));
        }
        let mut stride = 1;
        for (name, size) in self.tables.mesh.iter().rev() {
            if name == axis {
                return (*size, rank / stride % size);
            }
            stride *= size;
        }
        (1, 0)
    }

    /// Ranks that differ from `rank` only along `axis`, in order.
    pub fn group(&self, axis: &str, rank: u64) -> Vec<u64> {
        if axis == ENDS {
            let all = self.group("pipe", rank);
            let ends = [all[0], all[all.len() - 1]];
            return if ends[0] != ends[1] && ends.contains(&rank) {
                ends.to_vec()
            } else {
                vec![rank]
            };
        }
        let mut stride = 1;
        for (name, size) in self.tables.mesh.iter().rev() {
            if name == axis {
                let first = rank - rank / stride % size * stride;
                return (0..*size).map(|i| first + i * stride).collect();
            }
            stride *= size;
        }
        vec![rank]
    }

    /// A part of a scheduled program: slots, micro-batches, chunks, and the instructions for one of each.
    /// In the text they stand inside a loop over each of these; the schedule says which iterations are
    /// run, and when.
    pub fn part(&self, s: &Schedule, name: &str, class: usize) -> Option<([u64; 3], &[Instr])> {
        let program = self.program(&name_of(&format!("{}_{name}", s.prefix), class))?;
        let mut counts = [0; 3];
        let mut inside = &program.body[..];
        for slot in &mut counts {
            let [Instr::Loop { count, body, .. }] = inside else { return None };
            (*slot, inside) = (*count, body);
        }
        Some((counts, inside))
    }

    /// The part that a stage runs in the place of `name` for the last micro-batch of a chunk, if it has one.
    pub fn last_part(
        &self,
        s: &Schedule,
        name: &str,
        class: usize,
    ) -> Option<([u64; 3], &[Instr])> {
        self.part(s, &format!("{name}_last"), class)
    }

    /// Most collectives along `axis` that a rank can have under way at once.
    pub fn most_under_way(&self, axis: &str) -> usize {
        fn most(body: &[Instr], axis: &str, events: &mut Vec<usize>) -> usize {
            let mut most_yet = 0;
            for instr in body {
                let here = match instr {
                    Instr::Collective { axis: a, event, .. } if a == axis => {
                        events.retain(|e| Some(*e) != *event);
                        events.extend(*event);
                        events.len() + usize::from(event.is_none())
                    }
                    // The second iteration may find what the first one left.
                    Instr::Loop { body, .. } => {
                        most(body, axis, events).max(most(body, axis, events))
                    }
                    Instr::Wait { event } => {
                        events.retain(|e| e != event);
                        events.len()
                    }
                    _ => 0,
                };
                most_yet = most_yet.max(here);
            }
            most_yet
        }
        self.programs.iter().map(|p| most(&p.body, axis, &mut vec![])).max().unwrap_or(0)
    }

    /// Events are numbered below this.
    pub fn events(&self) -> usize {
        fn last(body: &[Instr]) -> usize {
            let each = body.iter().map(|instr| match instr {
                Instr::Collective { event, .. } => event.map_or(0, |e| e + 1),
                Instr::Loop { body, .. } => last(body),
                _ => 0,
            });
            each.max().unwrap_or(0)
        }
        self.programs.iter().map(|p| last(&p.body)).max().unwrap_or(0)
    }

    /// Bytes of slots that stages with more under way have, and this one has not.
    fn unused_slots(&self, stage: u64) -> u64 {
        let Some(s) = self.tables.schedules.get("train_step") else { return 0 };
        let stride = s.places.get(self.class_of(stage)).map_or(0, |p| p.stride);
        (s.most_slots() - s.slots_of(stage as usize)).saturating_mul(stride)
    }

    /// Memory of a rank of a stage.
    pub fn memory_of(&self, stage: u64) -> Memory {
        let class = self.tables.class_memory.get(self.class_of(stage));
        let (mut m, unused) = (class.copied().unwrap_or_default(), self.unused_slots(stage));
        m.activations = m.activations.saturating_sub(unused);
        m.peak = m.peak.saturating_sub(unused);
        m
    }

    /// Memory of all ranks together, bytes.
    pub fn memory_of_all(&self) -> u64 {
        let stages = self.along("pipe", 0).0.max(1);
        (0..stages).map(|s| self.memory_of(s).peak * (self.ranks() / stages)).sum()
    }

    /// Bytes that are allocated for a segment on a rank of a stage: none for a part of another.
    pub fn allocated_bytes(&self, s: &Segment, stage: u64) -> u64 {
        let bytes = s.bytes.get(self.class_of(stage)).copied().unwrap_or(0);
        match s.kind {
            _ if s.within.is_some() => 0,
            SegmentKind::Slots => bytes.saturating_sub(self.unused_slots(stage)),
            _ => bytes,
        }
    }

    /// The allocation that has a segment's bytes, and where in it they begin.
    pub fn allocation(&self, segment: usize) -> (usize, u64) {
        self.tables.segments.get(segment).and_then(|s| s.within).unwrap_or((segment, 0))
    }

    /// Number of the segment called `name`.
    pub fn segment(&self, name: &str) -> Option<usize> {
        self.tables.segments.iter().position(|s| s.name == name)
    }

    /// Number of the first segment that holds this.
    pub fn segment_of(&self, kind: SegmentKind) -> Option<usize> {
        self.tables.segments.iter().position(|s| s.kind == kind)
    }

    /// What the optimizer keeps, by the names of its slots, in the order of their segments.
    pub fn slots(&self) -> Vec<&str> {
        let state = self.tables.segments.iter().filter(|s| s.kind == SegmentKind::State);
        state.map(|s| Values::slot_of(&s.name)).collect()
    }
}
