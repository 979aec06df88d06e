//! The functions of NCCL and RCCL, which have the same ones, and those of the drivers that go with them,
//! found when they are needed: nothing of them is linked.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use libloading::Library;

use crate::RuntimeError;

/// Whose accelerators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// NCCL and the CUDA driver.
    Nvidia,
    /// RCCL and the HIP runtime.
    Amd,
}

impl Vendor {
    /// Names under which the libraries are looked for: of collectives, and of the driver.
    pub fn libraries(self) -> [&'static [&'static str]; 2] {
        match self {
            Vendor::Nvidia => [&["libnccl.so.2", "libnccl.so"], &["libcuda.so.1", "libcuda.so"]],
            Vendor::Amd => {
                [&["librccl.so.1", "librccl.so"], &["libamdhip64.so.6", "libamdhip64.so"]]
            }
        }
    }

    /// What the driver calls its functions, in the order of [`Api`]'s.
    fn driver(self) -> [&'static str; 8] {
        match self {
            Vendor::Nvidia => [
                "cuStreamCreate",
                "cuStreamDestroy_v2",
                "cuStreamWaitEvent",
                "cuStreamSynchronize",
                "cuEventCreate",
                "cuEventDestroy_v2",
                "cuEventRecord",
                "cuEventQuery",
            ],
            Vendor::Amd => [
                "hipStreamCreateWithFlags",
                "hipStreamDestroy",
                "hipStreamWaitEvent",
                "hipStreamSynchronize",
                "hipEventCreateWithFlags",
                "hipEventDestroy",
                "hipEventRecord",
                "hipEventQuery",
            ],
        }
    }
}

/// What names a communicator before it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId(pub [u8; 128]);

/// A communicator, a stream, an event.
pub type Handle = *mut c_void;

/// A collective of one operand and one result: count, type, then what differs.
type Reduce =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Handle) -> c_int;
type Gather =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Handle, Handle) -> c_int;
type Give = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Handle, Handle) -> c_int;
type Take = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Handle, Handle) -> c_int;

/// The functions that are called. Their pointers hold as long as the libraries, which come last.
#[allow(missing_docs)] // as the libraries' manuals have them
pub struct Api {
    pub get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    pub comm_init_rank: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int) -> c_int,
    pub comm_destroy: unsafe extern "C" fn(Handle) -> c_int,
    pub comm_abort: unsafe extern "C" fn(Handle) -> c_int,
    pub group_start: unsafe extern "C" fn() -> c_int,
    pub group_end: unsafe extern "C" fn() -> c_int,
    pub all_reduce: Reduce,
    pub reduce_scatter: Reduce,
    pub all_gather: Gather,
    pub send: Give,
    pub recv: Take,
    get_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    pub stream_create: unsafe extern "C" fn(*mut Handle, c_uint) -> c_int,
    pub stream_destroy: unsafe extern "C" fn(Handle) -> c_int,
    pub stream_wait_event: unsafe extern "C" fn(Handle, Handle, c_uint) -> c_int,
    pub stream_synchronize: unsafe extern "C" fn(Handle) -> c_int,
    pub event_create: unsafe extern "C" fn(*mut Handle, c_uint) -> c_int,
    pub event_destroy: unsafe extern "C" fn(Handle) -> c_int,
    pub event_record: unsafe extern "C" fn(Handle, Handle) -> c_int,
    pub event_query: unsafe extern "C" fn(Handle) -> c_int,
    _libraries: [Library; 2],
}

/// What both drivers answer while an event has not happened.
pub const NOT_READY: c_int = 600;

/// Opens the first library that is there.
fn open(names: &[&str]) -> Result<(Library, String), RuntimeError> {
    let mut tried = String::new();
    for name in names {
        // SAFETY: loading runs the initialisers of the vendor's own library.
        match unsafe { Library::new(*name) } {
            Ok(library) => return Ok((library, (*name).to_string())),
            Err(e) => tried += &format!("; {e}"),
        }
    }
    Err(RuntimeError::Link(format!("cannot open {}{tried}", names.join(" or "))))
}

/// The function called `name`.
fn find<T: Copy>((library, file): &(Library, String), name: &str) -> Result<T, RuntimeError> {
    // SAFETY: the type is the one that the library's header gives the function.
    let symbol = unsafe { library.get::<T>(name.as_bytes()) };
    symbol.map(|s| *s).map_err(|_| RuntimeError::Link(format!("{file} has no {name}")))
}

impl Api {
    /// Finds every function in the libraries of these names.
    pub fn open(vendor: Vendor, [collectives, driver]: [&[&str]; 2]) -> Result<Api, RuntimeError> {
        let (collectives, driver) = (open(collectives)?, open(driver)?);
        let [create, destroy, wait, synchronize, event, event_destroy, record, query] =
            vendor.driver();
        Ok(Api {
            get_unique_id: find(&collectives, "ncclGetUniqueId")?,
            comm_init_rank: find(&collectives, "ncclCommInitRank")?,
            comm_destroy: find(&collectives, "ncclCommDestroy")?,
            comm_abort: find(&collectives, "ncclCommAbort")?,
            group_start: find(&collectives, "ncclGroupStart")?,
            group_end: find(&collectives, "ncclGroupEnd")?,
            all_reduce: find(&collectives, "ncclAllReduce")?,
            reduce_scatter: find(&collectives, "ncclReduceScatter")?,
            all_gather: find(&collectives, "ncclAllGather")?,
            send: find(&collectives, "ncclSend")?,
            recv: find(&collectives, "ncclRecv")?,
            get_error_string: find(&collectives, "ncclGetErrorString")?,
            stream_create: find(&driver, create)?,
            stream_destroy: find(&driver, destroy)?,
            stream_wait_event: find(&driver, wait)?,
            stream_synchronize: find(&driver, synchronize)?,
            event_create: find(&driver, event)?,
            event_destroy: find(&driver, event_destroy)?,
            event_record: find(&driver, record)?,
            event_query: find(&driver, query)?,
            _libraries: [collectives.0, driver.0],
        })
    }

    /// An error for a call of the library of collectives that did not succeed.
    pub fn check(&self, what: &str, code: c_int) -> Result<(), RuntimeError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the library gives a static C string for every code.
        let text = unsafe { CStr::from_ptr((self.get_error_string)(code)) };
        Err(RuntimeError::Link(format!("{what}: {} (code {code})", text.to_string_lossy())))
    }

    /// An error for a call of the driver that did not succeed.
    pub fn drive(&self, what: &str, code: c_int) -> Result<(), RuntimeError> {
        match code {
            0 => Ok(()),
            _ => Err(RuntimeError::Link(format!("{what}: the driver's code {code}"))),
        }
    }
}
