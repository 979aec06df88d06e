//! Cuts that were measured on this machine: what `neoxc tune` found, kept in the kernel cache.
//!
//! A cut says which rows and columns of a matmul are one task. Other cuts give the same bits, so a tuned
//! plan computes what an untuned one does.

use std::path::Path;

use neoxc_ir::target::Target;

use super::matmul::Cut;
use crate::x86::Cache;

/// Which cut a matmul gets.
#[derive(Clone, Copy)]
pub enum Choice<'a> {
    /// The model's.
    Model,
    /// The measured one where there is one, or the model's.
    Tuned(&'a Tuned),
    /// This one, to measure it.
    This(Cut),
}

/// What a matmul may be cut into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ties {
    /// Names the matmul: sizes, strides and the machine.
    pub key: String,
    /// Cuts that the model finds nearly equal, its choice first.
    pub cuts: Vec<Cut>,
    /// The cut that the kernel has.
    pub taken: Cut,
}

/// The measured cuts of this machine.
pub struct Tuned(Cache);

impl Tuned {
    /// Those in the kernel cache in `folder`. Other targets than this machine's own have none.
    pub fn open(folder: &Path, target: Target) -> Option<Tuned> {
        (target == Target::X86Native).then(|| Tuned(Cache::of(folder, target)))
    }

    /// The measured cut of a matmul.
    pub(super) fn cut(&self, key: &str) -> Option<Cut> {
        let bytes = self.0.get(&self.0.key([key]))?;
        let text = String::from_utf8(bytes).ok()?;
        let (rows, columns) = text.split_once(' ')?;
        Some(Cut { rows: rows.parse().ok()?, columns: columns.parse().ok()? })
    }

    /// Keeps the best cut of a matmul.
    ///
    /// # Errors
    /// It could not be written.
    pub fn keep(&self, key: &str, cut: Cut) -> std::io::Result<()> {
        self.0.keep(&self.0.key([key]), format!("{} {}", cut.rows, cut.columns).as_bytes())
    }
}
