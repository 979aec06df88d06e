//! The passes: transformations of the IR, from the model's module to the program of one rank with an address for every value.
//!
//! A pass is a file with a verb and a noun for its name. Its documentation opens with the IR before and after. It names the
//! [`facts`] that it requires and ensures; [`pipeline::run_pass`] checks both, and the verifier, around every run. The order of the
//! passes is in [`pipeline`] and nowhere else.
//!
//! | phase | passes |
//! |---|---|
//! | Rewritten | [`rewrite_graph`], with the rules of [`rules`] |
//! | Grad | [`group_checkpoints`], [`differentiate_loss`], [`build_train_step`], [`merge_loss_gradient`] |
//! | Sharded | [`select_entries`], [`cut_stages`] (with [`assign_stages`] and [`schedule_pipeline`]), [`assign_layouts`], [`partition_program`], [`divide_state`], [`lower_precision`], [`keep_weights`], [`peel_last_step`] |
//! | Fused | [`split_cross_entropy`], [`split_sums`], [`specialise_calls`], [`drop_zero_sums`], [`fuse_kernels`] |
//! | Scheduled | [`prefetch_gathers`], [`overlap_collectives`], [`place_memory`] |
//!
//! The [`tutorial`] builds a small function, rewrites it, differentiates it and divides it over two ranks.

// Printing is the runtime's `say`: the standard macros panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod assign_layouts;
pub mod assign_stages;
pub mod build_train_step;
pub mod cut_stages;
pub mod differentiate_loss;
pub mod divide_state;
pub mod drop_zero_sums;
pub mod entries;
pub mod facts;
pub mod fuse_kernels;
pub mod group_checkpoints;
pub mod keep_weights;
mod links;
pub mod lower_precision;
pub mod merge_loss_gradient;
pub mod overlap_collectives;
pub mod partition_program;
pub mod pass;
pub mod peel_last_step;
pub mod pipeline;
pub mod place_memory;
pub mod prefetch_gathers;
pub mod rewrite_graph;
pub mod rules;
pub mod schedule_pipeline;
pub mod select_entries;
pub mod settings;
pub mod specialise_calls;
pub mod split_cross_entropy;
pub mod split_sums;
pub mod tutorial;

pub use pass::{PassCx, PassError, PassReport};
pub use pipeline::Phase;
