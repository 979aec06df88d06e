//! Start values of weights.

use serde::{Deserialize, Deserializer, Serialize};

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

/// A start value as checkpoints have it: those written before 2026-12 have a deviation alone.
///
/// # Errors
/// It is neither.
pub fn written<'de, D: Deserializer<'de>>(from: D) -> Result<Start, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Deviation(f64),
        Start(Start),
    }
    Ok(match Written::deserialize(from)? {
        Written::Deviation(deviation) => deviation.into(),
        Written::Start(start) => start,
    })
}

impl From<f64> for Start {
    fn from(deviation: f64) -> Start {
        Start::Normal(deviation)
    }
}
