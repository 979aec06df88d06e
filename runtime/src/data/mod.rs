//! Token data: Megatron's files, NeoX's sample order, data sets.

pub mod dataset;
pub mod idx;
pub mod mt19937;
pub mod order;

pub use dataset::{Entropy, TokenDataset, unigram_entropy};
pub use idx::{IndexedFile, IndexedWriter};
