//! Conversions between types.

use half::{bf16, f16};

use super::{Compute, narrow};
use crate::lanes::Narrow;

/// A 64-bit register from one of 32 bits.
macro_rules! widen {
    (|$a:ident| $e:expr) => {
        Compute::Widen(1, |d, a, _, _| {
            for (d, &$a) in d.iter_mut().zip(a) {
                *d = $e;
            }
        })
    };
}

/// A 32-bit register from one of 64 bits.
macro_rules! shrink {
    (|$a:ident| $e:expr) => {
        Compute::Shrink(|d: &mut Narrow, a| {
            for (d, &$a) in d.iter_mut().zip(a) {
                *d = $e;
            }
        })
    };
}

/// What a conversion computes.
pub fn find(name: &str) -> Option<Compute> {
    Some(match name {
        "cvt.u32.u16" | "cvt.s32.u16" => narrow!(|a| a & 0xffff),
        "cvt.s32.s16" => narrow!(|a| i32::from(a as i16) as u32),
        "cvt.u16.u32" => narrow!(|a| a & 0xffff),
        "cvt.u64.u32" | "cvt.s64.u32" => widen!(|a| u64::from(a)),
        "cvt.s64.s32" => widen!(|a| i64::from(a as i32) as u64),
        "cvt.u64.u16" => widen!(|a| u64::from(a & 0xffff)),
        "cvt.u32.u64" | "cvt.s32.s64" => shrink!(|a| a as u32),
        "cvt.u16.u64" => shrink!(|a| a as u32 & 0xffff),
        "cvt.rn.f32.s32" => narrow!(|a| (a as i32 as f32).to_bits()),
        "cvt.rn.f32.u32" => narrow!(|a| (a as f32).to_bits()),
        "cvt.rn.f32.s64" => shrink!(|a| (a as i64 as f32).to_bits()),
        "cvt.rn.f32.u64" => shrink!(|a| (a as f32).to_bits()),
        // Out of range, Rust's conversion gives the nearest number, and zero for NaN, as PTX does.
        "cvt.rzi.s32.f32" => narrow!(|a| f32::from_bits(a) as i32 as u32),
        "cvt.rzi.u32.f32" => narrow!(|a| f32::from_bits(a) as u32),
        "cvt.rni.s32.f32" => narrow!(|a| f32::from_bits(a).round_ties_even() as i32 as u32),
        "cvt.rni.f32.f32" => narrow!(|a| f32::from_bits(a).round_ties_even().to_bits()),
        "cvt.rmi.f32.f32" => narrow!(|a| f32::from_bits(a).floor().to_bits()),
        "cvt.f32.f16" => narrow!(|a| f16::from_bits(a as u16).to_f32().to_bits()),
        "cvt.rn.f16.f32" => narrow!(|a| half_of(a)),
        "cvt.f32.bf16" => narrow!(|a| a << 16),
        "cvt.rn.bf16.f32" => narrow!(|a| brain_of(a)),
        // The first operand goes into the upper half.
        "cvt.rn.f16x2.f32" => narrow!(|a, b| half_of(a) << 16 | half_of(b)),
        "cvt.rn.bf16x2.f32" => narrow!(|a, b| brain_of(a) << 16 | brain_of(b)),
        _ => return None,
    })
}

fn half_of(a: u32) -> u32 {
    u32::from(f16::from_f32(f32::from_bits(a)).to_bits())
}

/// bf16 of an f32, to nearest, ties to even; NaN is the manual's canonical one.
fn brain_of(a: u32) -> u32 {
    let a = f32::from_bits(a);
    if a.is_nan() { 0x7fff } else { u32::from(bf16::from_f32(a).to_bits()) }
}
