//! Megatron's memory-mapped data set: `PREFIX.bin` holds tokens, `PREFIX.idx` says where sequences
//! and documents are.
//!
//! `.idx`: `MMIDIDX\0\0`, u64 version 1, u8 dtype code, u64 sequences, u64 documents + 1, i32 sizes[],
//! i64 byte pointers[], i64 document starts[]; little-endian. Everything is checked against the
//! files' sizes when they are opened, so that reading a token cannot fail later.
//!
//! GPT-NeoX counts, splits and shuffles *sequences* and never reads the document starts: other writers put several
//! sequences into a document, and tools that merge files leave the list at its first entry. So do we; what the rest
//! of the program calls a document of a data set is a sequence of this file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::RuntimeError;
use crate::files;

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const HEADER: usize = 9 + 8 + 1 + 8 + 8;

/// Token dtypes that are read: Megatron's, but for the floats of reward sets. The first two are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// For vocabularies below 65,500.
    U16,
    /// For larger ones.
    I32,
    /// Unsigned bytes.
    U8,
    /// Signed bytes.
    I8,
    /// Signed 16-bit integers.
    I16,
    /// 64-bit integers.
    I64,
}

impl TokenType {
    /// NeoX's choice for a vocabulary.
    pub fn for_vocab(size: usize) -> TokenType {
        if size < 65_500 { TokenType::U16 } else { TokenType::I32 }
    }

    fn code(self) -> u8 {
        match self {
            TokenType::U8 => 1,
            TokenType::I8 => 2,
            TokenType::I16 => 3,
            TokenType::I32 => 4,
            TokenType::I64 => 5,
            TokenType::U16 => 8,
        }
    }

    /// The dtype of an index's code, or why its elements are no token ids.
    fn of_code(code: u8) -> Result<TokenType, String> {
        let all = [Self::U8, Self::I8, Self::I16, Self::I32, Self::I64, Self::U16];
        let known = all.into_iter().find(|t| t.code() == code);
        known.ok_or_else(|| match code {
            6 | 7 => format!("holds floats (dtype {code}), which are no token ids"),
            _ => format!("has the unknown token dtype {code}"),
        })
    }

    fn bytes(self) -> usize {
        match self {
            TokenType::U8 | TokenType::I8 => 1,
            TokenType::U16 | TokenType::I16 => 2,
            TokenType::I32 => 4,
            TokenType::I64 => 8,
        }
    }
}

/// `PREFIX` + `.bin` or `.idx` (prefixes may contain dots).
pub fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// An opened pair of files.
pub struct IndexedFile {
    bin: Mmap,
    bin_path: PathBuf,
    dtype: TokenType,
    sizes: Vec<i32>,
    pointers: Vec<u64>,
    documents: Vec<u64>,
}

impl IndexedFile {
    /// Opens `PREFIX.bin` and `PREFIX.idx`.
    pub fn open(prefix: &Path) -> Result<IndexedFile, RuntimeError> {
        let (idx_path, bin_path) = (with_suffix(prefix, ".idx"), with_suffix(prefix, ".bin"));
        let (idx, bin) = (map(&idx_path)?, map(&bin_path)?);
        let bad = |m: String| RuntimeError::data(&idx_path, m);
        if idx.len() < HEADER || &idx[..9] != MAGIC {
            return Err(bad("is not a Megatron index (its magic bytes are missing)".into()));
        }
        let u64_at = |at: usize| -> u64 {
            let mut b = [0; 8];
            b.copy_from_slice(&idx[at..at + 8]);
            u64::from_le_bytes(b)
        };
        if u64_at(9) != 1 {
            return Err(bad(format!("has version {}, not 1", u64_at(9))));
        }
        let dtype = TokenType::of_code(idx[17]).map_err(bad)?;
        let (sequences, documents) = (u64_at(18), u64_at(26));
        let want = sequences
            .checked_mul(12)
            .and_then(|s| s.checked_add(documents.checked_mul(8)?))
            .and_then(|s| s.checked_add(HEADER as u64));
        if want != Some(idx.len() as u64) {
            return Err(bad(format!(
                "is truncated or damaged: {} bytes for {sequences} sequences and {documents} document \
                 boundaries",
                idx.len()
            )));
        }
        let n = sequences as usize;
        let i32_at = |at: usize| {
            let mut b = [0; 4];
            b.copy_from_slice(&idx[at..at + 4]);
            i32::from_le_bytes(b)
        };
        let sizes: Vec<i32> = (0..n).map(|i| i32_at(HEADER + 4 * i)).collect();
        let pointers: Vec<u64> = (0..n).map(|i| u64_at(HEADER + 4 * n + 8 * i)).collect();
        let documents: Vec<u64> =
            (0..documents as usize).map(|i| u64_at(HEADER + 12 * n + 8 * i)).collect();
        for (i, (size, pointer)) in sizes.iter().zip(&pointers).enumerate() {
            let end = u64::try_from(*size)
                .ok()
                .and_then(|s| s.checked_mul(dtype.bytes() as u64)?.checked_add(*pointer));
            if end.is_none_or(|e| e > bin.len() as u64) {
                return Err(RuntimeError::data(
                    &bin_path,
                    format!("is truncated: sequence {i} ends behind its {} bytes", bin.len()),
                ));
            }
        }
        let ordered = documents.windows(2).all(|w| w[0] <= w[1]);
        if !ordered || documents.last().is_some_and(|d| *d > sequences) {
            return Err(bad("has document boundaries out of order".into()));
        }
        Ok(IndexedFile { bin, bin_path, dtype, sizes, pointers, documents })
    }

    /// Tokens of each sequence.
    pub fn sizes(&self) -> &[i32] {
        &self.sizes
    }

    /// Number of sequences: what GPT-NeoX counts as documents.
    pub fn documents(&self) -> usize {
        self.sizes.len()
    }

    /// A hash of the whole index and of pages spread over the tokens, which may be too many to read them all.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update([self.dtype.bytes() as u8]);
        self.sizes.iter().for_each(|n| hash.update(n.to_le_bytes()));
        let numbers = self.pointers.iter().chain(&self.documents);
        numbers.for_each(|n| hash.update(n.to_le_bytes()));
        let len = self.bin.len();
        hash.update((len as u64).to_le_bytes());
        for at in (0..len).step_by(len.div_ceil(PAGES).max(PAGE)) {
            hash.update(&self.bin[at..(at + PAGE).min(len)]);
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The token file, for messages.
    pub fn path(&self) -> &Path {
        &self.bin_path
    }

    /// Token `at` of sequence `sequence`; both must exist.
    pub fn token(&self, sequence: usize, at: usize) -> i64 {
        let p = self.pointers[sequence] as usize + at * self.dtype.bytes();
        // Little-endian, at the start of eight bytes.
        let mut raw = [0; 8];
        raw[..self.dtype.bytes()].copy_from_slice(&self.bin[p..p + self.dtype.bytes()]);
        let bits = i64::from_le_bytes(raw);
        match self.dtype {
            TokenType::U8 | TokenType::U16 | TokenType::I64 => bits,
            TokenType::I8 => i64::from(bits as i8),
            TokenType::I16 => i64::from(bits as i16),
            TokenType::I32 => i64::from(bits as i32),
        }
    }
}

fn map(path: &Path) -> Result<Mmap, RuntimeError> {
    let file = File::open(path).map_err(RuntimeError::io("open", path))?;
    // SAFETY: the file is mapped read-only; data sets are not changed while they are used.
    unsafe { Mmap::map(&file) }.map_err(RuntimeError::io("map", path))
}

/// Pages of the token file that a digest reads at most, and bytes of each.
const PAGES: usize = 1024;
const PAGE: usize = 4096;

/// A file that is removed unless it has been given its name by then.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Where it was renamed there is nothing to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes a pair of files; they appear when [`IndexedWriter::finish`] succeeds.
pub struct IndexedWriter {
    prefix: PathBuf,
    temporary: Temporary,
    bin: BufWriter<File>,
    dtype: TokenType,
    sizes: Vec<i32>,
    documents: Vec<u64>,
}

impl IndexedWriter {
    /// Starts `PREFIX.bin` and `PREFIX.idx`; refuses to replace existing ones unless `overwrite`.
    pub fn create(prefix: &Path, dtype: TokenType, overwrite: bool) -> Result<Self, RuntimeError> {
        for suffix in [".bin", ".idx"] {
            let path = with_suffix(prefix, suffix);
            if path.exists() && !overwrite {
                return Err(RuntimeError::Exists(path));
            }
        }
        let folder = files::folder_of(prefix);
        std::fs::create_dir_all(folder).map_err(RuntimeError::io("make", folder))?;
        let temporary = Temporary(with_suffix(prefix, &format!(".bin.{}.tmp", std::process::id())));
        let file = File::create(&temporary.0).map_err(RuntimeError::io("make", &temporary.0))?;
        Ok(Self {
            prefix: prefix.to_path_buf(),
            temporary,
            bin: BufWriter::new(file),
            dtype,
            sizes: vec![],
            documents: vec![0],
        })
    }

    /// Adds one document of one sequence.
    pub fn document(&mut self, tokens: &[u32]) -> Result<(), RuntimeError> {
        let write = |w: &mut BufWriter<File>| -> std::io::Result<()> {
            for t in tokens {
                w.write_all(&u64::from(*t).to_le_bytes()[..self.dtype.bytes()])?;
            }
            Ok(())
        };
        write(&mut self.bin).map_err(RuntimeError::io("write", &self.temporary.0))?;
        let size = i32::try_from(tokens.len())
            .map_err(|_| RuntimeError::data(&self.prefix, "a document has over 2^31 tokens"))?;
        self.sizes.push(size);
        self.documents.push(self.sizes.len() as u64);
        Ok(())
    }

    /// Puts both files in place.
    pub fn finish(self) -> Result<(), RuntimeError> {
        let bin = with_suffix(&self.prefix, ".bin");
        let file = self
            .bin
            .into_inner()
            .map_err(|e| RuntimeError::io("write", &self.temporary.0)(e.into_error()))?;
        file.sync_all().map_err(RuntimeError::io("sync", &self.temporary.0))?;
        let mut pointer = 0u64;
        let mut index = vec![];
        index.extend_from_slice(MAGIC);
        index.extend_from_slice(&1u64.to_le_bytes());
        index.push(self.dtype.code());
        index.extend_from_slice(&(self.sizes.len() as u64).to_le_bytes());
        index.extend_from_slice(&(self.documents.len() as u64).to_le_bytes());
        self.sizes.iter().for_each(|s| index.extend_from_slice(&s.to_le_bytes()));
        for s in &self.sizes {
            index.extend_from_slice(&pointer.to_le_bytes());
            pointer += *s as u64 * self.dtype.bytes() as u64;
        }
        self.documents.iter().for_each(|d| index.extend_from_slice(&d.to_le_bytes()));
        std::fs::rename(&self.temporary.0, &bin).map_err(RuntimeError::io("rename", &bin))?;
        files::write_bytes(&with_suffix(&self.prefix, ".idx"), &index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes worked out by hand from the format's description.
    #[test]
    fn the_index_has_megatron_s_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("a.b");
        let mut w = IndexedWriter::create(&prefix, TokenType::U16, false).unwrap();
        w.document(&[1, 2, 3]).unwrap();
        w.document(&[500]).unwrap();
        w.finish().unwrap();
        let bin = std::fs::read(with_suffix(&prefix, ".bin")).unwrap();
        assert_eq!(bin, [1, 0, 2, 0, 3, 0, 0xf4, 1]);
        let idx = std::fs::read(with_suffix(&prefix, ".idx")).unwrap();
        let mut want = b"MMIDIDX\0\0".to_vec();
        want.extend([1, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        want.extend([3, 0, 0, 0, 1, 0, 0, 0]);
        for n in [0u64, 6, 0, 1, 2] {
            want.extend(n.to_le_bytes());
        }
        assert_eq!(idx, want);
        let f = IndexedFile::open(&prefix).unwrap();
        assert_eq!((f.documents(), f.sizes(), f.token(1, 0)), (2, &[3, 1][..], 500));
        assert!(matches!(
            IndexedWriter::create(&prefix, TokenType::U16, false),
            Err(RuntimeError::Exists(_))
        ));
    }

    /// An index as any writer of the format may leave it.
    fn index(code: u8, sizes: &[i32], width: u64, documents: &[u64]) -> Vec<u8> {
        let mut idx = b"MMIDIDX\0\0\x01\0\0\0\0\0\0\0".to_vec();
        idx.push(code);
        idx.extend((sizes.len() as u64).to_le_bytes());
        idx.extend((documents.len() as u64).to_le_bytes());
        sizes.iter().for_each(|s| idx.extend(s.to_le_bytes()));
        let mut at = 0u64;
        for s in sizes {
            idx.extend(at.to_le_bytes());
            at += *s as u64 * width;
        }
        documents.iter().for_each(|d| idx.extend(d.to_le_bytes()));
        idx
    }

    /// GPT-NeoX counts `sizes` and never reads the list of documents.
    #[test]
    fn sequences_count_whatever_the_documents_are() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("s");
        std::fs::write(with_suffix(&prefix, ".bin"), [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]).unwrap();
        for documents in [&[0, 3][..], &[0, 2, 3], &[0, 1, 2, 3], &[0], &[]] {
            let idx = index(8, &[1, 2, 3], 2, documents);
            std::fs::write(with_suffix(&prefix, ".idx"), idx).unwrap();
            let f = IndexedFile::open(&prefix).unwrap();
            assert_eq!((f.documents(), f.sizes(), f.token(2, 2)), (3, &[1, 2, 3][..], 6));
        }
        for documents in [&[0, 4][..], &[2, 1]] {
            let idx = index(8, &[1, 2, 3], 2, documents);
            std::fs::write(with_suffix(&prefix, ".idx"), idx).unwrap();
            assert!(IndexedFile::open(&prefix).is_err());
        }
    }

    /// Codes and widths are those of Megatron's and GPT-NeoX's `indexed_dataset.py`.
    #[test]
    fn every_dtype_of_ids_is_read_and_floats_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("t");
        for (code, bytes, want) in [
            (1, &[200u8][..], 200),
            (2, &[0xfe], -2),
            (3, &[0xff, 0x7f], 32767),
            (4, &[0, 0, 1, 0], 65536),
            (5, &[0, 0, 0, 0, 1, 0, 0, 0], 1 << 32),
            (8, &[0xff, 0xff], 65535),
        ] {
            let idx = index(code, &[1], bytes.len() as u64, &[0, 1]);
            std::fs::write(with_suffix(&prefix, ".idx"), idx).unwrap();
            std::fs::write(with_suffix(&prefix, ".bin"), bytes).unwrap();
            assert_eq!(IndexedFile::open(&prefix).unwrap().token(0, 0), want, "{code}");
        }
        for (code, told) in [(6, "floats"), (7, "floats"), (9, "unknown token dtype 9")] {
            std::fs::write(with_suffix(&prefix, ".idx"), index(code, &[1], 8, &[0, 1])).unwrap();
            std::fs::write(with_suffix(&prefix, ".bin"), [0; 8]).unwrap();
            let e = IndexedFile::open(&prefix).err().unwrap().to_string();
            assert!(e.contains(told), "{e}");
        }
    }

    #[test]
    fn damaged_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("d");
        assert!(IndexedFile::open(&prefix).is_err());
        let mut w = IndexedWriter::create(&prefix, TokenType::I32, false).unwrap();
        w.document(&[1, 2, 3]).unwrap();
        w.finish().unwrap();
        let (idx, bin) = (with_suffix(&prefix, ".idx"), with_suffix(&prefix, ".bin"));
        let whole = std::fs::read(&idx).unwrap();
        for i in 0..whole.len() {
            std::fs::write(&idx, &whole[..i]).unwrap();
            assert!(IndexedFile::open(&prefix).is_err(), "cut at {i}");
            let mut bytes = whole.clone();
            bytes[i] ^= 0x80;
            std::fs::write(&idx, &bytes).unwrap();
            let _ = IndexedFile::open(&prefix);
        }
        std::fs::write(&idx, &whole).unwrap();
        std::fs::write(&bin, [0; 11]).unwrap();
        let e = IndexedFile::open(&prefix).err().unwrap().to_string();
        assert!(e.contains("d.bin") && e.contains("truncated"), "{e}");
    }
}
