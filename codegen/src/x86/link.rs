//! What kernels of all targets are compiled with: threads, and objects → one shared object, with LLVM's linker, or the C compiler where that is missing.

use std::process::Command;

use crate::CodegenError;

/// Linkers for x86 objects, in order of preference.
pub const X86: &[&str] = &["ld.lld-22", "ld.lld", "cc"];
/// Linkers that know AMD's GPUs.
pub const AMD: &[&str] = &["ld.lld-22", "ld.lld"];

/// Starts the threads that compile kernels beside each other, once.
///
/// # Errors
/// The machine has no room for more threads (`ulimit -u`).
pub fn start_threads() -> Result<(), CodegenError> {
    // They may have been started before: then the error has no cause.
    let started = rayon::ThreadPoolBuilder::new().build_global();
    match started.as_ref().err().and_then(std::error::Error::source) {
        Some(why) => Err(CodegenError::Machine(format!("threads to compile with: {why}"))),
        None => Ok(()),
    }
}

/// Links `objects` with the first of `linkers` that works.
pub fn shared_object(objects: &[Vec<u8>], linkers: &[&str]) -> Result<Vec<u8>, CodegenError> {
    let folder = tempfile::tempdir().map_err(|e| CodegenError::Machine(e.to_string()))?;
    let io = |path: &std::path::Path, source| CodegenError::Io { path: path.to_path_buf(), source };
    let mut inputs = vec![];
    for (i, bytes) in objects.iter().enumerate() {
        let path = folder.path().join(format!("{i}.o"));
        std::fs::write(&path, bytes).map_err(|e| io(&path, e))?;
        inputs.push(path);
    }
    let out = folder.path().join("kernels.so");
    let mut failures = vec![];
    let mut found = false;
    for linker in linkers {
        // No build id, no dates: the same objects give the same bytes.
        let run = Command::new(linker).arg("-shared").arg("-o").arg(&out).args(&inputs).output();
        match run {
            Ok(o) if o.status.success() => {
                return neoxc_ir::read::bytes(&out, neoxc_ir::read::TABLES)
                    .map_err(|e| io(&out, e));
            }
            Ok(o) => {
                found = true;
                failures.push(format!("{linker}: {}", String::from_utf8_lossy(&o.stderr).trim()));
            }
            Err(e) => failures.push(format!("{linker}: {e}")),
        }
    }
    let told = failures.join("; ");
    // What a full disk or a limit does to a linker is not the fault of the objects.
    let full = ["No space left", "Disk quota", "File too large"].iter().any(|w| told.contains(w));
    Err(if found && !full { CodegenError::Link(told) } else { CodegenError::Machine(told) })
}
