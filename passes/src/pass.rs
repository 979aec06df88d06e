//! What a pass is: a name, the facts it needs and leaves, a function on modules, a report.

use crate::assign_stages::Partition;
use crate::schedule_pipeline::Kind;
use neoxc_ir::cluster::Machine;
use neoxc_ir::diag::{Diagnostic, Span};
use neoxc_ir::op::OpError;
use neoxc_ir::target::Target;
use neoxc_ir::{Loc, Module, VerifyError};

use crate::facts::Fact;

/// What a pass may know besides the module.
#[derive(Debug, Clone, Copy)]
pub struct PassCx {
    /// Whose rates the cost model uses.
    pub target: Target,
    /// What a rank can do, and how fast it reaches others.
    pub machine: Machine,
    /// Whether exchanges may go on beside compute, which takes memory.
    pub overlap: bool,
    /// Most bytes of logits that the head may hold at once.
    pub chunk_bytes: usize,
    /// How many ranks there are along each axis.
    pub degrees: Degrees,
    /// What is divided over the data axis: nothing, the optimizer's moments (1), gradients too (2),
    /// weights too (3); the stages of ZeRO.
    pub zero_stage: u8,
    /// Whether tensor ranks divide the residual stream along the sequence.
    pub sequence_parallel: bool,
    /// Whether tensor ranks divide each expert; without, each of them has its experts whole.
    pub expert_tensor: bool,
    /// The order of micro-batches in a pipeline.
    pub schedule: Kind,
    /// Chunks of layers on each of its stages.
    pub chunks: usize,
    /// How its stages divide the layers.
    pub partition: Partition,
}

/// Ranks along the axes of the mesh. Ranks are numbered with `tensor` fastest, as GPT-NeoX does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Degrees {
    /// Ranks that divide the layers: pipeline stages.
    pub pipe: usize,
    /// Ranks that divide the micro-batches of a step.
    pub data: usize,
    /// Ranks that divide each micro-batch, and the experts: a micro-batch of all of them together is
    /// as many groups of sequences.
    pub expert: usize,
    /// Ranks that divide the sequence, attention aside: there they divide the heads.
    pub context: usize,
    /// Ranks that divide each layer.
    pub tensor: usize,
}

impl Degrees {
    /// One rank.
    pub const ONE: Degrees = Degrees { pipe: 1, data: 1, expert: 1, context: 1, tensor: 1 };

    /// All ranks.
    pub fn ranks(self) -> usize {
        self.pipe * self.data * self.expert * self.context * self.tensor
    }

    /// Ranks along the axis called `axis`; 1 for any other name.
    pub fn of(self, axis: &str) -> usize {
        self.axes().into_iter().find(|(n, _)| *n == axis).map_or(1, |(_, size)| size)
    }

    /// Axes from the slowest to the fastest in the numbering of ranks.
    pub fn axes(self) -> [(&'static str, usize); 5] {
        [
            ("pipe", self.pipe),
            ("data", self.data),
            ("expert", self.expert),
            ("context", self.context),
            ("tensor", self.tensor),
        ]
    }

    /// `axis=ranks` of each axis, as the module's `neox.mesh`.
    pub fn text(self) -> Vec<String> {
        self.axes().iter().map(|(n, size)| format!("{n}={size}")).collect()
    }
}

impl PassCx {
    /// The usual settings for `target`: a few hundred rows of logits for usual vocabularies, so that
    /// weights packed for a chunk are used often enough.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            machine: Machine::of(target),
            overlap: true,
            chunk_bytes: 112 << 20,
            degrees: Degrees::ONE,
            zero_stage: 0,
            sequence_parallel: false,
            expert_tensor: false,
            schedule: Kind::default(),
            chunks: 1,
            partition: Partition::default(),
        }
    }
}

/// What a pass has to say: lines for `-v`, `explain` and logs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PassReport {
    /// One finding each.
    pub notes: Vec<String>,
}

/// Why a pass failed. The pipeline adds the pass's name and keeps its input for replay.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PassError {
    /// An op's rule refused.
    #[error("{0}")]
    Op(#[from] OpError),
    /// The module was broken before or after the pass.
    #[error("{0}")]
    Verify(#[from] VerifyError),
    /// What the pass relies on does not hold.
    #[error("requires that {}: {found}", fact.says())]
    Requires {
        /// What was relied on.
        fact: Fact,
        /// Where it fails.
        found: String,
    },
    /// The pass broke its promise: a mistake in the pass.
    #[error("left a module in which it is not true that {}: {found}", fact.says())]
    Ensures {
        /// What was promised.
        fact: Fact,
        /// Where it fails.
        found: String,
    },
    /// What the user asks for cannot be had, which only the built model shows.
    #[error("{}", .0.message)]
    Refused(Box<Diagnostic>),
    /// The pass does not handle what it met: a mistake of neoxc.
    #[error("{what}{}", at(loc))]
    Internal {
        /// What was met.
        what: String,
        /// Lines of the configuration that it comes from.
        loc: Loc,
    },
}

/// ` at LINE`, where the line is known.
fn at(loc: &Loc) -> String {
    match loc {
        Loc::Unknown => String::new(),
        loc => format!(" at {loc}"),
    }
}

impl PassError {
    /// A mistake of neoxc without a known line.
    pub fn internal(what: String) -> Self {
        PassError::Internal { what, loc: Loc::Unknown }
    }

    /// A mistake of neoxc that an op made by `loc` shows.
    pub fn internal_at(what: String, loc: &Loc) -> Self {
        PassError::Internal { what, loc: loc.clone() }
    }

    /// Lines of the configuration that it is about, where they are known.
    pub fn spans(&self) -> Vec<Span> {
        match self {
            PassError::Refused(d) => d.labels.iter().map(|l| l.span.clone()).collect(),
            PassError::Internal { loc, .. } => loc.spans(),
            _ => vec![],
        }
    }
}

impl From<Diagnostic> for PassError {
    fn from(d: Diagnostic) -> Self {
        PassError::Refused(Box::new(d))
    }
}

/// A pass.
#[derive(Clone, Copy)]
pub struct Pass {
    /// verb-noun, as `neoxc opt --passes` takes it.
    pub name: &'static str,
    /// One line for the list of passes.
    pub doc: &'static str,
    /// Facts checked before it runs.
    pub requires: &'static [Fact],
    /// Facts checked after it ran.
    pub ensures: &'static [Fact],
    /// Changes the module.
    pub run: fn(&mut Module, &PassCx) -> Result<PassReport, PassError>,
}
