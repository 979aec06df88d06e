//! The vocabulary that every crate of neoxc shares: diagnostics, targets and clusters.
//!
//! This crate depends on no other crate of ours, so the compiler and the runtime may both use it. It knows
//! no IR, no device and no file format: only what a problem, a target and a cluster *are*.
//!
//! - [`codes`]: every problem that can be told, a file each.
//! - [`diag`]: what a problem consists of: code, sentence, places, hint.
//! - [`target`], [`cluster`]: what kernels are compiled for and what they run on.

pub mod cluster;
pub mod codes;
pub mod diag;
pub mod target;
