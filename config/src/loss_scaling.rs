//! Loss scaling: what the loss is multiplied by in fp16, so that small gradients stay above f16's smallest number.

use serde::{Deserialize, Serialize};

/// How the loss scale of a run comes about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossScaling {
    /// It is always this.
    Fixed(f64),
    /// It follows overflows.
    Dynamic(DynamicScaling),
}

/// A loss scale that falls after overflows and rises after a number of steps without one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DynamicScaling {
    /// Of the first step.
    pub initial: f64,
    /// It doubles after so many steps without an overflow.
    pub window: u64,
    /// It does not fall below this.
    pub minimum: f64,
    /// Overflows that leave it as it is, which DeepSpeed's rule for ZeRO 1 to 3 has; without ZeRO the first one halves
    /// it, and it may stay at the minimum for good.
    pub hysteresis: Option<Hysteresis>,
}

impl DynamicScaling {
    /// The overflow that halves the scale, counted from 1.
    pub fn patience(&self) -> u64 {
        self.hysteresis.map_or(1, |h| h.overflows.max(1))
    }
}

/// Which overflows leave the loss scale as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hysteresis {
    /// From this many on each overflow halves the scale.
    pub overflows: u64,
    /// Only overflows of neighbouring steps count together; otherwise all since the scale last rose.
    pub consecutive: bool,
}
