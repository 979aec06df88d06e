//! Instructions as the simulator executes them: names resolved to registers and to functions.

use crate::lanes::{Mask, Narrow, Wide};
use crate::table::{Compute, Joined};

/// A register's number among those of its width.
pub type Register = usize;

/// The lanes that execute an instruction: those in which a predicate holds, or does not.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    pub predicate: Register,
    pub negated: bool,
}

/// Where memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Global,
    Shared,
    Local,
    /// Whichever the address says.
    Generic,
}

/// An address: a register, or none, and bytes beyond it.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    pub base: Base,
    pub offset: i64,
}

/// The register of an address.
#[derive(Debug, Clone, Copy)]
pub enum Base {
    None,
    Narrow(Register),
    Wide(Register),
}

/// A register that is loaded or stored.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    Narrow(Register),
    Wide(Register),
    /// `_`: nothing is kept.
    Nowhere,
}

/// How lanes trade registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What lanes say together of a predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Ballot,
}

/// The types of a matrix instruction's factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    Bf16,
    F16,
    Tf32,
}

/// What an instruction does.
#[derive(Debug, Clone)]
pub enum What {
    Compute {
        compute: Compute,
        d: Register,
        a: [Register; 3],
    },
    CompareNarrow {
        compare: fn(&Narrow, &Narrow) -> Mask,
        d: Register,
        a: [Register; 2],
        join: Join,
    },
    CompareWide {
        compare: fn(&Wide, &Wide) -> Mask,
        d: Register,
        a: [Register; 2],
        join: Join,
    },
    Logic {
        logic: Joined,
        d: Register,
        a: [Register; 2],
    },
    SelectNarrow {
        d: Register,
        a: [Register; 2],
        by: Register,
    },
    SelectWide {
        d: Register,
        a: [Register; 2],
        by: Register,
    },
    /// Parts of equal width, lowest first, into one register: 2 of 16 bits, or 2 of 32.
    Pack {
        d: Place,
        a: Vec<Place>,
    },
    /// The parts of a register, lowest first.
    Unpack {
        d: Vec<Place>,
        a: Place,
    },
    LoadParameter {
        d: Place,
        offset: usize,
        bytes: u32,
    },
    Load {
        space: Space,
        bytes: u32,
        signed: bool,
        d: Vec<Place>,
        address: Address,
    },
    Store {
        space: Space,
        bytes: u32,
        a: Vec<Place>,
        address: Address,
    },
    Branch {
        to: usize,
    },
    End,
    /// All threads of the block, or as many as a register says, wait for each other; with `arrive` they only come.
    Barrier {
        number: Register,
        threads: Option<Register>,
        arrive: bool,
    },
    WarpBarrier,
    Shuffle {
        how: Shuffle,
        d: Register,
        valid: Option<Register>,
        a: Register,
        by: Register,
        clamp: Register,
    },
    Vote {
        how: Vote,
        d: Place,
        predicate: Option<Register>,
        a: Register,
        negated: bool,
    },
    /// One lane of the warp.
    Elect {
        d: Register,
    },
    /// Starts a copy from global to shared memory; bytes behind `size` become zero.
    Copy {
        bytes: u32,
        to: Address,
        from: Address,
        size: Option<Register>,
    },
    CommitCopies,
    /// Waits until at most so many groups of copies are in flight; `all`: and those of no group yet.
    WaitCopies {
        left: usize,
        all: bool,
    },
    /// 8×8 matrices of 16-bit elements, a row at each lane's address.
    LoadMatrices {
        d: Vec<Register>,
        address: Address,
        transposed: bool,
    },
    /// D = A · B + C, 16 × 8 from k: sums in f32.
    Mma {
        factor: Factor,
        d: [Register; 4],
        a: Vec<Register>,
        b: Vec<Register>,
        c: [Register; 4],
    },
    /// Adds to a word of global or shared memory, in one piece; gives what was there.
    AtomicAdd {
        space: Space,
        d: Place,
        address: Address,
        a: Register,
    },
    /// Says something that a simulator need not know.
    Nothing,
}

/// A predicate that a comparison is joined with.
pub type Join = Option<(Joined, Register)>;

/// An instruction of a kernel.
#[derive(Debug, Clone)]
pub struct Instruction {
    pub guard: Option<Guard>,
    pub what: What,
    /// Line of the file, from 1.
    pub line: u32,
    /// As it is written.
    pub text: String,
}
