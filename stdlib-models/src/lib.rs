//! Model families as tensor IR, written for one device: one file per family.
//!
//! A model is *plain*: norms, attention and the loss are written out in simple ops, and the
//! rewriting passes find the fused forms. A model file says nothing of devices, layouts, memory or
//! gradients.

pub mod arch;
pub mod dropout;
pub mod gpt_neox;
pub mod layers;
pub mod moe;

pub use arch::Arch;
pub use gpt_neox::build;
