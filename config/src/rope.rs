//! How the frequencies of rotary positions are scaled for longer sequences than a model was first trained on.

use serde::{Deserialize, Serialize};

/// A scaling of rotary positions, by the names of Hugging Face's `rope_scaling`. What each computes is said where
/// it is computed, at `neox.rotary_table`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// All frequencies are divided by the factor (Chen et al. 2023, arXiv:2306.15595).
    Linear {
        /// The factor, at least 1.
        factor: f64,
    },
    /// The base grows so that the lowest frequency is divided by the factor, and the highest one stays; the same for
    /// every length of a sequence.
    Ntk {
        /// The factor, at least 1.
        factor: f64,
    },
    /// Low frequencies are divided by the factor, high ones stay, with a ramp between (Peng et al. 2023,
    /// arXiv:2309.00071).
    Yarn {
        /// The factor, at least 1.
        factor: f64,
        /// Tokens of a sequence before.
        original: usize,
        /// Turns within `original` tokens from which on a frequency stays.
        beta_fast: f64,
        /// Turns up to which it is divided.
        beta_slow: f64,
        /// Whether the ends of the ramp are whole dims.
        truncate: bool,
        /// Both tables are multiplied by this.
        attention_factor: f64,
    },
    /// The same with a ramp over the wavelength (Llama 3.1, arXiv:2407.21783).
    Llama3 {
        /// The factor, at least 1.
        factor: f64,
        /// Tokens of a sequence before.
        original: usize,
        /// Turns within `original` tokens below which a frequency is divided.
        low_freq_factor: f64,
        /// Turns above which it stays.
        high_freq_factor: f64,
    },
}

impl RopeScaling {
    /// The name of the kind.
    pub fn name(&self) -> &'static str {
        match self {
            RopeScaling::Linear { .. } => "linear",
            RopeScaling::Ntk { .. } => "ntk",
            RopeScaling::Yarn { .. } => "yarn",
            RopeScaling::Llama3 { .. } => "llama3",
        }
    }

    /// YaRN's factor of both tables (equation 22 of arXiv:2309.00071, with the two weights of DeepSeek-V2's models
    /// where both are given).
    pub fn attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
        let scale =
            |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        match (mscale, mscale_all_dim) {
            (Some(m), Some(all)) if m != 0.0 && all != 0.0 => scale(m) / scale(all),
            _ => scale(1.0),
        }
    }
}
