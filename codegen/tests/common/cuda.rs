//! Runs kernels on an NVIDIA GPU, where the machine has one: the driver's functions, found when they are needed.

use std::ffi::{CString, c_int, c_uint, c_void};
use std::ptr::null_mut;

use neoxc_codegen::gpu::{self, BLOCK_THREADS};
use neoxc_codegen::kernels::Kernel;
use neoxc_ir::target::Target;

type Status = c_int;
/// Attributes of a device: its compute capability.
const MAJOR: c_int = 75;
const MINOR: c_int = 76;

/// The first GPU and its primary context, current on the thread that made this.
pub struct Gpu {
    driver: libloading::Library,
    /// The targets that it runs.
    pub targets: Vec<Target>,
}

/// Memory of the GPU.
pub struct Memory<'a> {
    gpu: &'a Gpu,
    at: u64,
    bytes: usize,
}

/// A module of kernels, loaded.
pub struct Module<'a> {
    gpu: &'a Gpu,
    handle: *mut c_void,
}

macro_rules! call {
    ($driver:expr, $name:literal, ($($ty:ty),*), $($value:expr),*) => {{
        // SAFETY: the names and types are those of the CUDA driver's interface.
        let status = unsafe {
            type F = unsafe extern "C" fn($($ty),*) -> Status;
            let f: libloading::Symbol<F> = $driver.get($name).unwrap();
            f($($value),*)
        };
        assert_eq!(status, 0, "{}", String::from_utf8_lossy($name));
    }};
}

impl Gpu {
    /// The first GPU, or none where there is no driver or no device.
    pub fn first() -> Option<Gpu> {
        // SAFETY: the driver's initialisers are its vendor's; `cuInit` has this type.
        let (driver, found) = unsafe {
            let driver = libloading::Library::new("libcuda.so.1").ok()?;
            let init: libloading::Symbol<unsafe extern "C" fn(c_uint) -> Status> =
                driver.get(b"cuInit").ok()?;
            let found = init(0) == 0;
            (driver, found)
        };
        if !found {
            return None;
        }
        let (mut device, mut context, mut major, mut minor) = (0, null_mut(), 0, 0);
        call!(driver, b"cuDeviceGet", (*mut c_int, c_int), &mut device, 0);
        call!(
            driver,
            b"cuDeviceGetAttribute",
            (*mut c_int, c_int, c_int),
            &mut major,
            MAJOR,
            device
        );
        call!(
            driver,
            b"cuDeviceGetAttribute",
            (*mut c_int, c_int, c_int),
            &mut minor,
            MINOR,
            device
        );
        call!(driver, b"cuDevicePrimaryCtxRetain", (*mut *mut c_void, c_int), &mut context, device);
        call!(driver, b"cuCtxSetCurrent", (*mut c_void), context);
        let mut targets = vec![];
        if major >= 8 {
            targets.push(Target::Sm80);
        }
        // What ends in `a` runs on that one architecture only.
        if (major, minor) == (9, 0) {
            targets.push(Target::Sm90a);
        }
        Some(Gpu { driver, targets })
    }

    pub fn memory(&self, content: &[u8]) -> Memory<'_> {
        let (mut at, bytes) = (0, content.len());
        call!(self.driver, b"cuMemAlloc_v2", (*mut u64, usize), &mut at, bytes.max(1));
        let memory = Memory { gpu: self, at, bytes };
        call!(
            self.driver,
            b"cuMemcpyHtoD_v2",
            (u64, *const u8, usize),
            at,
            content.as_ptr(),
            bytes
        );
        memory
    }

    pub fn load(&self, kernels: &[Kernel], target: Target) -> Module<'_> {
        let ptx = CString::new(gpu::compile(kernels, target, None).unwrap().file).unwrap();
        let mut handle = null_mut();
        call!(
            self.driver,
            b"cuModuleLoadData",
            (*mut *mut c_void, *const i8),
            &mut handle,
            ptx.as_ptr()
        );
        Module { gpu: self, handle }
    }
}

impl Memory<'_> {
    pub fn read(&self) -> Vec<u8> {
        let mut out = vec![0; self.bytes];
        call!(
            self.gpu.driver,
            b"cuMemcpyDtoH_v2",
            (*mut u8, u64, usize),
            out.as_mut_ptr(),
            self.at,
            self.bytes
        );
        out
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // What failed says so; after it, so does every other call.
        if std::thread::panicking() {
            return;
        }
        call!(self.gpu.driver, b"cuMemFree_v2", (u64), self.at);
    }
}

impl Module<'_> {
    /// Runs all tasks of `kernel`, to the end.
    pub fn run(&self, kernel: &Kernel, operands: &[&Memory<'_>]) {
        let driver = &self.gpu.driver;
        let name = CString::new(kernel.symbol.as_str()).unwrap();
        let mut function = null_mut();
        call!(
            driver,
            b"cuModuleGetFunction",
            (*mut *mut c_void, *mut c_void, *const i8),
            &mut function,
            self.handle,
            name.as_ptr()
        );
        let blocks = (kernel.tasks as usize).div_ceil(BLOCK_THREADS);
        let threads = blocks * BLOCK_THREADS;
        let scratch = self.gpu.memory(&vec![0xff; threads * kernel.scratch_bytes as usize]);
        let mut values: Vec<u64> = operands.iter().map(|m| m.at).collect();
        values.extend([scratch.at, kernel.scratch_bytes / 4, kernel.tasks]);
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|v| (v as *mut u64).cast()).collect();
        type Size = c_uint;
        call!(
            driver,
            b"cuLaunchKernel",
            (
                *mut c_void,
                Size,
                Size,
                Size,
                Size,
                Size,
                Size,
                Size,
                *mut c_void,
                *mut *mut c_void,
                *mut *mut c_void
            ),
            function,
            blocks as Size,
            1,
            1,
            BLOCK_THREADS as Size,
            1,
            1,
            0,
            null_mut(),
            pointers.as_mut_ptr(),
            null_mut()
        );
        call!(driver, b"cuCtxSynchronize", (),);
    }
}

impl Drop for Module<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        call!(self.gpu.driver, b"cuModuleUnload", (*mut c_void), self.handle);
    }
}
