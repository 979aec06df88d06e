//! What memory holds: kinds of segments, and the values that there are of a parameter.

use serde::{Deserialize, Serialize};

use crate::Held;

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentKind {
    /// Parameters of the model.
    Weights,
    /// Their gradients.
    Gradients,
    /// What the optimizer keeps of each, in one of its slots.
    State,
    /// Activations and workspace.
    #[default]
    Arena,
    /// Tables made at compile time.
    Consts,
    /// Batches in, numbers out.
    Io,
    /// What programs of a pipeline's stages leave for each other.
    Slots,
}

impl SegmentKind {
    /// Whether training goes on from what it holds: checkpoints have that, and nobody changes it while it is on loan.
    pub fn is_state(self) -> bool {
        matches!(self, SegmentKind::Weights | SegmentKind::State)
    }
}

/// What the optimizer keeps of a parameter in one of its slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The slot.
    pub slot: String,
    /// Where it lies.
    #[serde(flatten)]
    pub held: Held,
}

/// Values that there are of a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Values {
    /// Its weights.
    Weights,
    /// Their gradient.
    Gradient,
    /// What the optimizer keeps in the slot of this name.
    State(String),
}

/// What stands in front of a slot's name in that of its segment.
const STATE: &str = "state.";

impl Values {
    /// The name of the segment that has them.
    pub fn segment(&self) -> String {
        match self {
            Values::Weights => "params".into(),
            Values::Gradient => "grads".into(),
            Values::State(slot) => format!("{STATE}{slot}"),
        }
    }

    /// What a segment that has them is said to hold.
    pub fn kind(&self) -> SegmentKind {
        match self {
            Values::Weights => SegmentKind::Weights,
            Values::Gradient => SegmentKind::Gradients,
            Values::State(_) => SegmentKind::State,
        }
    }

    /// The slot that a segment of state is of.
    pub fn slot_of(segment: &str) -> &str {
        segment.strip_prefix(STATE).unwrap_or(segment)
    }
}
