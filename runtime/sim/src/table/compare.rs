//! Comparisons, and the logic of predicates.

use crate::lanes::{Mask, Narrow, WIDTH, Wide};

/// The lanes in which a comparison of 32-bit registers holds.
pub type OfNarrow = fn(&Narrow, &Narrow) -> Mask;

/// The lanes in which a comparison of 64-bit registers holds.
pub type OfWide = fn(&Wide, &Wide) -> Mask;

/// What joins two predicates.
pub type Joined = fn(Mask, Mask) -> Mask;

/// A mask by an expression over one lane's operands.
macro_rules! mask {
    (|$a:ident, $b:ident| $e:expr) => {
        |a, b| {
            let mut mask: Mask = 0;
            for lane in 0..WIDTH {
                let ($a, $b) = (a[lane], b[lane]);
                mask |= Mask::from($e) << lane;
            }
            mask
        }
    };
}

/// The same over numbers of a type that the registers hold.
macro_rules! numbers {
    ($as:expr, $compare:expr, $of:ty) => {{
        let found: $of = match $compare {
            "lt" | "lo" => mask!(|a, b| $as(a) < $as(b)),
            "le" | "ls" => mask!(|a, b| $as(a) <= $as(b)),
            "gt" | "hi" => mask!(|a, b| $as(a) > $as(b)),
            "ge" | "hs" => mask!(|a, b| $as(a) >= $as(b)),
            "eq" => mask!(|a, b| $as(a) == $as(b)),
            "ne" => mask!(|a, b| $as(a) != $as(b)),
            _ => return None,
        };
        Some(found)
    }};
}

/// `setp.compare.kind` of 32-bit registers.
pub fn compare_narrow(compare: &str, kind: &str) -> Option<OfNarrow> {
    match kind {
        "s32" => numbers!(|x| x as i32, compare, OfNarrow),
        "s16" => numbers!(|x| x as i16, compare, OfNarrow),
        "u32" | "b32" | "u16" | "b16" => numbers!(|x: u32| x, compare, OfNarrow),
        "f32" => compare_floats(compare),
        _ => None,
    }
}

/// `setp.compare.kind` of 64-bit registers.
pub fn compare_wide(compare: &str, kind: &str) -> Option<OfWide> {
    match kind {
        "s64" => numbers!(|x| x as i64, compare, OfWide),
        "u64" | "b64" => numbers!(|x: u64| x, compare, OfWide),
        _ => None,
    }
}

/// Comparisons of f32. Those that end in `u` also hold where an operand is NaN; `ne` does not.
fn compare_floats(compare: &str) -> Option<OfNarrow> {
    fn f(bits: u32) -> f32 {
        f32::from_bits(bits)
    }
    fn unordered(a: u32, b: u32) -> bool {
        f(a).is_nan() || f(b).is_nan()
    }
    Some(match compare {
        "lt" => mask!(|a, b| f(a) < f(b)),
        "le" => mask!(|a, b| f(a) <= f(b)),
        "gt" => mask!(|a, b| f(a) > f(b)),
        "ge" => mask!(|a, b| f(a) >= f(b)),
        "eq" => mask!(|a, b| f(a) == f(b)),
        "ne" => mask!(|a, b| f(a) != f(b) && !unordered(a, b)),
        "ltu" => mask!(|a, b| f(a) < f(b) || unordered(a, b)),
        "leu" => mask!(|a, b| f(a) <= f(b) || unordered(a, b)),
        "gtu" => mask!(|a, b| f(a) > f(b) || unordered(a, b)),
        "geu" => mask!(|a, b| f(a) >= f(b) || unordered(a, b)),
        "equ" => mask!(|a, b| f(a) == f(b) || unordered(a, b)),
        "neu" => mask!(|a, b| f(a) != f(b)),
        "num" => mask!(|a, b| !unordered(a, b)),
        "nan" => mask!(|a, b| unordered(a, b)),
        _ => return None,
    })
}

/// What `and`, `or` and `xor` do to predicates.
pub fn joined(name: &str) -> Option<Joined> {
    Some(match name {
        "and" => |a, b| a & b,
        "or" => |a, b| a | b,
        "xor" => |a, b| a ^ b,
        _ => return None,
    })
}

/// Instructions between predicates, and how many operands each has.
pub fn logic(name: &str) -> Option<(usize, Joined)> {
    Some(match name {
        "mov.pred" => (1, |a, _| a),
        "not.pred" => (1, |a, _| !a),
        other => (2, joined(other.strip_suffix(".pred")?)?),
    })
}
