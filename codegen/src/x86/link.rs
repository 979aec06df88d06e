//! What kernels of all targets are compiled with: threads, and objects → one shared object, with LLVM's linker, or the C compiler where that is missing.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use neoxc_ir::read;
use neoxc_ir::write::{Draft, sweep};

use crate::CodegenError;

/// Linkers for x86 objects, in order of preference.
pub const X86: &[&str] = &["ld.lld-22", "ld.lld", "cc"];
/// Linkers that know AMD's GPUs.
pub const AMD: &[&str] = &["ld.lld-22", "ld.lld"];

/// Name of the folder for temporary files, in TMPDIR.
const FOLDER: &str = "neoxc-link";

/// Begins a compilation: starts the threads that compile kernels beside each other, once, and removes what killed
/// compilations have left behind in TMPDIR.
///
/// # Errors
/// The machine has no room for more threads (`ulimit -u`).
pub fn start() -> Result<(), CodegenError> {
    sweep(&std::env::temp_dir().join(FOLDER));
    // They may have been started before: then the error has no cause.
    let started = rayon::ThreadPoolBuilder::new().build_global();
    match started.as_ref().err().and_then(std::error::Error::source) {
        Some(why) => Err(CodegenError::Machine(format!("threads to compile with: {why}"))),
        None => Ok(()),
    }
}

/// Links `objects` with the first of `linkers` that works.
///
/// # Errors
/// The machine lacks what it takes ([`CodegenError::Machine`], [`CodegenError::Io`]), or no linker accepts the objects.
pub fn shared_object(objects: &[Vec<u8>], linkers: &[&str]) -> Result<Vec<u8>, CodegenError> {
    let io = |path: &Path, source| CodegenError::Io { path: path.to_path_buf(), source };
    let temporary = std::env::temp_dir();
    let folder = Draft::own_folder(&temporary.join(FOLDER)).map_err(|e| io(&temporary, e))?;
    let mut inputs = vec![];
    for (i, bytes) in objects.iter().enumerate() {
        let path = folder.path().join(format!("{i}.o"));
        std::fs::write(&path, bytes).map_err(|e| io(&path, e))?;
        inputs.push(path);
    }
    let out = folder.path().join("kernels.so");
    let mut failures = vec![];
    let mut objects_are_wrong = false;
    for linker in linkers {
        // No build id, no dates: the same objects give the same bytes. Its words are those that `is_lack` knows.
        let mut run = Command::new(linker);
        run.arg("-shared").arg("-o").arg(&out).args(&inputs).env("LC_ALL", "C");
        match run.output() {
            Ok(o) if o.status.success() => {
                return read::bytes(&out, read::TABLES).map_err(|e| io(&out, e));
            }
            Ok(o) => {
                let told = String::from_utf8_lossy(&o.stderr).trim().to_string();
                objects_are_wrong |= o.status.signal().is_none() && !is_lack(&told);
                let told = if told.is_empty() { o.status.to_string() } else { told };
                failures.push(format!("{linker}: {told}"));
            }
            Err(e) => failures.push(format!("{linker}: {e}")),
        }
    }
    let told = failures.join("; ");
    Err(match objects_are_wrong {
        true => CodegenError::Link(told),
        false => CodegenError::Machine(told),
    })
}

/// Whether a linker says that the machine lacks something, which is not the fault of its objects. (One that a signal
/// ended was killed for its memory, or its disk was full under a file that it had mapped.)
fn is_lack(told: &str) -> bool {
    const ERRORS: [i32; 11] = [
        libc::ENOSPC,
        libc::EDQUOT,
        libc::EFBIG,
        libc::EIO,
        libc::EROFS,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::EAGAIN,
        libc::EACCES,
        libc::EPERM,
    ];
    let told = told.to_lowercase();
    let words = |error: &i32| {
        let text = std::io::Error::from_raw_os_error(*error).to_string().to_lowercase();
        text.split(" (os error").next().is_some_and(|words| told.contains(words))
    };
    ERRORS.iter().any(words) || ["out of memory", "bad_alloc"].iter().any(|w| told.contains(w))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A linker that is a shell script.
    fn linker(folder: &Path, name: &str, script: &str) -> String {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("changed");
        path.display().to_string()
    }

    #[test]
    fn what_the_machine_lacks_is_not_the_objects_fault() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = |name: &str, text: &str| linker(folder.path(), name, text);
        let lack =
            script("lack", "echo 'lld: error: cannot open x: Too many open files' >&2; exit 1");
        let memory = script("memory", "echo 'LLVM ERROR: out of memory' >&2; exit 1");
        let full =
            script("full", "echo 'error: failed to write: No space left on device' >&2; exit 1");
        let killed = script("killed", "kill -KILL $$");
        let wrong = script("wrong", "echo 'error: 0.o: unknown file type' >&2; exit 1");
        let works = script("works", "echo linked > \"$3\"");
        let link = |linkers: &[&str]| shared_object(&[b"object".to_vec()], linkers);
        for (linkers, machine, told) in [
            (&[&*lack, "/nonexistent/ld"][..], true, "Too many open files"),
            (&[&memory], true, "out of memory"),
            (&[&full, &killed], true, "No space left"),
            (&[&killed], true, "signal: 9"),
            (&["/nonexistent/ld"], true, "No such file"),
            (&[&wrong], false, "unknown file type"),
            // One that can work says what is wrong.
            (&[&full, &wrong], false, "unknown file type"),
        ] {
            let e = link(linkers).expect_err("no linker works");
            assert_eq!(matches!(e, CodegenError::Machine(_)), machine, "{e}");
            assert!(e.to_string().contains(told), "{e}");
        }
        assert_eq!(link(&[&lack, &works]).expect("the second works"), b"linked\n");
    }
}
