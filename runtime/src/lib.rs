//! The runtime: executes plans. Knows nothing of the compiler; needs no LLVM.
//!
//! - [`device`]: memory, threads and kernels of one machine.
//! - [`data`]: Megatron's `.bin/.idx`, sample order, data sets.
//! - [`text`]: tokenizers and preprocessing.
//! - [`train`]: start values, learning rate, the training loop.
//! - [`checkpoint`]: parameters and optimizer state by logical name.
//! - [`ranks`], [`collectives`]: several ranks in one process.
//! - [`job`], [`heartbeat`], [`health`]: ranks as processes, and whether they are all there.
//! - [`command`]: what `neoxc run` and `neoxc-run` do.
//! - [`progress`]: what a person sees of a run; [`say`]: the one place that prints.
//! - [`profile`]: what a step's time goes to.
//! - [`generate`]: samples of text from a trained model.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod backoff;
pub mod checkpoint;
pub mod collectives;
pub mod command;
pub mod data;
#[cfg(any(feature = "mpi", test))]
mod deadline;
pub mod device;
pub mod error;
pub mod files;
pub mod generate;
pub mod health;
pub mod heartbeat;
pub mod job;
pub mod profile;
pub mod progress;
pub mod ranks;
pub mod say;
pub mod signals;
pub mod text;
pub mod train;

pub use error::RuntimeError;
