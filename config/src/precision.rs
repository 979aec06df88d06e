//! The dtype of matmuls and activations.

use serde::{Deserialize, Serialize};

/// The dtype of factors and activations. Parameters, sums of gradients and the optimizer's state are f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE binary16, with a scaled loss.
    F16,
}

crate::words!(Precision: F32 = "f32", Bf16 = "bf16", F16 = "f16");
