//! Instructions that compute on the registers of each lane alone: what each does, by its full name.
//!
//! A name that is in no table is unknown: nothing is guessed from its parts.

mod compare;
mod convert;
mod float;
mod integer;

pub use compare::{Joined, compare_narrow, compare_wide, joined, logic};

use crate::lanes::{Narrow, Wide};

/// What an instruction computes, over all lanes; its operands' registers, and how many there are.
#[derive(Debug, Clone, Copy)]
pub enum Compute {
    /// 32-bit registers from up to three of them.
    Narrow(usize, fn(&mut Narrow, &Narrow, &Narrow, &Narrow)),
    /// 64-bit registers from up to three of them.
    Wide(usize, fn(&mut Wide, &Wide, &Wide, &Wide)),
    /// A 64-bit register from one and one or two of 32 bits: shifts and fields.
    Shift(usize, fn(&mut Wide, &Wide, &Narrow, &Narrow)),
    /// A 64-bit register from one or two of 32 bits, and with three operands one of 64 bits.
    Widen(usize, fn(&mut Wide, &Narrow, &Narrow, &Wide)),
    /// A 32-bit register from one of 64 bits.
    Shrink(fn(&mut Narrow, &Wide)),
}

/// What the instruction `name` computes.
pub fn find(name: &str) -> Option<Compute> {
    float::find(name).or_else(|| integer::find(name)).or_else(|| convert::find(name))
}

/// Makes a [`Compute::Narrow`] of an expression over one lane's operands.
macro_rules! narrow {
    (|$a:ident| $e:expr) => {
        $crate::table::Compute::Narrow(1, |d, a, _, _| {
            for (d, &$a) in d.iter_mut().zip(a) {
                *d = $e;
            }
        })
    };
    (|$a:ident, $b:ident| $e:expr) => {
        $crate::table::Compute::Narrow(2, |d, a, b, _| {
            for ((d, &$a), &$b) in d.iter_mut().zip(a).zip(b) {
                *d = $e;
            }
        })
    };
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        $crate::table::Compute::Narrow(3, |d, a, b, c| {
            for (((d, &$a), &$b), &$c) in d.iter_mut().zip(a).zip(b).zip(c) {
                *d = $e;
            }
        })
    };
}

/// Makes a [`Compute::Wide`] of an expression over one lane's operands.
macro_rules! wide {
    (|$a:ident| $e:expr) => {
        $crate::table::Compute::Wide(1, |d, a, _, _| {
            for (d, &$a) in d.iter_mut().zip(a) {
                *d = $e;
            }
        })
    };
    (|$a:ident, $b:ident| $e:expr) => {
        $crate::table::Compute::Wide(2, |d, a, b, _| {
            for ((d, &$a), &$b) in d.iter_mut().zip(a).zip(b) {
                *d = $e;
            }
        })
    };
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        $crate::table::Compute::Wide(3, |d, a, b, c| {
            for (((d, &$a), &$b), &$c) in d.iter_mut().zip(a).zip(b).zip(c) {
                *d = $e;
            }
        })
    };
}

pub(crate) use {narrow, wide};
