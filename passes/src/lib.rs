//! Passes over the IR. Order lives only in [`pipeline`].
//!
//! Model → (rewrite) → Rewritten → (gradient, optimizer) → Grad → (layouts) → Sharded →
//! (kernels) → Fused → (memory) → Scheduled. Each pass is a verb-noun file.

pub mod assign_layouts;
pub mod assign_stages;
pub mod build_train_step;
pub mod cut_stages;
pub mod differentiate_loss;
pub mod divide_state;
pub mod drop_zero_sums;
pub mod facts;
pub mod fuse_kernels;
pub mod group_checkpoints;
pub mod keep_weights;
mod links;
pub mod lower_precision;
pub mod merge_loss_gradient;
pub mod overlap_exchanges;
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
pub mod specialise_calls;
pub mod split_cross_entropy;
pub mod split_sums;

pub use pass::{PassCx, PassError, PassReport};
pub use pipeline::Phase;
