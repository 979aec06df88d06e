//! What an entry's parameter is to the outside ([`Role`]), and what its result is ([`Output`]): said in `neox.role` and
//! `neox.results`, read by every pass, by the plan's emitter and by tests through these two types alone.
//!
//! ```text
//! %w {neox.param = "gpt_neox.embed_in.weight"}                                          a weight
//! %m {neox.role = "state", neox.name = "gpt_neox.embed_in.weight", neox.slot = "exp"}   its optimizer state
//! neox.results = ["param gpt_neox.embed_in.weight", "state exp gpt_neox.embed_in.weight", "output loss"]
//! ```

use std::fmt;

use crate::attrs::{Attr, Attrs};
use crate::keys;
use crate::module::{Function, ValueId};

/// What a parameter of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A parameter of the model; told by `neox.param`, its name, and not by `neox.role`.
    Parameter,
    /// Optimizer state of the parameter `neox.name`, in the optimizer's slot `neox.slot`.
    State,
    /// An input of every micro-batch, with a leading dim `micro` in a training step.
    Batch,
    /// A number that the runtime gives before a step.
    Scalar,
    /// A table that `@setup` makes.
    Const,
    /// The numbers of the layers that a rank has.
    Layers,
    /// What stays from one run to the next and the runtime writes into.
    Cache,
    /// A rounded copy of a weight.
    Rounded,
    /// A value that another program of a pipeline's stage leaves, or another stage.
    Slot,
    /// The sum of a parameter's gradient so far.
    Gradient,
    /// A rank's part of a gradient's sum over ranks.
    Sum,
    /// The losses of a step's micro-batches.
    Losses,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 12] = [
        Role::Parameter,
        Role::State,
        Role::Batch,
        Role::Scalar,
        Role::Const,
        Role::Layers,
        Role::Cache,
        Role::Rounded,
        Role::Slot,
        Role::Gradient,
        Role::Sum,
        Role::Losses,
    ];

    /// Its name in `neox.role`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Parameter => "param",
            Role::State => "state",
            Role::Batch => "batch",
            Role::Scalar => "scalar",
            Role::Const => "const",
            Role::Layers => "layers",
            Role::Cache => "cache",
            Role::Rounded => "rounded",
            Role::Slot => "slot",
            Role::Gradient => "grad",
            Role::Sum => "sum",
            Role::Losses => "losses",
        }
    }

    /// The role called `name`.
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|r| r.name() == name)
    }

    /// The role of a parameter with these attributes; none of a function's that is no entry.
    pub fn of(attrs: &Attrs) -> Option<Role> {
        match attrs.get(keys::PARAM) {
            Some(_) => Some(Role::Parameter),
            None => Role::parse(attrs.str(keys::ROLE)?),
        }
    }

    /// Whether attributes say this role.
    pub fn is(self, attrs: &Attrs) -> bool {
        Role::of(attrs) == Some(self)
    }

    /// Attributes of a parameter of this role that is called, or belongs to the model's parameter, `name`.
    pub fn attrs(self, name: &str) -> Attrs {
        match self {
            Role::Parameter => Attrs::new().with(keys::PARAM, Attr::Str(name.into())),
            _ => Attrs::new()
                .with(keys::ROLE, Attr::Str(self.name().into()))
                .with(keys::NAME, Attr::Str(name.into())),
        }
    }

    /// Parameters of `f` that have this role, with their attributes.
    pub fn all(self, f: &Function) -> impl Iterator<Item = (ValueId, &Attrs)> {
        let pairs = f.params.iter().copied().zip(&f.param_attrs);
        pairs.filter(move |(_, attrs)| self.is(attrs))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Attributes of the state that the parameter `name` of the model has in the optimizer's slot `slot`.
pub fn state_attrs(slot: &str, name: &str) -> Attrs {
    Role::State.attrs(name).with(keys::SLOT, Attr::Str(slot.into()))
}

/// The segment of memory that has the optimizer's state of a slot.
pub fn state_segment(slot: &str) -> String {
    format!("state.{slot}")
}

/// Whether a parameter of the model is not trained: it has no gradient and no state, and no update changes it.
pub fn is_frozen(attrs: &Attrs) -> bool {
    attrs.flag(keys::FROZEN)
}

/// The name that a parameter of an entry has, or belongs to: the model's parameter of a weight, of state and of a
/// gradient, the input's own of others; empty where it has none.
pub fn name_of(attrs: &Attrs) -> &str {
    attrs.str(keys::PARAM).or(attrs.str(keys::NAME)).unwrap_or_default()
}

/// What a result of an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Output {
    /// `param NAME`: new weights.
    Parameter(String),
    /// `state SLOT NAME`: new optimizer state.
    State(String, String),
    /// `rounded NAME`: new weights, rounded.
    Rounded(String),
    /// `grad NAME`: a gradient's sum, handed on in place.
    Gradient(String),
    /// `sum NAME`: a rank's part of a gradient's sum over ranks.
    Sum(String),
    /// `slot NAME`: what another program, or another stage, takes.
    Slot(String),
    /// `cache NAME`: what the runtime adds to the input of this name.
    Cache(String),
    /// `loss`: that of one micro-batch, kept with those of the others.
    Loss,
    /// `losses`: room for those of all micro-batches.
    Losses,
    /// `output NAME`: what the runtime reads: a loss, a norm, logits.
    Port(String),
}

impl Output {
    /// Reads what [`Output`] displays.
    pub fn parse(text: &str) -> Option<Output> {
        let (kind, name) = text.split_once(' ').unwrap_or((text, ""));
        let named = |make: fn(String) -> Output| (!name.is_empty()).then(|| make(name.into()));
        match kind {
            "param" => named(Output::Parameter),
            "state" => {
                let (slot, name) = name.split_once(' ')?;
                Some(Output::State(slot.into(), name.into()))
            }
            "rounded" => named(Output::Rounded),
            "grad" => named(Output::Gradient),
            "sum" => named(Output::Sum),
            "slot" => named(Output::Slot),
            "cache" => named(Output::Cache),
            "output" => named(Output::Port),
            "loss" if name.is_empty() => Some(Output::Loss),
            "losses" if name.is_empty() => Some(Output::Losses),
            _ => None,
        }
    }

    /// What the results of `f` are, as `neox.results` says; none where it says nothing, or something else than one
    /// thing of each.
    pub fn all(f: &Function) -> Option<Vec<Output>> {
        let texts = f.attrs.strs(keys::RESULTS)?;
        let all: Vec<Output> = texts.into_iter().map(Output::parse).collect::<Option<_>>()?;
        (all.len() == f.results.len()).then_some(all)
    }

    /// Says in `f` what its results are.
    pub fn set(f: &mut Function, all: &[Output]) {
        let texts: Vec<String> = all.iter().map(Output::to_string).collect();
        f.attrs.set(keys::RESULTS, Attr::strs(&texts));
    }

    /// The result that a parameter with these attributes comes back as: new weights, new state.
    pub fn of_state(attrs: &Attrs) -> Option<Output> {
        let name = name_of(attrs).to_string();
        match Role::of(attrs)? {
            Role::Parameter => Some(Output::Parameter(name)),
            Role::State => {
                Some(Output::State(attrs.str(keys::SLOT).unwrap_or_default().into(), name))
            }
            _ => None,
        }
    }

    /// Number of the parameter of `f` that this result is the new value of.
    pub fn replaces(&self, f: &Function) -> Option<usize> {
        f.param_attrs.iter().position(|a| match self {
            Output::Parameter(_) | Output::State(..) => Output::of_state(a).as_ref() == Some(self),
            Output::Gradient(name) => Role::Gradient.is(a) && name_of(a) == name,
            _ => false,
        })
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Parameter(name) => write!(f, "param {name}"),
            Output::State(slot, name) => write!(f, "state {slot} {name}"),
            Output::Rounded(name) => write!(f, "rounded {name}"),
            Output::Gradient(name) => write!(f, "grad {name}"),
            Output::Sum(name) => write!(f, "sum {name}"),
            Output::Slot(name) => write!(f, "slot {name}"),
            Output::Cache(name) => write!(f, "cache {name}"),
            Output::Loss => f.write_str("loss"),
            Output::Losses => f.write_str("losses"),
            Output::Port(name) => write!(f, "output {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_displayed_is_read_back() {
        for role in Role::ALL {
            assert_eq!(Role::parse(&role.to_string()), Some(role));
            assert!(role.is(&role.attrs("w")), "{role}");
        }
        for text in
            ["param a.b", "state m a.b", "rounded a", "grad a", "sum a", "slot y", "cache keys"]
        {
            assert_eq!(Output::parse(text).unwrap().to_string(), text);
        }
        for text in ["loss", "losses", "output loss"] {
            assert_eq!(Output::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "param", "state m", "loss a", "norm", "output"] {
            assert_eq!(Output::parse(text), None, "{text}");
        }
    }
}
