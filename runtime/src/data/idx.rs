//! Megatron's memory-mapped data set: `PREFIX.bin` holds tokens, `PREFIX.idx` says where sequences
//! and documents are.
//!
//! `.idx`: `MMIDIDX\0\0`, u64 version 1, u8 dtype code, u64 sequences, u64 documents + 1, i32 sizes[],
//! i64 byte pointers[], i64 document starts[]; little-endian. Everything is checked against the
//! files' sizes when they are opened. Tokens are read, not mapped: a file that is cut while it is used is an error with
//! its name, where a mapped one would end the process by a signal.
//!
//! GPT-NeoX counts, splits and shuffles *sequences* and never reads the document starts: other writers put several
//! sequences into a document, and tools that merge files leave the list at its first entry. So do we; what the rest
//! of the program calls a document of a data set is a sequence of this file.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use neoxc_base::read;
use neoxc_base::write::Draft;
use sha2::{Digest, Sha256};

use crate::RuntimeError;
use crate::activity::Activity;
use crate::device::limits;
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

    /// The id in the bytes of a token, little-endian.
    fn id(self, bytes: &[u8]) -> i64 {
        // At the start of eight bytes.
        let mut raw = [0; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        let bits = i64::from_le_bytes(raw);
        match self {
            TokenType::U8 | TokenType::U16 | TokenType::I64 => bits,
            TokenType::I8 => i64::from(bits as i8),
            TokenType::I16 => i64::from(bits as i16),
            TokenType::I32 => i64::from(bits as i32),
        }
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
    bin: File,
    bin_bytes: u64,
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
        let doing = Activity::begin(format!("reading {}", idx_path.display()));
        let ((idx, idx_bytes), (bin, bin_bytes)) = (opened(&idx_path)?, opened(&bin_path)?);
        let bad = |m: String| RuntimeError::data(&idx_path, m);
        let mut idx = BufReader::new(idx);
        let mut header = [0; HEADER];
        let whole = idx.read_exact(&mut header).is_ok() && &header[..9] == MAGIC;
        if !whole {
            return Err(bad("is not a Megatron index (its magic bytes are missing)".into()));
        }
        let u64_at = |at: usize| u64::from_le_bytes(piece(&header[at..]));
        if u64_at(9) != 1 {
            return Err(bad(format!("has version {}, not 1", u64_at(9))));
        }
        let dtype = TokenType::of_code(header[17]).map_err(bad)?;
        let (sequences, documents) = (u64_at(18), u64_at(26));
        let want = sequences
            .checked_mul(12)
            .and_then(|s| s.checked_add(documents.checked_mul(8)?))
            .and_then(|s| s.checked_add(HEADER as u64));
        if want != Some(idx_bytes) {
            return Err(bad(format!(
                "is truncated or damaged: {idx_bytes} bytes for {sequences} sequences and {documents} document \
                 boundaries"
            )));
        }
        if sequences > u64::from(u32::MAX) {
            return Err(bad(format!("has {sequences} sequences, and 2^32 - 1 can be numbered")));
        }
        limits::check("the index of a data set", idx_bytes)?;
        let cut = |e: std::io::Error| bad(format!("cannot be read to its end: {e}"));
        let n = sequences as usize;
        let sizes = numbers(&mut idx, n, i32::from_le_bytes).map_err(cut)?;
        doing.moved();
        let pointers = numbers(&mut idx, n, u64::from_le_bytes).map_err(cut)?;
        doing.moved();
        let documents = numbers(&mut idx, documents as usize, u64::from_le_bytes).map_err(cut)?;
        for (i, (size, pointer)) in sizes.iter().zip(&pointers).enumerate() {
            let end = u64::try_from(*size)
                .ok()
                .and_then(|s| s.checked_mul(dtype.bytes() as u64)?.checked_add(*pointer));
            if end.is_none_or(|e| e > bin_bytes) {
                return Err(RuntimeError::data(
                    &bin_path,
                    format!("is truncated: sequence {i} ends behind its {bin_bytes} bytes"),
                ));
            }
        }
        let ordered = documents.windows(2).all(|w| w[0] <= w[1]);
        if !ordered || documents.last().is_some_and(|d| *d > sequences) {
            return Err(bad("has document boundaries out of order".into()));
        }
        Ok(IndexedFile { bin, bin_bytes, bin_path, dtype, sizes, pointers, documents })
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
    ///
    /// # Errors
    /// The token file is shorter than it was.
    pub fn digest(&self) -> Result<String, RuntimeError> {
        let doing = Activity::begin(format!("reading {}", self.bin_path.display()));
        let mut hash = Sha256::new();
        hash.update([self.dtype.bytes() as u8]);
        self.sizes.iter().for_each(|n| hash.update(n.to_le_bytes()));
        let numbers = self.pointers.iter().chain(&self.documents);
        numbers.for_each(|n| hash.update(n.to_le_bytes()));
        let len = self.bin_bytes;
        hash.update(len.to_le_bytes());
        let mut page = [0; PAGE as usize];
        for at in (0..len).step_by(len.div_ceil(PAGES).max(PAGE) as usize) {
            let page = &mut page[..PAGE.min(len - at) as usize];
            self.read_at(page, at)?;
            doing.moved();
            hash.update(page);
        }
        Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The token file, for messages.
    pub fn path(&self) -> &Path {
        &self.bin_path
    }

    /// Reads the token file from byte `at` on.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> Result<(), RuntimeError> {
        self.bin.read_exact_at(bytes, at).map_err(|e| {
            let now = self.bin.metadata().map_or(self.bin_bytes, |m| m.len());
            match now < self.bin_bytes {
                true => RuntimeError::data(
                    &self.bin_path,
                    format!(
                        "was cut while it was used: it had {} bytes, now {now}",
                        self.bin_bytes
                    ),
                ),
                false => RuntimeError::io("read", &self.bin_path)(e),
            }
        })
    }

    /// Calls `each` with the tokens of sequence `sequence` from the `at`-th on, at most `most`, which must exist; gives
    /// how many they are.
    ///
    /// # Errors
    /// They cannot be read, or `each` fails.
    pub fn tokens(
        &self,
        sequence: usize,
        at: usize,
        most: usize,
        each: &mut dyn FnMut(i64) -> Result<(), RuntimeError>,
    ) -> Result<usize, RuntimeError> {
        let width = self.dtype.bytes();
        let all = most.min((self.sizes[sequence] as usize).saturating_sub(at));
        let mut bytes = [0; 8192];
        let mut done = 0;
        while done < all {
            let n = (all - done).min(bytes.len() / width);
            let bytes = &mut bytes[..n * width];
            self.read_at(bytes, self.pointers[sequence] + ((at + done) * width) as u64)?;
            bytes.chunks_exact(width).try_for_each(|raw| each(self.dtype.id(raw)))?;
            done += n;
        }
        Ok(all)
    }
}

/// A regular file and its size.
fn opened(path: &Path) -> Result<(File, u64), RuntimeError> {
    let file = read::open(path).map_err(RuntimeError::io("open", path))?;
    let bytes = file.metadata().map_err(RuntimeError::io("read", path))?.len();
    Ok((file, bytes))
}

/// The first bytes of `from`, which has as many.
fn piece<const N: usize>(from: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&from[..N]);
    out
}

/// The next `n` numbers of a file.
fn numbers<T, const N: usize>(
    from: &mut impl Read,
    n: usize,
    of: fn([u8; N]) -> T,
) -> std::io::Result<Vec<T>> {
    let mut out = vec![];
    out.try_reserve_exact(n)?;
    let mut bytes = [0; N];
    for _ in 0..n {
        from.read_exact(&mut bytes)?;
        out.push(of(bytes));
    }
    Ok(out)
}

/// Pages of the token file that a digest reads at most, and bytes of each.
const PAGES: u64 = 1024;
const PAGE: u64 = 4096;

/// Bytes of tokens that are written at once.
const BUFFER: usize = 1 << 20;

/// Writes a pair of files; they appear when [`IndexedWriter::finish`] succeeds.
pub struct IndexedWriter {
    prefix: PathBuf,
    bin: Draft,
    /// What is to be written next.
    buffer: Vec<u8>,
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
        let bin = with_suffix(prefix, ".bin");
        let bin = Draft::file(&bin).map_err(RuntimeError::io("make", &bin))?;
        Ok(Self {
            prefix: prefix.to_path_buf(),
            bin,
            buffer: vec![],
            dtype,
            sizes: vec![],
            documents: vec![0],
        })
    }

    /// Adds one document of one sequence.
    pub fn document(&mut self, tokens: &[u32]) -> Result<(), RuntimeError> {
        for t in tokens {
            self.buffer.extend_from_slice(&u64::from(*t).to_le_bytes()[..self.dtype.bytes()]);
        }
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        let size = i32::try_from(tokens.len())
            .map_err(|_| RuntimeError::data(&self.prefix, "a document has over 2^31 tokens"))?;
        self.sizes.push(size);
        self.documents.push(self.sizes.len() as u64);
        Ok(())
    }

    /// Writes what is in the buffer.
    fn flush(&mut self) -> Result<(), RuntimeError> {
        let done = self.bin.open().write_all(&self.buffer);
        self.buffer.clear();
        done.map_err(RuntimeError::io("write", &with_suffix(&self.prefix, ".bin")))
    }

    /// Puts both files in place. An older index goes first and the new one comes last, so that at no moment an index lies
    /// beside tokens that it does not describe. Where one of them cannot have its name after all, the older ones keep theirs.
    pub fn finish(mut self) -> Result<(), RuntimeError> {
        self.flush()?;
        let [bin, idx] = [".bin", ".idx"].map(|suffix| with_suffix(&self.prefix, suffix));
        let mut index = Draft::file(&idx).map_err(RuntimeError::io("make", &idx))?;
        index.open().write_all(&self.index()).map_err(RuntimeError::io("write", &idx))?;
        index.open().sync_all().map_err(RuntimeError::io("write", &idx))?;
        self.bin.open().sync_all().map_err(RuntimeError::io("write", &bin))?;
        let folder = files::folder_of(&idx);
        let aside = |path: &Path| Draft::aside(path).map_err(RuntimeError::io("rename", path));
        let older_idx = aside(&idx)?;
        let older_bin = match files::sync_folder(folder).and_then(|()| aside(&bin)) {
            Ok(draft) => draft,
            Err(e) => {
                put_back(older_idx);
                return Err(e);
            }
        };
        let placed =
            self.bin.place_soon().map_err(RuntimeError::io("write", &bin)).and_then(|()| {
                files::sync_folder(folder)?;
                index.place_soon().map_err(RuntimeError::io("write", &idx))
            });
        if let Err(e) = placed {
            // Tokens without an index are no data set.
            let _ = std::fs::remove_file(&bin);
            put_back(older_bin);
            put_back(older_idx);
            return Err(e);
        }
        files::sync_folder(folder)
    }

    /// The bytes of the index.
    fn index(&self) -> Vec<u8> {
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
        index
    }
}

/// Gives a file that was set aside its name back.
fn put_back(aside: Option<Draft>) {
    if let Some(draft) = aside {
        let _ = draft.place_soon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(f: &IndexedFile, sequence: usize, at: usize) -> i64 {
        let mut found = vec![];
        let n = f.tokens(sequence, at, 1, &mut |t| {
            found.push(t);
            Ok(())
        });
        assert_eq!((n.unwrap(), found.len()), (1, 1));
        found[0]
    }

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
        assert_eq!((f.documents(), f.sizes(), token(&f, 1, 0)), (2, &[3, 1][..], 500));
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
            assert_eq!((f.documents(), f.sizes(), token(&f, 2, 2)), (3, &[1, 2, 3][..], 6));
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
            assert_eq!(token(&IndexedFile::open(&prefix).unwrap(), 0, 0), want, "{code}");
        }
        for (code, told) in [(6, "floats"), (7, "floats"), (9, "unknown token dtype 9")] {
            std::fs::write(with_suffix(&prefix, ".idx"), index(code, &[1], 8, &[0, 1])).unwrap();
            std::fs::write(with_suffix(&prefix, ".bin"), [0; 8]).unwrap();
            let e = IndexedFile::open(&prefix).err().unwrap().to_string();
            assert!(e.contains(told), "{e}");
        }
    }

    /// A mapped file would end the process here by a signal.
    #[test]
    fn a_file_that_is_cut_while_it_is_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("c");
        let mut w = IndexedWriter::create(&prefix, TokenType::U16, false).unwrap();
        w.document(&vec![7; 20_000]).unwrap();
        w.finish().unwrap();
        let f = IndexedFile::open(&prefix).unwrap();
        let count = |f: &IndexedFile| f.tokens(0, 1, usize::MAX, &mut |_| Ok(()));
        assert_eq!(count(&f).unwrap(), 19_999);
        let bin = std::fs::OpenOptions::new().write(true).open(with_suffix(&prefix, ".bin"));
        bin.unwrap().set_len(30_000).unwrap();
        for told in [count(&f).unwrap_err(), f.digest().unwrap_err()] {
            let told = told.to_string();
            assert!(told.contains("c.bin") && told.contains("40000 bytes, now 30000"), "{told}");
        }
        std::fs::remove_file(with_suffix(&prefix, ".bin")).unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(with_suffix(&prefix, ".bin"))
                .status()
                .unwrap()
                .success()
        );
        let told = IndexedFile::open(&prefix).err().unwrap().to_string();
        assert!(told.contains("c.bin") && told.contains("a named pipe"), "{told}");
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
