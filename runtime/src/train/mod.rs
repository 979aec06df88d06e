//! Training: the loop around the plan's `train_step`.

mod blame;
mod identity;
pub mod init;
pub mod lr;
mod metrics;
mod run;
mod saver;
pub mod scaler;
pub mod settings;
mod shared;
mod start;

pub(crate) use run::Trainer;
pub use run::{Observer, Options, StepReport, Summary, train};
pub use settings::{Settings, settings};
