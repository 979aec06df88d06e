//! The kernel cache: a folder of files named by what they were made from.
//!
//! Not only by a kernel's text: a cache outlives the compiler that filled it, so a change of LLVM or of the
//! passes between text and object must be another entry.
//!
//! An entry is its payload followed by the SHA-256 of its key and the payload, so a torn or damaged one is a miss, and so
//! is one that lies under the name of another.
//! Writing goes through a temporary name and a rename; a cache that cannot be written is only slow.

use std::io::Write;
use std::path::{Path, PathBuf};

use neoxc_ir::read;
use neoxc_ir::target::Target;
use neoxc_ir::write::{Draft, sweep_where};
use sha2::{Digest, Sha256};

/// What makes objects of kernels' texts and libraries of objects, here so that no change of it can be forgotten.
const COMPILER: [&str; 5] = [
    env!("CARGO_PKG_VERSION"),
    include_str!("../lower.rs"),
    include_str!("mod.rs"),
    include_str!("link.rs"),
    include_str!("../gpu/mod.rs"),
];

/// A cache folder for one machine description.
pub struct Cache {
    folder: PathBuf,
    /// Every key's beginning: the compiler, LLVM and the machine.
    maker: Sha256,
}

impl Cache {
    /// The cache in `folder` for `machine` (CPU name and features).
    pub fn new(folder: &Path, machine: &str) -> Self {
        let (major, minor, patch) = inkwell::support::get_llvm_version();
        let llvm = format!("{major}.{minor}.{patch}");
        let mut maker = Sha256::new();
        COMPILER.iter().for_each(|part| add(&mut maker, part));
        add(&mut maker, llvm);
        add(&mut maker, machine);
        Self { folder: folder.join("objects"), maker }
    }

    /// The cache in `folder` for what is compiled for `target`.
    pub fn of(folder: &Path, target: Target) -> Self {
        let (cpu, features) = super::cpu(target);
        Self::new(folder, &format!("{cpu} {features}"))
    }

    /// Key of what is made of `parts`: a kernel of its text and passes, a library of objects.
    pub fn key<P: AsRef<[u8]>>(&self, parts: impl IntoIterator<Item = P>) -> String {
        let mut h = self.maker.clone();
        parts.into_iter().for_each(|part| add(&mut h, part));
        hex(&h.finalize())
    }

    /// Key of what `passes` make of a kernel's text. The places in files that its lines came from are no part of it, as
    /// nothing that is compiled has them: a file that is renamed or indented anew has the kernels that it had.
    pub fn key_of_kernel(&self, passes: &str, mlir: &str) -> String {
        let place = |line: &'_ str| line.rfind(" loc(").filter(|_| line.ends_with(')'));
        let lines = mlir.lines().map(|line| &line[..place(line).unwrap_or(line.len())]);
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        self.key([passes, &text])
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(&key[..2]).join(key)
    }

    /// The entry, if it is there and whole.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut bytes = read::bytes(&self.path(key), read::TABLES).ok()?;
        let at = bytes.len().checked_sub(32)?;
        let whole = seal(key, &bytes[..at])[..] == bytes[at..];
        bytes.truncate(at);
        whole.then_some(bytes)
    }

    /// Keeps an entry; failures only cost time later, so they are logged, not raised.
    pub fn put(&self, key: &str, payload: &[u8]) {
        if let Err(e) = self.keep(key, payload) {
            tracing::warn!("kernel cache {}: {e}", self.folder.display());
        }
    }

    /// Keeps an entry that was asked for.
    ///
    /// # Errors
    /// It could not be written.
    pub fn keep(&self, key: &str, payload: &[u8]) -> std::io::Result<()> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(folder)?;
        // Drafts of other entries too: nobody may ever ask for those again.
        sweep_where(folder, &|_| true);
        let mut draft = Draft::own_file(&path)?;
        draft.open().write_all(payload)?;
        draft.open().write_all(&seal(key, payload))?;
        // The seal tells an entry that a power cut has torn.
        draft.place_soon()
    }
}

/// What stands behind the payload of the entry called `key`.
fn seal(key: &str, payload: &[u8]) -> [u8; 32] {
    let mut h = Sha256::new();
    add(&mut h, key);
    add(&mut h, payload);
    h.finalize().into()
}

/// Adds a part and where it ends.
fn add(h: &mut Sha256, part: impl AsRef<[u8]>) {
    let part = part.as_ref();
    h.update((part.len() as u64).to_le_bytes());
    h.update(part);
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_counts_under_its_own_name_and_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(folder.path(), "m");
        let [a, b] = ["a", "b"].map(|part| cache.key([part]));
        cache.keep(&a, b"one").expect("kept");
        cache.keep(&b, b"two").expect("kept");
        assert_eq!(cache.get(&a).as_deref(), Some(&b"one"[..]));
        std::fs::copy(cache.path(&b), cache.path(&a)).expect("copied");
        assert_eq!(cache.get(&a), None);
        assert_eq!(cache.get(&b).as_deref(), Some(&b"two"[..]));
        std::fs::write(cache.path(&b), b"two").expect("cut");
        assert_eq!(cache.get(&b), None);
    }
}
