//! Model families as tensor IR, written for one device: a folder for each family, shared blocks, one decoder.
//!
//! ```text
//! arch.rs        sizes and switches of a model, from the configuration
//! param.rs       what a family declares of each parameter
//! families/      names, parameters, Hugging Face's names and config.json: one folder each
//! blocks/        attention, MLP, norms, positions, experts, dropout, the transformer layer
//! decoder.rs     loss, logits, decode and set-up over any family
//! ```
//! A model is *plain*: norms, attention and the loss are written out in simple ops, and the
//! rewriting passes find the fused forms. A model file says nothing of devices, layouts, memory or
//! gradients; what these need to know of a parameter, the family declares beside it.

// Printing is the runtime's `say`: the standard macros panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod arch;
pub mod blocks;
pub mod decoder;
pub mod families;
pub mod param;

pub use arch::Arch;
pub use decoder::build;
pub use families::Family;
