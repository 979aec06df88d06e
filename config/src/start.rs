//! Start values of weights.

use serde::{Deserialize, Serialize};

/// What the weights of a matrix start as. A rank's part of a matrix starts as that part of the whole: GPT-NeoX's Xavier
/// values depend on how many ranks divide it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// A normal distribution around 0 with this standard deviation.
    Normal(f64),
    /// The same, whose variance is 2 / (rows + columns) (Glorot and Bengio 2010).
    XavierNormal,
    /// Evenly spread around 0, with the same variance.
    XavierUniform,
}

impl From<f64> for Start {
    fn from(deviation: f64) -> Start {
        Start::Normal(deviation)
    }
}
