//! Arithmetic of f32. Approximations (`ex2.approx`, `rcp.approx`, `div.full`, …) are computed to the last digit: a card
//! may differ from them by the few units in the last place that the manual allows.

use super::{Compute, narrow};

/// Makes a computation of an expression over one lane's operands as f32.
macro_rules! float {
    (|$a:ident| $e:expr) => {
        narrow!(|$a| {
            let $a = f32::from_bits($a);
            let value: f32 = $e;
            value.to_bits()
        })
    };
    (|$a:ident, $b:ident| $e:expr) => {
        narrow!(|$a, $b| {
            let ($a, $b) = (f32::from_bits($a), f32::from_bits($b));
            let value: f32 = $e;
            value.to_bits()
        })
    };
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        narrow!(|$a, $b, $c| {
            let ($a, $b, $c) = (f32::from_bits($a), f32::from_bits($b), f32::from_bits($c));
            let value: f32 = $e;
            value.to_bits()
        })
    };
}

/// What an instruction of f32 computes.
pub fn find(name: &str) -> Option<Compute> {
    Some(match name {
        "add.f32" | "add.rn.f32" => float!(|a, b| a + b),
        "sub.f32" | "sub.rn.f32" => float!(|a, b| a - b),
        "mul.f32" | "mul.rn.f32" => float!(|a, b| a * b),
        "div.rn.f32" | "div.full.f32" | "div.approx.f32" => float!(|a, b| a / b),
        "add.ftz.f32" | "add.rn.ftz.f32" => float!(|a, b| flushed(flushed(a) + flushed(b))),
        "sub.ftz.f32" | "sub.rn.ftz.f32" => float!(|a, b| flushed(flushed(a) - flushed(b))),
        "mul.ftz.f32" | "mul.rn.ftz.f32" => float!(|a, b| flushed(flushed(a) * flushed(b))),
        "div.full.ftz.f32" => float!(|a, b| flushed(flushed(a) / flushed(b))),
        "fma.rn.f32" => float!(|a, b, c| fused(a, b, c)),
        "fma.rn.ftz.f32" => float!(|a, b, c| flushed(fused(flushed(a), flushed(b), flushed(c)))),
        // Of a number and NaN, the number; with `.NaN` the canonical NaN.
        "min.f32" => float!(|a, b| lesser(a, b)),
        "max.f32" => float!(|a, b| -lesser(-a, -b)),
        "min.NaN.f32" => float!(|a, b| if a.is_nan() || b.is_nan() { NAN } else { lesser(a, b) }),
        "max.NaN.f32" => {
            float!(|a, b| if a.is_nan() || b.is_nan() { NAN } else { -lesser(-a, -b) })
        }
        "neg.f32" => float!(|a| -a),
        "abs.f32" => float!(|a| a.abs()),
        "sqrt.rn.f32" | "sqrt.approx.f32" => float!(|a| a.sqrt()),
        "rcp.rn.f32" | "rcp.approx.f32" => float!(|a| 1.0 / a),
        "rsqrt.approx.f32" => float!(|a| (1.0 / f64::from(a).sqrt()) as f32),
        "ex2.approx.f32" => float!(|a| f64::from(a).exp2() as f32),
        "lg2.approx.f32" => float!(|a| f64::from(a).log2() as f32),
        "tanh.approx.f32" => float!(|a| f64::from(a).tanh() as f32),
        "sqrt.approx.ftz.f32" => float!(|a| flushed(a).sqrt()),
        "rcp.approx.ftz.f32" => float!(|a| flushed(1.0 / flushed(a))),
        "rsqrt.approx.ftz.f32" => float!(|a| (1.0 / f64::from(flushed(a)).sqrt()) as f32),
        "ex2.approx.ftz.f32" => float!(|a| flushed(f64::from(flushed(a)).exp2() as f32)),
        "lg2.approx.ftz.f32" => float!(|a| f64::from(flushed(a)).log2() as f32),
        _ => return None,
    })
}

/// The NaN that arithmetic gives on a card.
const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// `a · b + c`, rounded once. A multiplication of two f32 is exact in f64; where their sum in f64 lies half-way between two
/// f32 and what it lost says which is nearer, it is moved by its last bit, so that the second rounding is right.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let bits = sum.to_bits();
    const HALF_WAY: u64 = 1 << 28;
    if bits & (2 * HALF_WAY - 1) != HALF_WAY {
        // Subnormal f32 have fewer digits: there the half-way points are elsewhere.
        if sum.abs() >= f64::from(f32::MIN_POSITIVE) || sum == 0.0 || !sum.is_finite() {
            return sum as f32;
        }
        return a.mul_add(b, c as f32);
    }
    // Knuth's two-sum: what `sum` lost.
    let part = sum - product;
    let lost = (product - (sum - part)) + (c - part);
    match lost == 0.0 {
        true => sum as f32,
        false => {
            f64::from_bits(if (lost > 0.0) == (sum > 0.0) { bits + 1 } else { bits - 1 }) as f32
        }
    }
}

/// Zero, of the same sign, for what is below the least normal number.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// The lesser, of which -0 is less than 0; the number where the other is NaN.
fn lesser(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => NAN,
        (true, false) => b,
        (false, true) => a,
        (false, false) if a == b => f32::from_bits(a.to_bits() | b.to_bits() & (1 << 31)),
        (false, false) => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multiply_add_is_rounded_once() {
        // xorshift, over exponents that make sums near each other.
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let exponent = 100 + (state >> 40) % 56;
            f32::from_bits((state as u32 & 0x807f_ffff) | (exponent as u32) << 23)
        };
        for _ in 0..200_000 {
            let (a, b, c) = (next(), next(), next());
            for c in [c, -a * b, a * b, c * 1e-20] {
                assert_eq!(fused(a, b, c).to_bits(), a.mul_add(b, c).to_bits(), "{a} {b} {c}");
            }
        }
        // Half-way but for what the sum in f64 loses: naive double rounding goes wrong here.
        let (a, b) = (1.0 + f32::EPSILON, 1.0 + f32::EPSILON);
        for c in [f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 2f32.powi(-60), -2f32.powi(-60)] {
            for (a, b) in [(a, b), (1.0, 1.0 + f32::EPSILON), (2f32.powi(24) + 2.0, 0.5)] {
                assert_eq!(fused(a, b, c).to_bits(), a.mul_add(b, c).to_bits(), "{a} {b} {c}");
            }
        }
        let tiny = f32::from_bits(3);
        assert_eq!(fused(tiny, 0.5, 0.0).to_bits(), tiny.mul_add(0.5, 0.0).to_bits());
        assert_eq!(fused(1e38, 10.0, 0.0), f32::INFINITY);
    }

    #[test]
    fn the_lesser_of_a_number_and_nan_is_the_number() {
        assert_eq!(lesser(f32::NAN, 1.0), 1.0);
        assert_eq!(lesser(0.0, -0.0).to_bits(), (-0f32).to_bits());
        assert_eq!((-lesser(0.0, -0.0)).to_bits(), 0);
        assert_eq!(lesser(-3.0, 2.0), -3.0);
    }
}
