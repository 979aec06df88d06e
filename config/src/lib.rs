//! What a configuration says, in types that every crate shares: the frontend fills them, models and passes
//! read them, and a plan keeps them.
//!
//! This crate depends on no other crate of ours and reads no file. What an argument means, and which values
//! it may have, is in the frontend's tables (`frontend/src/arguments/`).
//!
//! - [`Moe`], [`Router`], [`Capacity`]: layers with experts.
//! - [`Norm`], [`NormPlace`], [`QkNorm`], [`Activation`], [`Attention`]: what layers are made of.
//! - [`Start`]: what weights start as.
//! - [`RopeScaling`]: how rotary positions are stretched.
//! - [`PipeSchedule`], [`PipePartition`]: a pipeline's order of micro-batches, and what its stages divide.
//! - [`Precision`]: the dtype of matmuls and activations; [`LossScaling`]: what fp16 multiplies the loss by.
//! - [`Source`], [`Packing`]: data sets, and how documents fill sequences.
//! - [`Run`], [`LearningRate`]: batches, steps, data, checkpoints; [`Settings`]: what a plan keeps of them.
//!
//! ```
//! use neoxc_config::PipeSchedule;
//! assert_eq!(PipeSchedule::parse("zb-h1"), Some(PipeSchedule::ZeroBubble));
//! assert_eq!(PipeSchedule::ZeroBubble.name(), "zb-h1");
//! ```

// Printing is the runtime's `say`: the standard macros panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

/// Gives an enumeration its names: the list, `name`, `parse`, and serde by the name, so that a configuration,
/// a plan and a dump write the same word.
macro_rules! words {
    ($type:ident: $($variant:ident = $name:literal),* $(,)?) => {
        impl $type {
            /// Every one with its name.
            pub const ALL: [(&'static str, $type); [$($name),*].len()] =
                [$(($name, $type::$variant)),*];

            /// The word that configurations, plans and dumps have for it.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name,)*
                }
            }

            /// The one called `name`.
            pub fn parse(name: &str) -> Option<$type> {
                $type::ALL.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl From<$type> for String {
            fn from(v: $type) -> String {
                v.name().to_string()
            }
        }

        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(name: String) -> Result<$type, String> {
                $type::parse(&name).ok_or_else(|| {
                    let all: Vec<&str> = $type::ALL.iter().map(|(n, _)| *n).collect();
                    format!("{name:?} is none of {}", all.join(", "))
                })
            }
        }
    };
}
use words;

mod data;
mod experts;
mod layer;
mod loss_scaling;
mod pipeline;
mod precision;
mod rope;
mod run;
pub mod start;

pub use data::{Packing, Source};
pub use experts::{Capacity, Moe, Router};
pub use layer::{Activation, Attention, FAMILIES, Norm, NormPlace, QkNorm};
pub use loss_scaling::{DynamicScaling, Hysteresis, LossScaling};
pub use pipeline::{PipePartition, PipeSchedule};
pub use precision::Precision;
pub use rope::RopeScaling;
pub use run::{Cooldown, Decay, LEAST_FACTOR, LearningRate, MOST_SAMPLES, Run, Settings, shares};
pub use start::Start;
