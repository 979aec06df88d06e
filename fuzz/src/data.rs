//! Data sets: `.idx` and `.bin`.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use neoxc_runtime::data::dataset::{Draw, Files, Packing, Sample, TokenDataset};
use neoxc_runtime::data::idx::{IndexedFile, IndexedWriter, TokenType};

use crate::{Target, wreck};

/// Reads a pair of files and draws samples.
pub struct DataTarget {
    folder: tempfile::TempDir,
    idx: Vec<u8>,
    bin: Vec<u8>,
}

impl DataTarget {
    /// Makes the valid pair.
    pub fn new() -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let prefix = folder.path().join("d");
        let write = || {
            let mut w = IndexedWriter::create(&prefix, TokenType::U16, true)?;
            for n in 0..6u32 {
                w.document(&(0..3 + 5 * n).collect::<Vec<_>>())?;
            }
            w.finish()
        };
        write().map_err(std::io::Error::other)?;
        let read = |end: &str| std::fs::read(prefix.with_extension(end));
        Ok(Self { idx: read("idx")?, bin: read("bin")?, folder })
    }

    fn attempt(&self, u: &mut Unstructured) -> Result<bool> {
        let (mut idx, mut bin) = (self.idx.clone(), self.bin.clone());
        for _ in 0..u.int_in_range(1..=3)? {
            match u.int_in_range(0..=5)? {
                0 => wreck::bytes(u, &mut idx)?,
                1 => wreck::bytes(u, &mut bin)?,
                // A number of the index, whole.
                _ if idx.len() >= 42 => {
                    let at = 18 + 4 * u.choose_index((idx.len() - 18) / 4 - 1)?;
                    let small: u64 = u.int_in_range(0..=40)?;
                    let value = *u.choose(&[small, 1 << 31, 1 << 40, u64::MAX])?;
                    let n = if u.arbitrary()? { 8 } else { 4 }.min(idx.len() - at);
                    idx[at..at + n].copy_from_slice(&value.to_le_bytes()[..n]);
                }
                _ => {}
            }
        }
        let prefix = self.folder.path().join("x");
        let written = std::fs::write(prefix.with_extension("idx"), &idx)
            .and_then(|()| std::fs::write(prefix.with_extension("bin"), &bin));
        written.expect("the folder can be written");
        let Ok(file) = IndexedFile::open(&prefix) else { return Ok(false) };
        let tokens = Arc::new(file);
        let seq = u.int_in_range(1..=30)?;
        let all = 0..tokens.documents();
        let (_, packing) = *u.choose(&Packing::ALL)?;
        let allow_chopped = u.arbitrary()?;
        let draw = Draw { seq, seed: 1, vocab: 50, copies: 1, packing, allow_chopped };
        let labels = u.arbitrary::<bool>()?.then(|| tokens.clone());
        let files = Files { tokens, labels };
        let Ok(set) = TokenDataset::new(files, all, u.int_in_range(0..=40)?, draw) else {
            return Ok(false);
        };
        let mut sample = Sample::new(seq);
        for position in 0..set.len().min(50) {
            if set.sample(position, &mut sample).is_ok() {
                assert!(sample.tokens.iter().all(|t| (0..50).contains(t)), "{sample:?}");
            }
        }
        Ok(true)
    }
}

impl Target for DataTarget {
    fn run(&self, choices: &[u8]) -> bool {
        self.attempt(&mut Unstructured::new(choices)).unwrap_or(false)
    }
}
