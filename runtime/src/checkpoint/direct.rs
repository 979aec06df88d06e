//! A file that is written past the page cache, with `O_DIRECT`: long parts from where they lie, if they lie at the same
//! distance from a block in memory as in the file, all else through a small buffer.
//!
//! The kernel's copy of a checkpoint costs a core for longer than all else of a save, and pushes out what is of
//! more use. A disk may be slower than that copy, though: while somebody waits for the memory that is written,
//! pieces go the way that has been the faster one so far. File systems that know no `O_DIRECT` get ordinary
//! writes; the file is the same.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use memmap2::MmapMut;

use super::hash::Hash;
use crate::RuntimeError;

/// Bytes of the buffer, which are written at once: many, so that little is done per byte.
const PIECE: usize = 4 << 20;

/// Bytes that are written at once, and then hashed, where they lie: long turns take less from the kernels beside them
/// than many, each of which drives out what these have in their caches.
const STRETCH: usize = 32 << 20;

/// Positions and lengths that every block device takes are multiples of this; and addresses.
pub const BLOCK: usize = 4096;

/// Addresses that most devices take are multiples of this.
const SECTOR: usize = 512;

/// A part of at least this many bytes is written directly from the memory that holds it; a smaller one is copied into
/// the buffer first.
const LONG: usize = 256 << 10;

/// Bytes that are copied and hashed at once: the second finds them in a cache.
const STRIP: usize = 64 << 10;

/// What waits to be written; for one file after the other.
pub struct Buffer(MmapMut);

impl Buffer {
    /// A new one.
    pub fn new() -> Result<Buffer, RuntimeError> {
        let map = MmapMut::map_anon(PIECE).map_err(|e| {
            RuntimeError::Settings(format!("cannot allocate {PIECE} bytes to save with: {e}"))
        })?;
        // Huge pages are only faster.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Buffer(map))
    }
}

/// How fast one of the two ways has been.
#[derive(Default)]
struct Pace {
    bytes: f64,
    seconds: f64,
}

impl Pace {
    fn add(&mut self, bytes: usize, start: Instant) {
        self.bytes += bytes as f64;
        self.seconds += start.elapsed().as_secs_f64();
    }

    /// Whether this is no slower than `other`, or untried.
    fn leads(&self, other: &Pace) -> bool {
        self.bytes * other.seconds >= other.bytes * self.seconds
    }
}

/// A file under way: the parts of it that are written at once.
struct Ways<'a> {
    /// The same file twice; only one past the cache, if the file system allows that.
    cached: File,
    direct: Option<File>,
    /// Addresses that can be written from past the cache are multiples of this.
    align: usize,
    /// Whether somebody waits for what is written.
    hurry: &'a dyn Fn() -> bool,
    /// Of the way past the cache, and of the one through it.
    paces: [Pace; 2],
}

/// Whether an error says that a file system has no `O_DIRECT`, or another idea of a block.
fn refused(e: &Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

impl Ways<'_> {
    /// Writes `bytes` at the block that begins at `at`.
    fn write(&mut self, bytes: &[u8], at: u64) -> Result<(), Error> {
        let [past, through] = &self.paces;
        let fast = !(self.hurry)() || !through.leads(past);
        let mut done = 0;
        let start = Instant::now();
        if let Some(direct) = self.direct.as_ref().filter(|_| fast) {
            // A file's end need not be that of a block.
            match write_some(direct, &bytes[..bytes.len() / BLOCK * BLOCK], at) {
                Ok(n) => done = n,
                Err(e) if !refused(&e) => return Err(e),
                Err(_) if (bytes.as_ptr() as usize).is_multiple_of(BLOCK) => self.direct = None,
                Err(_) => self.align = BLOCK,
            }
            self.paces[0].add(done, start);
        }
        if done < bytes.len() {
            let start = Instant::now();
            self.cached.write_all_at(&bytes[done..], at + done as u64)?;
            if done == 0 {
                self.paces[1].add(bytes.len(), start);
            }
        }
        Ok(())
    }
}

/// Writes `bytes` at a position, perhaps not all of them; says how many.
fn write_some(file: &File, bytes: &[u8], at: u64) -> Result<usize, Error> {
    if bytes.is_empty() {
        return Ok(0);
    }
    loop {
        match file.write_at(bytes, at) {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A file under way.
pub struct Output<'a> {
    path: PathBuf,
    ways: Ways<'a>,
    buffer: &'a mut Buffer,
    filled: usize,
    /// Bytes of the file in front of the buffer's: whole blocks, as long as more is put behind them.
    at: u64,
    /// What the first and the last byte in the buffer belong to.
    holds: [String; 2],
}

impl<'a> Output<'a> {
    /// Makes the file; `hurry` says whether somebody waits for the memory that is written.
    pub fn create(
        path: &Path,
        buffer: &'a mut Buffer,
        hurry: &'a dyn Fn() -> bool,
    ) -> Result<Output<'a>, RuntimeError> {
        let cached = File::create(path).map_err(RuntimeError::io("make", path))?;
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path);
        let direct = match direct {
            Ok(file) => Some(file),
            Err(e) if refused(&e) => None,
            Err(e) => return Err(RuntimeError::io("open", path)(e)),
        };
        let ways = Ways { cached, direct, align: SECTOR, hurry, paces: Default::default() };
        let (path, holds) = (path.to_path_buf(), Default::default());
        Ok(Output { path, ways, buffer, filled: 0, at: 0, holds })
    }

    /// Appends `bytes`, which are called `what` where they cannot be written. Sends their hash: of the memory, not of
    /// what is written, so that a bit that flips on the way is seen.
    pub fn put(&mut self, bytes: &[u8], what: &str) -> Result<String, RuntimeError> {
        let mut hash = Hash::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.filled == 0 {
                self.holds[0] = what.to_string();
            }
            let gap = self.filled.next_multiple_of(BLOCK) - self.filled;
            let straight = rest.len() >= gap + LONG
                && (rest.as_ptr() as usize + gap).is_multiple_of(self.ways.align);
            let n;
            if straight && gap == 0 {
                self.flush()?;
                self.holds = [what.to_string(), what.to_string()];
                n = rest.len().min(STRETCH) / BLOCK * BLOCK;
                self.ways.write(&rest[..n], self.at).map_err(|e| self.failed(e))?;
                self.at += n as u64;
                hash.add(&rest[..n]);
            } else {
                let room = if straight { gap } else { PIECE - self.filled };
                n = rest.len().min(room).min(STRIP);
                hash.add(&rest[..n]);
                self.buffer.0[self.filled..self.filled + n].copy_from_slice(&rest[..n]);
                self.filled += n;
                self.holds[1] = what.to_string();
                if self.filled == PIECE {
                    self.flush()?;
                }
            }
            rest = &rest[n..];
        }
        Ok(hash.text())
    }

    /// Writes what is left. The file is not durable yet.
    pub fn finish(mut self) -> Result<File, RuntimeError> {
        self.flush()?;
        Ok(self.ways.cached)
    }

    /// Writes what is in the buffer.
    fn flush(&mut self) -> Result<(), RuntimeError> {
        if self.filled > 0 {
            let bytes = &self.buffer.0[..self.filled];
            self.ways.write(bytes, self.at).map_err(|e| self.failed(e))?;
        }
        self.at += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    fn failed(&self, e: Error) -> RuntimeError {
        let [first, last] = &self.holds;
        let what = if first == last { first.clone() } else { format!("{first} to {last}") };
        RuntimeError::io("write", &self.path)(Error::new(e.kind(), format!("{what}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::super::hash::hash;
    use super::*;

    /// Files of all kinds of ends, of parts of all sizes at all addresses, in a hurry or not or now and then.
    #[test]
    fn a_file_has_the_bytes_it_was_given_whichever_way_they_went() {
        let folder = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::new().unwrap();
        let mut state = 1u64;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize % below
        };
        let mut all = MmapMut::map_anon(4 * PIECE).unwrap();
        all.chunks_mut(8).for_each(|c| c.copy_from_slice(&next(usize::MAX).to_le_bytes()));
        let sizes = [0, 1, BLOCK, PIECE - 1, PIECE + 1, 3 * PIECE];
        for size in sizes {
            for (period, unit) in
                [0, 1, 2, 3].into_iter().flat_map(|p| [(p, 4), (p, SECTOR), (p, BLOCK)])
            {
                let path = folder.path().join(format!("{size}-{period}-{unit}"));
                let asked = Cell::new(0);
                let hurry = || {
                    asked.set(asked.get() + 1);
                    period > 0 && asked.get() % period == 0
                };
                let mut out = Output::create(&path, &mut buffer, &hurry).unwrap();
                let direct = out.ways.direct.is_some();
                let mut want = vec![];
                while want.len() < size {
                    // Short ones too.
                    let most = [PIECE * 3 / 2, 3000][next(2)];
                    let n = (1 + next(most)).next_multiple_of(unit);
                    let from = next(2 * PIECE / unit) * unit;
                    let part = &all[from..from + n.min(size - want.len())];
                    assert_eq!(out.put(part, "x").unwrap(), hash(part));
                    want.extend_from_slice(part);
                }
                if size == 3 * PIECE && period < 2 {
                    // Which way was taken, where there are two.
                    let [past, through] = &out.ways.paces;
                    assert_eq!(past.bytes > 0.0, direct && period == 0);
                    assert_eq!(through.bytes > 0.0, !direct || period == 1);
                }
                out.finish().unwrap();
                assert!(fs::read(&path).unwrap() == want, "{size} bytes, {period}, {unit}");
            }
        }
    }

    #[test]
    fn long_parts_are_not_copied_where_they_lie_well() {
        let folder = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::new().unwrap();
        let all = MmapMut::map_anon(2 * LONG).unwrap();
        for (before, from, copied) in [
            (0, 0, 0),
            (0, SECTOR, 0),
            (BLOCK, BLOCK, BLOCK),
            (300, SECTOR + 300, BLOCK),
            (300, SECTOR + 304, 300 + LONG + BLOCK),
            (0, 64, LONG + BLOCK),
        ] {
            buffer.0.fill(7);
            let path = folder.path().join("x");
            let mut out = Output::create(&path, &mut buffer, &|| false).unwrap();
            out.put(&all[..before], "before").unwrap();
            out.put(&all[from..from + LONG + BLOCK], "x").unwrap();
            out.finish().unwrap();
            assert_eq!(buffer.0.iter().filter(|b| **b == 0).count(), copied, "{before}, {from}");
            assert_eq!(fs::metadata(&path).unwrap().len(), (before + LONG + BLOCK) as u64);
        }
    }

    #[test]
    fn who_waits_gets_the_faster_way_once_both_are_known() {
        let pace = |bytes, seconds| Pace { bytes, seconds };
        assert!(pace(0.0, 0.0).leads(&pace(10.0, 1.0)));
        assert!(pace(11.0, 1.0).leads(&pace(10.0, 1.0)));
        assert!(!pace(9.0, 1.0).leads(&pace(10.0, 1.0)));
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let mut buffer = Buffer::new().unwrap();
        let full = Path::new("/dev/full");
        let written = |buffer: &mut Buffer, parts: &[(&str, usize)]| {
            let mut out = Output::create(full, buffer, &|| false)?;
            parts.iter().try_for_each(|(what, n)| out.put(&vec![1; *n], what).map(|_| ()))?;
            out.finish().map(|_| ())
        };
        for (parts, named) in [
            (&[("a", 10), ("b", 10), ("c", 10)][..], "a to c: "),
            (&[("a", 10), ("b", PIECE), ("c", 10)], "a to b: "),
            (&[("a", PIECE), ("b", 10)], ": a: "),
        ] {
            let told = written(&mut buffer, parts).unwrap_err().to_string();
            assert!(told.contains("/dev/full") && told.contains(named), "{told}");
        }
    }
}
