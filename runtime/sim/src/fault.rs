//! What goes wrong: text that cannot be read, and kernels that do what they must not.

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SimError {
    /// PTX that the simulator does not know, or that is not PTX.
    #[error("line {line}: {why}: {text}")]
    Text {
        /// Line of the file, from 1.
        line: u32,
        /// What is wrong.
        why: String,
        /// The statement.
        text: String,
    },
    /// No kernel of this name.
    #[error("there is no kernel {0}")]
    NoKernel(String),
    /// Arguments or a grid that the kernel cannot have.
    #[error("{0}")]
    Launch(String),
    /// What the kernel did.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
    /// An address outside of all allocations, asked for by the host.
    #[error("no allocation has the {bytes} bytes at {address:#x}")]
    Host {
        /// The address.
        address: u64,
        /// How many bytes.
        bytes: usize,
    },
}

/// A kernel did what no kernel may, or what makes its result depend on timing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kernel}, line {line} ({text}): block {block}, thread {thread}: {problem}")]
pub struct Fault {
    /// The kernel.
    pub kernel: String,
    /// Line of the instruction in the file, from 1.
    pub line: u32,
    /// The instruction.
    pub text: String,
    /// The block's number in the grid, x fastest.
    pub block: u64,
    /// The thread's number in the block, x fastest.
    pub thread: u32,
    /// What it did.
    pub problem: Problem,
}

/// What a kernel must not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Outside of every allocation, of the block's shared memory or of the thread's local memory.
    #[error("{bytes} bytes at {address:#x} lie outside of {space} memory")]
    Outside {
        /// `global`, `shared` or `local`.
        space: &'static str,
        /// The address.
        address: u64,
        /// How many bytes.
        bytes: u32,
    },
    /// An address that is no multiple of the access's size.
    #[error("{bytes} bytes at {address:#x} are not aligned")]
    Unaligned {
        /// The address.
        address: u64,
        /// How many bytes.
        bytes: u32,
    },
    /// Shared memory that two threads use, one of them writing, and nothing orders the two.
    #[error(
        "nothing orders this {now} of shared byte {address:#x} behind the {before} by thread {other}"
    )]
    Race {
        /// `read`, `write` or `copy`.
        now: &'static str,
        /// `read`, `write` or `copy`.
        before: &'static str,
        /// Offset in the block's shared memory.
        address: u32,
        /// The thread that used it before.
        other: u32,
    },
    /// Shared memory that an asynchronous copy may still write.
    #[error(
        "shared byte {address:#x} is the target of a copy by thread {other} that nothing has waited for"
    )]
    InFlight {
        /// Offset in the block's shared memory.
        address: u32,
        /// The thread that started the copy.
        other: u32,
    },
    /// Shared memory that nobody wrote.
    #[error("shared byte {address:#x} was never written")]
    Unwritten {
        /// Offset in the block's shared memory.
        address: u32,
    },
    /// An instruction that all lanes of a warp must execute together, and some do not.
    #[error("only lanes {lanes:#010x} of {live:#010x} are here together")]
    Diverged {
        /// The lanes that are here.
        lanes: u32,
        /// The lanes of the warp that have not ended.
        live: u32,
    },
    /// Every warp that has not ended waits.
    #[error(
        "every warp waits, here at barrier {barrier}: {arrived} of {expected} threads have come"
    )]
    Deadlock {
        /// The barrier's number.
        barrier: u32,
        /// Threads that wait at it.
        arrived: u32,
        /// Threads that it waits for.
        expected: u32,
    },
    /// Warps that ask one barrier for different numbers of threads.
    #[error("barrier {barrier} waits for {before} threads, and now is asked to wait for {now}")]
    Disagree {
        /// The barrier's number.
        barrier: u32,
        /// What the first warp asked for.
        before: u32,
        /// What this one asks for.
        now: u32,
    },
    /// Copies that were started and never waited for, at the end of a kernel.
    #[error("the thread ends while {0} of its copies are in flight")]
    Abandoned(u32),
}
