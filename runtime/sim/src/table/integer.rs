//! Arithmetic and logic of integers. A register of 16 bits keeps zeros above them.

use super::{Compute, narrow, wide};
use crate::memory::{LOCAL_WINDOW, SHARED_WINDOW};

/// A 64-bit register shifted by one of 32 bits.
macro_rules! shift {
    (|$a:ident, $b:ident| $e:expr) => {
        Compute::Shift(2, |d, a, b, _| {
            for ((d, &$a), &$b) in d.iter_mut().zip(a).zip(b) {
                *d = $e;
            }
        })
    };
}

/// A field of a 64-bit register, with its start and its length.
macro_rules! field {
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        Compute::Shift(3, |d, a, b, c| {
            for (((d, &$a), &$b), &$c) in d.iter_mut().zip(a).zip(b).zip(c) {
                *d = $e;
            }
        })
    };
}

/// What an instruction of integers computes.
pub fn find(name: &str) -> Option<Compute> {
    short(name).or_else(|| narrow_of(name)).or_else(|| wide_of(name))
}

fn short(name: &str) -> Option<Compute> {
    Some(match name {
        "add.s16" | "add.u16" => narrow!(|a, b| (a.wrapping_add(b)) & 0xffff),
        "sub.s16" | "sub.u16" => narrow!(|a, b| (a.wrapping_sub(b)) & 0xffff),
        "mul.lo.s16" | "mul.lo.u16" => narrow!(|a, b| (a.wrapping_mul(b)) & 0xffff),
        "shl.b16" => narrow!(|a, b| if b < 16 { (a << b) & 0xffff } else { 0 }),
        "shr.u16" | "shr.b16" => narrow!(|a, b| if b < 16 { a >> b } else { 0 }),
        "not.b16" => narrow!(|a| !a & 0xffff),
        _ => return None,
    })
}

fn narrow_of(name: &str) -> Option<Compute> {
    Some(match name {
        "add.s32" | "add.u32" => narrow!(|a, b| a.wrapping_add(b)),
        "sub.s32" | "sub.u32" => narrow!(|a, b| a.wrapping_sub(b)),
        "mul.lo.s32" | "mul.lo.u32" => narrow!(|a, b| a.wrapping_mul(b)),
        "mul.hi.u32" => narrow!(|a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        "mul.hi.s32" => narrow!(|a, b| ((signed(a) * signed(b)) >> 32) as u32),
        "mad.lo.s32" | "mad.lo.u32" => narrow!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        // A division by zero gives all ones on a card.
        "div.u32" => narrow!(|a, b| a.checked_div(b).unwrap_or(!0)),
        "rem.u32" => narrow!(|a, b| a.checked_rem(b).unwrap_or(a)),
        "div.s32" => {
            narrow!(|a, b| if b == 0 { !0 } else { (a as i32).wrapping_div(b as i32) as u32 })
        }
        "rem.s32" => {
            narrow!(|a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 })
        }
        "min.s32" => narrow!(|a, b| (a as i32).min(b as i32) as u32),
        "max.s32" => narrow!(|a, b| (a as i32).max(b as i32) as u32),
        "min.u32" => narrow!(|a, b| a.min(b)),
        "max.u32" => narrow!(|a, b| a.max(b)),
        "neg.s32" => narrow!(|a| a.wrapping_neg()),
        "abs.s32" => narrow!(|a| (a as i32).wrapping_abs() as u32),
        "and.b32" | "and.b16" => narrow!(|a, b| a & b),
        "or.b32" | "or.b16" => narrow!(|a, b| a | b),
        "xor.b32" | "xor.b16" => narrow!(|a, b| a ^ b),
        "not.b32" => narrow!(|a| !a),
        "shl.b32" => narrow!(|a, b| if b < 32 { a << b } else { 0 }),
        "shr.u32" | "shr.b32" => narrow!(|a, b| if b < 32 { a >> b } else { 0 }),
        "shr.s32" => narrow!(|a, b| ((a as i32) >> b.min(31)) as u32),
        "bfe.u32" => narrow!(|a, b, c| field(u64::from(a), b, c, 32) as u32),
        "bfe.s32" => narrow!(|a, b, c| signed_field(signed(a), b, c, 32) as u32),
        "popc.b32" => narrow!(|a| a.count_ones()),
        "clz.b32" => narrow!(|a| a.leading_zeros()),
        "brev.b32" => narrow!(|a| a.reverse_bits()),
        "prmt.b32" => narrow!(|a, b, c| permuted(a, b, c)),
        "mov.b16" | "mov.u16" | "mov.b32" | "mov.u32" | "mov.s32" | "mov.f32" => narrow!(|a| a),
        _ => return None,
    })
}

fn wide_of(name: &str) -> Option<Compute> {
    Some(match name {
        "add.s64" | "add.u64" => wide!(|a, b| a.wrapping_add(b)),
        "sub.s64" | "sub.u64" => wide!(|a, b| a.wrapping_sub(b)),
        "mul.lo.s64" | "mul.lo.u64" => wide!(|a, b| a.wrapping_mul(b)),
        "mul.hi.u64" => wide!(|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        "mul.hi.s64" => wide!(|a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
        "mad.lo.s64" | "mad.lo.u64" => wide!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        "div.u64" => wide!(|a, b| a.checked_div(b).unwrap_or(!0)),
        "rem.u64" => wide!(|a, b| a.checked_rem(b).unwrap_or(a)),
        "div.s64" => {
            wide!(|a, b| if b == 0 { !0 } else { (a as i64).wrapping_div(b as i64) as u64 })
        }
        "rem.s64" => {
            wide!(|a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 })
        }
        "min.s64" => wide!(|a, b| (a as i64).min(b as i64) as u64),
        "max.s64" => wide!(|a, b| (a as i64).max(b as i64) as u64),
        "min.u64" => wide!(|a, b| a.min(b)),
        "max.u64" => wide!(|a, b| a.max(b)),
        "neg.s64" => wide!(|a| a.wrapping_neg()),
        "abs.s64" => wide!(|a| (a as i64).wrapping_abs() as u64),
        "and.b64" => wide!(|a, b| a & b),
        "or.b64" => wide!(|a, b| a | b),
        "xor.b64" => wide!(|a, b| a ^ b),
        "not.b64" => wide!(|a| !a),
        "mov.b64" | "mov.u64" | "mov.s64" | "cvta.to.global.u64" | "cvta.global.u64" => {
            wide!(|a| a)
        }
        "cvta.shared.u64" => wide!(|a| a | SHARED_WINDOW),
        "cvta.to.shared.u64" => wide!(|a| a & !SHARED_WINDOW),
        "cvta.local.u64" => wide!(|a| a | LOCAL_WINDOW),
        "cvta.to.local.u64" => wide!(|a| a & !LOCAL_WINDOW),
        "shl.b64" => shift!(|a, b| if b < 64 { a << b } else { 0 }),
        "shr.u64" | "shr.b64" => shift!(|a, b| if b < 64 { a >> b } else { 0 }),
        "shr.s64" => shift!(|a, b| ((a as i64) >> b.min(63)) as u64),
        "bfe.u64" => field!(|a, b, c| field(a, b, c, 64)),
        "bfe.s64" => field!(|a, b, c| signed_field(a as i64, b, c, 64) as u64),
        "mul.wide.u32" => Compute::Widen(2, |d, a, b, _| {
            for ((d, &a), &b) in d.iter_mut().zip(a).zip(b) {
                *d = u64::from(a) * u64::from(b);
            }
        }),
        "mul.wide.s32" => Compute::Widen(2, |d, a, b, _| {
            for ((d, &a), &b) in d.iter_mut().zip(a).zip(b) {
                *d = (signed(a) * signed(b)) as u64;
            }
        }),
        "mad.wide.u32" => Compute::Widen(3, |d, a, b, c| {
            for (((d, &a), &b), &c) in d.iter_mut().zip(a).zip(b).zip(c) {
                *d = (u64::from(a) * u64::from(b)).wrapping_add(c);
            }
        }),
        "mad.wide.s32" => Compute::Widen(3, |d, a, b, c| {
            for (((d, &a), &b), &c) in d.iter_mut().zip(a).zip(b).zip(c) {
                *d = ((signed(a) * signed(b)) as u64).wrapping_add(c);
            }
        }),
        _ => return None,
    })
}

/// Sign extension.
fn signed(a: u32) -> i64 {
    i64::from(a as i32)
}

/// `length` bits of `a` from `start`, as the manual's `bfe`: both are taken modulo 256, and what lies past the end of
/// `width` bits is zero.
fn field(a: u64, start: u32, length: u32, width: u32) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    if start >= width || length == 0 {
        return 0;
    }
    let shifted = a >> start;
    if length >= 64 { shifted } else { shifted & ((1 << length) - 1) }
}

/// The same with the sign of the field's last bit, or of `a`'s last one where the field reaches past it.
fn signed_field(a: i64, start: u32, length: u32, width: u32) -> i64 {
    let (start, length) = (start & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let end = (start + length).min(width);
    let sign = (a >> (end - 1)) & 1;
    let kept = end.saturating_sub(start);
    let low = field(a as u64, start, kept, width) as i64;
    if sign == 1 && kept < 64 { low | (!0 << kept) } else { low }
}

/// Four bytes out of the eight of `b` and `a`, chosen by the nibbles of `c`; a nibble's highest bit asks for the
/// byte's sign in all of its bits.
fn permuted(a: u32, b: u32, c: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let one = |i: u32| {
        let choice = c >> (4 * i) & 0xf;
        let byte = bytes[(choice & 7) as usize];
        if choice & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte }
    };
    u32::from_le_bytes([one(0), one(1), one(2), one(3)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_permutations_are_the_manuals() {
        assert_eq!(field(0xabcd, 4, 8, 32), 0xbc);
        assert_eq!(field(0xffff_ffff, 40, 8, 32), 0);
        assert_eq!(field(u64::MAX, 0, 64, 64), u64::MAX);
        assert_eq!(signed_field(0x0000_00f0, 4, 4, 32), -1);
        assert_eq!(signed_field(0x0000_0070, 4, 4, 32), 7);
        assert_eq!(signed_field(signed(0x8000_0000), 28, 16, 32), -8);
        assert_eq!(permuted(0x3322_1100, 0x7766_5544, 0x7531), 0x7755_3311);
        // bf16 of the upper halves, and a replicated sign.
        assert_eq!(permuted(0xaaaa_bbbb, 0xcccc_dddd, 0x7632), 0xcccc_aaaa);
        assert_eq!(permuted(0x0000_0080, 0, 0x1118), 0x0000_00ff);
    }
}
