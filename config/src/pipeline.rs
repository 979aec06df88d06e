//! Pipelines: the order of micro-batches, and how stages divide the layers.

use serde::{Deserialize, Serialize};

/// The order in which micro-batches go through the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PipeSchedule {
    /// All forward, then all backward (Huang et al. 2019).
    GPipe,
    /// One forward, one backward as soon as there is one (Narayanan et al. 2019).
    #[default]
    OneForwardOneBackward,
    /// As 1F1B, with the gradients of weights later: they fill what would be idle, and no stage keeps
    /// more micro-batches than the first (ZB-H1, Qi et al. 2023).
    ZeroBubble,
    /// 1F1B over several chunks of layers on each stage: micro-batches go through a chunk in groups of as
    /// many as there are stages (Narayanan et al. 2021).
    Interleaved,
}

crate::words!(
    PipeSchedule: GPipe = "gpipe",
    OneForwardOneBackward = "1f1b",
    ZeroBubble = "zb-h1",
    Interleaved = "interleaved",
);

impl PipeSchedule {
    /// Whether gradients of weights are a step of their own.
    pub fn splits(self) -> bool {
        self == PipeSchedule::ZeroBubble
    }
}

/// How a pipeline's stages divide the layers (`pipe_partition_method`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PipePartition {
    /// As many layers on each stage.
    #[default]
    Layers,
    /// As many parameters.
    Parameters,
    /// As many of the modules that GPT-NeoX's pipeline has: embedding, two reshapes, layers, norm, head.
    Uniform,
    /// As much time by the target's roofline.
    Balanced,
}

crate::words!(
    PipePartition: Layers = "type:transformer|mlp",
    Parameters = "parameters",
    Uniform = "uniform",
    Balanced = "balanced",
);
