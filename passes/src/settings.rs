//! What passes are given besides the module, as a value and as text.
//!
//! The text is a list of words `key=value`. It stands at the head of every module that a pass has seen
//! (`neox.settings`), so that `neoxc opt` can run passes on a dump as they ran in the compiler, and in the headers of
//! the passes' file tests:
//!
//! ```text
//! target=x86-64-native pipe=2 data=1 expert=1 context=1 tensor=2 zero_stage=1 schedule=1f1b chunks=1 …
//! ```
//! The words of the machine (`flops`, `memory_bytes`, …) are written where it is not a node of the target, which
//! `target` stands for.

use std::fmt::Display;
use std::str::FromStr;

pub use neoxc_config::{PipePartition as Partition, PipeSchedule as Kind};
use neoxc_ir::cluster::{Link, Machine};
use neoxc_ir::nearest::nearest;
use neoxc_ir::target::Target;
use neoxc_ir::{Attr, Module, keys};

/// What a pass may know besides the module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PassCx {
    /// Whose rates the cost model uses.
    pub target: Target,
    /// What a rank can do, and how fast it reaches others.
    pub machine: Machine,
    /// Whether collectives may go on beside compute, which takes memory.
    pub overlap: bool,
    /// Most bytes of logits that the head may hold at once.
    pub chunk_bytes: usize,
    /// How many ranks there are along each axis.
    pub degrees: Degrees,
    /// What is divided over the data axis: nothing, the optimizer's state (1), gradients too (2),
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

/// The words that machines have, and what settings have besides the degrees.
const WORDS: [&str; 20] = [
    "target",
    "pipe",
    "data",
    "expert",
    "context",
    "tensor",
    "zero_stage",
    "sequence_parallel",
    "expert_tensor",
    "schedule",
    "chunks",
    "partition",
    "overlap",
    "chunk_bytes",
    "flops",
    "memory_bytes",
    "launch_seconds",
    "ranks_per_node",
    "within",
    "between",
];

/// A value, or what is wrong with it.
fn value<T: FromStr>(key: &str, text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{key}={text}`: {key} is {what}"))
}

fn at_least_one(key: &str, text: &str) -> Result<usize, String> {
    match value(key, text, "a number from 1")? {
        0 => Err(format!("`{key}={text}`: {key} is a number from 1")),
        n => Ok(n),
    }
}

fn positive(key: &str, text: &str) -> Result<f64, String> {
    match value::<f64>(key, text, "a positive number")? {
        x if x > 0.0 && x.is_finite() => Ok(x),
        _ => Err(format!("`{key}={text}`: {key} is a positive number")),
    }
}

/// One of `all` by its name.
fn named<T: Copy>(key: &str, text: &str, all: &[(&str, T)]) -> Result<T, String> {
    let names = || all.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
    let found = all.iter().find(|(n, _)| *n == text).map(|(_, v)| *v);
    found.ok_or_else(|| format!("`{key}={text}`: {key} is one of {}", names()))
}

fn link(key: &str, text: &str) -> Result<Link, String> {
    let what = "BYTES_PER_SECOND,SECONDS";
    let (bandwidth, latency) =
        text.split_once(',').ok_or_else(|| format!("`{key}={text}`: {key} is {what}"))?;
    let latency: f64 = value(key, latency, what)?;
    if !latency.is_finite() || latency < 0.0 {
        return Err(format!("`{key}={text}`: seconds are not negative"));
    }
    Ok(Link { bandwidth: positive(key, bandwidth)?, latency })
}

impl PassCx {
    /// These settings as words, which [`PassCx::with`] reads.
    pub fn words(&self) -> Vec<String> {
        let mut out = vec![];
        let mut word = |key: &str, value: &dyn Display| out.push(format!("{key}={value}"));
        word("target", &self.target);
        self.degrees.axes().iter().for_each(|(axis, ranks)| word(axis, ranks));
        word("zero_stage", &self.zero_stage);
        word("sequence_parallel", &self.sequence_parallel);
        word("expert_tensor", &self.expert_tensor);
        word("schedule", &self.schedule.name());
        word("chunks", &self.chunks);
        word("partition", &self.partition.name());
        word("overlap", &self.overlap);
        word("chunk_bytes", &self.chunk_bytes);
        if self.machine != Machine::of(self.target) {
            let Machine { rates, ranks_per_node, within, between } = &self.machine;
            let link = |l: &Link| format!("{:e},{:e}", l.bandwidth, l.latency);
            word("flops", &format!("{:e}", rates.flops));
            word("memory_bytes", &format!("{:e}", rates.memory_bytes));
            word("launch_seconds", &format!("{:e}", rates.launch_seconds));
            match *ranks_per_node {
                usize::MAX => word("ranks_per_node", &"all"),
                n => word("ranks_per_node", &n),
            }
            word("within", &link(within));
            word("between", &link(between));
        }
        out
    }

    /// These settings, changed by words `key=value`; later ones win. `target` stands for a machine too, which words
    /// behind it change.
    ///
    /// # Errors
    /// Names the word that is none, and what it could have been.
    pub fn with<S: AsRef<str>>(mut self, words: &[S]) -> Result<Self, String> {
        for word in words {
            let word = word.as_ref();
            let Some((key, text)) = word.split_once('=') else {
                return Err(format!("`{word}` is not KEY=VALUE"));
            };
            let (d, machine) = (&mut self.degrees, &mut self.machine);
            let flag = || value(key, text, "true or false");
            match key {
                "target" => {
                    self.target = text.parse()?;
                    self.machine = Machine::of(self.target);
                }
                "pipe" => d.pipe = at_least_one(key, text)?,
                "data" => d.data = at_least_one(key, text)?,
                "expert" => d.expert = at_least_one(key, text)?,
                "context" => d.context = at_least_one(key, text)?,
                "tensor" => d.tensor = at_least_one(key, text)?,
                "zero_stage" => match value(key, text, "0, 1, 2 or 3")? {
                    stage @ 0..=3 => self.zero_stage = stage,
                    _ => return Err(format!("`{word}`: {key} is 0, 1, 2 or 3")),
                },
                "sequence_parallel" => self.sequence_parallel = flag()?,
                "expert_tensor" => self.expert_tensor = flag()?,
                "schedule" => self.schedule = named(key, text, &Kind::ALL)?,
                "chunks" => self.chunks = at_least_one(key, text)?,
                "partition" => self.partition = named(key, text, &Partition::ALL)?,
                "overlap" => self.overlap = flag()?,
                "chunk_bytes" => self.chunk_bytes = at_least_one(key, text)?,
                "flops" => machine.rates.flops = positive(key, text)?,
                "memory_bytes" => machine.rates.memory_bytes = positive(key, text)?,
                "launch_seconds" => machine.rates.launch_seconds = positive(key, text)?,
                "ranks_per_node" if text == "all" => machine.ranks_per_node = usize::MAX,
                "ranks_per_node" => machine.ranks_per_node = at_least_one(key, text)?,
                "within" => machine.within = link(key, text)?,
                "between" => machine.between = link(key, text)?,
                _ => {
                    let near = nearest(key, WORDS).map(|n| format!("; did you mean `{n}`?"));
                    return Err(format!(
                        "passes have no setting `{key}`{}",
                        near.unwrap_or_default()
                    ));
                }
            }
        }
        Ok(self)
    }

    /// The settings at the head of a module, over these; these if it has none.
    ///
    /// # Errors
    /// As [`PassCx::with`].
    pub fn of_module(self, m: &Module) -> Result<Self, String> {
        self.with(&m.attrs.strs(keys::SETTINGS).unwrap_or_default())
    }

    /// Writes these settings at the head of a module.
    pub fn note(&self, m: &mut Module) {
        m.attrs.set(keys::SETTINGS, Attr::strs(&self.words()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_are_written() {
        let usual = PassCx::new(Target::X86V4);
        let words = "pipe=2 tensor=4 zero_stage=2 sequence_parallel=true schedule=zb-h1 partition=balanced overlap=false";
        let words: Vec<&str> = words.split(' ').collect();
        let mut cx = usual.with(&words).unwrap();
        assert_eq!((cx.degrees.ranks(), cx.zero_stage, cx.overlap), (8, 2, false));
        assert_eq!(usual.with(&cx.words()), Ok(cx));
        assert!(!cx.words().iter().any(|w| w.starts_with("flops=")));
        cx.machine.rates.flops = 1.25e14;
        cx.machine.ranks_per_node = 4;
        cx.machine.between = Link { bandwidth: 2.5e9, latency: 0.0 };
        assert_eq!(PassCx::new(Target::Sm80).with(&cx.words()), Ok(cx));
    }

    #[test]
    fn a_word_that_is_no_setting_is_refused() {
        for (word, says) in [
            ("tesnor=2", "passes have no setting `tesnor`; did you mean `tensor`?"),
            ("tensor", "`tensor` is not KEY=VALUE"),
            ("tensor=0", "`tensor=0`: tensor is a number from 1"),
            ("zero_stage=4", "zero_stage is 0, 1, 2 or 3"),
            ("schedule=2f2b", "schedule is one of gpipe, 1f1b, zb-h1, interleaved"),
            ("target=pdp11", "no target `pdp11`"),
            ("within=1e9", "within is BYTES_PER_SECOND,SECONDS"),
            ("flops=nan", "flops is a positive number"),
            ("overlap=yes", "overlap is true or false"),
        ] {
            let told = PassCx::new(Target::X86V4).with(&[word]).unwrap_err();
            assert!(told.contains(says), "{told}");
        }
    }
}
