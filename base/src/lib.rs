//! The vocabulary that every crate of neoxc shares: diagnostics, targets, clusters, names of programs.
//!
//! This crate depends on no other crate of ours, so the compiler and the runtime may both use it. It knows
//! no IR, no device and no file format: only what a problem, a target and a cluster *are*.
//!
//! - [`codes`]: every problem that can be told, a file each.
//! - [`diag`]: what a problem consists of: code, sentence, places, hint.
//! - [`processor`]: what instructions a machine has.
//! - [`target`], [`cluster`]: what kernels are compiled for and what they run on.
//! - [`entry`]: the names of a plan's programs and of their parts.
//! - [`read`]: how files are read that somebody else wrote.
//! - [`write`](mod@write): how files and folders are written that appear whole or not at all.
//!
//! # Example
//! ```
//! use neoxc_base::codes::{self, missing_key::missing_key};
//! use neoxc_base::target::Target;
//!
//! let target: Target = "sm_90a".parse().expect("a target");
//! assert_eq!(target.to_string(), "sm_90a");
//!
//! let problem = missing_key("`num_layers` is missing", "give the number of layers");
//! assert!(problem.to_string().ends_with("hint: give the number of layers"));
//! // What `neoxc explain CODE` prints is with the code.
//! assert_eq!(codes::find(problem.kind.code), Some(problem.kind));
//! ```

// Printing is the runtime's `say`: the standard macros panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cluster;
pub mod codes;
pub mod diag;
pub mod entry;
pub mod nearest;
pub mod processor;
pub mod read;
pub mod target;
pub mod write;
