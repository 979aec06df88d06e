//! Token data: Megatron's files, NeoX's sample orders, data sets, and mixtures of them.

pub mod blend;
pub mod dataset;
pub mod documents;
pub mod idx;
pub mod mixture;
pub mod mt19937;
pub mod order;

pub use dataset::{Sample, TokenDataset};
pub use idx::{IndexedFile, IndexedWriter};
pub use mixture::{Entropy, Mixture, unigram_entropy};
