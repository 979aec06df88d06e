//! Every attribute key with the dialect's prefix: `neox.param`, `neox.place`, …
//!
//! Keys carry what one phase tells a later one. Each is declared here once, with what it stands on, the type of its
//! value and who writes it; passes and code generation use the constants (`keys::PLACE`), and the verifier refuses
//! what is not declared. `docs/attributes.md` is generated from this list.
//!
//! To add a key, add an entry below and run `UPDATE=1 cargo test -p neoxc-ir --test keys`.

use std::fmt::Write;

use crate::attrs::{Attr, Attrs};
use crate::nearest::nearest;
use crate::op::AttrKind;

/// What an attribute stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The module.
    Module,
    /// A function.
    Function,
    /// A parameter of a function.
    Parameter,
    /// An op.
    Op,
}

impl On {
    /// The word for documents.
    pub fn word(self) -> &'static str {
        match self {
            On::Module => "module",
            On::Function => "function",
            On::Parameter => "parameter",
            On::Op => "op",
        }
    }

    /// The word with its article, for messages.
    fn one(self) -> &'static str {
        match self {
            On::Module => "the module",
            On::Function => "a function",
            On::Parameter => "a parameter",
            On::Op => "an op",
        }
    }
}

/// A declared key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The whole name, with the prefix `neox.`.
    pub name: &'static str,
    /// What it may stand on.
    pub on: &'static [On],
    /// The type of its value.
    pub kind: AttrKind,
    /// The pass that writes it first; `model` for the model's builder, `every pass`, or `the driver`.
    pub writer: &'static str,
    /// What it says, in a sentence.
    pub doc: &'static str,
}

/// Declares constants with the names of keys, and the list of them.
macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $constant:ident = $name:literal, $kind:ident, [$($on:ident)+], $writer:literal;)+) => {
        $($(#[doc = $doc])+ pub const $constant: &str = $name;)+

        /// Every key, in the order of names.
        pub const ALL: &[Key] = &[$(Key {
            name: $name,
            on: &[$(On::$on),+],
            kind: AttrKind::$kind,
            writer: $writer,
            doc: concat!($($doc),+),
        }),+];
    };
}

keys! {
    /// The last pass, in the order of the compiler, that has run; none for the model as it was built.
    AFTER = "neox.after", Str, [Module], "every pass";
    /// Bytes of the arena that the largest entry takes.
    ARENA = "neox.arena", Int, [Module], "place-memory";
    /// Bytes of the arena by class of stages.
    ARENAS = "neox.arenas", Ints, [Module], "place-memory";
    /// A weight that is used before the layers.
    BEFORE_LAYERS = "neox.before_layers", Bool, [Parameter], "model";
    /// A loop whose backward loop recomputes its body, this many iterations at a time.
    CHECKPOINT = "neox.checkpoint", Int, [Op], "model";
    /// The ops that rewriting chose in the place of others, with the roofline times of both.
    CHOICES = "neox.choices", Strs, [Function], "rewrite-graph";
    /// Chunks of layers that each stage of a pipeline has.
    CHUNKS = "neox.chunks", Int, [Module], "cut-stages";
    /// A sentence for each class of stages.
    CLASSES = "neox.classes", Strs, [Module], "cut-stages";
    /// The norm that gradients are clipped to; 0 for no clipping.
    CLIP = "neox.clip", Float, [Module], "the driver";
    /// The checked configuration, `section.key=value` with values in JSON: what a plan needs besides the program.
    CONFIG = "neox.config", Strs, [Module], "the driver";
    /// Whether weight decay applies to a weight.
    DECAY = "neox.decay", Bool, [Parameter], "model";
    /// The dim of an expert's weight that expert ranks divide.
    EXPERTS = "neox.experts", Str, [Parameter], "model";
    /// Floating-point operations of a step, counted while the program was whole.
    FLOPS = "neox.flops", Float, [Module], "the driver";
    /// The formula of a number that a step is given, over `step`, `lr` and `loss_scale`.
    FORMULA = "neox.formula", Str, [Parameter], "build-train-step";
    /// Whether a weight is not trained: it has no gradient and no state, and no update changes it.
    FROZEN = "neox.frozen", Bool, [Parameter], "model";
    /// Micro-batches of a step, over all data ranks.
    GRAD_ACCUM = "neox.grad_accum", Int, [Function], "model";
    /// The axis that divides each dim of a weight's gradient, where the weight is divided otherwise.
    GRADIENT_LAYOUT = "neox.gradient_layout", Strs, [Parameter], "divide-state";
    /// The offset of the gradients in the arena, in bytes.
    GRADS = "neox.grads", Int, [Module], "place-memory";
    /// The start value of a weight's elements: an expression such as `0.02 * normal`.
    INIT = "neox.init", Str, [Parameter], "model";
    /// Pairs result, operand of a kernel function: which result may have which operand's buffer.
    INPLACE = "neox.inplace", Ints, [Function], "fuse-kernels";
    /// The family of a kernel function.
    KERNEL = "neox.kernel", Str, [Function], "fuse-kernels";
    /// The axis that divides each dim of an entry's parameter; an empty text for none.
    LAYOUT = "neox.layout", Strs, [Parameter], "assign-layouts";
    /// The layouts of an entry's results that have one of their own, as texts.
    LAYOUTS = "neox.layouts", Strs, [Function], "assign-layouts";
    /// The axes of the mesh with their ranks, `axis=ranks`, from the slowest to the fastest.
    MESH = "neox.mesh", Strs, [Module], "partition-program";
    /// Micro-batches of a step that each stage of a pipeline has.
    MICRO = "neox.micro", Int, [Module], "cut-stages";
    /// The name of an input or of a state among those of its role.
    NAME = "neox.name", Str, [Parameter], "model";
    /// The optimizer and its settings, as `neoxc_optimizers::Settings` displays them.
    OPTIMIZER = "neox.optimizer", Str, [Module], "the driver";
    /// The logical name of a weight, `{layer}` in it where layers are stacked.
    PARAM = "neox.param", Str, [Parameter], "model";
    /// The logical names of all weights, in the order of @train_step.
    PARAMETERS = "neox.parameters", Strs, [Module], "cut-stages";
    /// The axes over which ranks hold parts of a sum.
    PARTIAL = "neox.partial", Strs, [Parameter], "assign-layouts";
    /// The addresses of a parameter's or of an op's results.
    PLACE = "neox.place", Strs, [Parameter Op], "place-memory";
    /// The dtype of factors and activations.
    PRECISION = "neox.precision", Str, [Module], "model";
    /// What the learning rate of a parameter is a multiple of the schedule's by, where it is not that itself.
    RATE = "neox.rate", Float, [Parameter], "the driver";
    /// What each result of an entry is.
    RESULTS = "neox.results", Strs, [Function], "model";
    /// What an entry's parameter is, if not a weight.
    ROLE = "neox.role", Str, [Parameter], "model";
    /// Bytes that stay in the arena from the forward loop to the backward loop.
    SAVED = "neox.saved", Int, [Module], "place-memory";
    /// The order of an evaluation's steps on each stage, a text per stage.
    SCHEDULE_FORWARD = "neox.schedule_forward", Strs, [Module], "cut-stages";
    /// The order of a training step's steps on each stage, a text per stage.
    SCHEDULE_TRAIN = "neox.schedule_train", Strs, [Module], "cut-stages";
    /// What the passes were given: words `key=value` (passes/src/settings.rs).
    SETTINGS = "neox.settings", Strs, [Module], "every pass";
    /// The shape of a weight in published checkpoints, of one layer's tensor.
    SHAPE = "neox.shape", Ints, [Parameter], "model";
    /// The optimizer's slot that a parameter's state is in.
    SLOT = "neox.slot", Str, [Parameter], "build-train-step";
    /// Slots of each chunk of each stage.
    SLOTS = "neox.slots", Ints, [Module], "cut-stages";
    /// The class of each stage.
    STAGE_CLASS = "neox.stage_class", Ints, [Module], "cut-stages";
    /// The layers of each stage in its own order, as runs `first+count`.
    STAGE_LAYERS = "neox.stage_layers", Strs, [Module], "cut-stages";
    /// The dims of a weight that tensor ranks divide.
    TENSOR = "neox.tensor", Strs, [Parameter], "model";
    /// The dims of a weight that tensor ranks divide where they do so evenly, and otherwise leave whole.
    TENSOR_IF_EVEN = "neox.tensor_if_even", Strs, [Parameter], "model";
    /// Numbers of a loop's results that are totals over its iterations, where these are not the carried ones.
    TOTALS = "neox.totals", Ints, [Op], "drop-zero-sums";
    /// The weight decay of a parameter that decays, where it is another one than the optimizer's.
    WEIGHT_DECAY = "neox.weight_decay", Float, [Parameter], "the driver";
    /// Dims of an input that no axis divides, though it divides those of other inputs of the role.
    WHOLE = "neox.whole", Strs, [Parameter], "model";
}

/// The key called `name`.
pub fn find(name: &str) -> Option<&'static Key> {
    ALL.iter().find(|k| k.name == name)
}

/// Checks attributes against the declarations: those with the prefix on an op, all of them elsewhere.
///
/// # Errors
/// Says which key is not declared, may not stand `on` this, or has a value of another type.
pub fn check(attrs: &Attrs, on: On) -> Result<(), String> {
    for (name, value) in &attrs.0 {
        if on == On::Op && !name.starts_with("neox.") {
            continue; // The op's own signature declares it.
        }
        let Some(key) = find(name) else {
            let hint = nearest(name, ALL.iter().map(|k| k.name));
            let hint = hint.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            return Err(format!(
                "no attribute `{name}` is declared for {} (ir/src/keys.rs){hint}",
                on.one()
            ));
        };
        if !key.on.contains(&on) {
            let may: Vec<&str> = key.on.iter().map(|o| o.one()).collect();
            let may = may.join(" or ");
            return Err(format!("`{name}` is an attribute of {may}, not of {}", on.one()));
        }
        if !fits(value, key.kind) {
            return Err(format!("attribute `{name}` is {value}, its type is {:?}", key.kind));
        }
    }
    Ok(())
}

/// Whether `value` is of the type that `kind` names.
pub(crate) fn fits(value: &Attr, kind: AttrKind) -> bool {
    match (value, kind) {
        (Attr::Bool(_) | Attr::Unit, AttrKind::Bool)
        | (Attr::Int(_), AttrKind::Int)
        | (Attr::Float(_), AttrKind::Float)
        | (Attr::Str(_), AttrKind::Str)
        | (Attr::Symbol(_), AttrKind::Symbol) => true,
        (Attr::Array(items), AttrKind::Strs) => items.iter().all(|i| matches!(i, Attr::Str(_))),
        (Attr::Array(items), AttrKind::Ints) => items.iter().all(|i| matches!(i, Attr::Int(_))),
        _ => false,
    }
}

/// The page `docs/attributes.md`.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Attributes with the prefix `neox.`\n\nGenerated from `ir/src/keys.rs`; do not edit. The verifier refuses \
         every other key. An op's own attributes are in [ops.md](ops.md).\n\n\
         | key | on | value | written by | says |\n|---|---|---|---|---|\n",
    );
    for k in ALL {
        let on: Vec<&str> = k.on.iter().map(|o| o.word()).collect();
        let writer = match k.writer {
            "model" => "the model".into(),
            "every pass" | "the driver" => k.writer.to_string(),
            pass => format!("`{pass}`"),
        };
        let (name, on, kind, doc) = (k.name, on.join(", "), k.kind, k.doc.trim());
        let _ = writeln!(out, "| `{name}` | {on} | {kind:?} | {writer} | {doc} |");
    }
    out
}
