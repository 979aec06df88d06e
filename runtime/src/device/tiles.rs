//! AMX's tile registers: Linux gives them only to processes that ask, once, before the first use.

use crate::RuntimeError;

/// Symbol of a library whose kernels use them.
const MARK: &[u8] = b"neoxc_uses_amx_tiles";

/// Asks for the tile registers if `library` needs them. Asking again does nothing.
pub fn allow(library: &libloading::Library) -> Result<(), RuntimeError> {
    // SAFETY: only whether the symbol is there counts; nothing is called.
    if unsafe { library.get::<*const ()>(MARK) }.is_err() {
        return Ok(());
    }
    request().map_err(|e| {
        RuntimeError::Kernels(format!(
            "they use AMX tile registers, which the system refuses to this process: {e}; compile with \
             --target x86-64-v4"
        ))
    })
}

/// Asks for the tile registers.
#[cfg(target_arch = "x86_64")]
pub fn request() -> std::io::Result<()> {
    const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
    const XFEATURE_XTILEDATA: i32 = 18;
    // SAFETY: the call takes two numbers and changes nothing but a permission of this process.
    let answer =
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Asks for the tile registers.
#[cfg(not(target_arch = "x86_64"))]
pub fn request() -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
