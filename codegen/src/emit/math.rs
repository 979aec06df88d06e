//! Transcendentals from the primitives that every target has: no maths library is linked.
//!
//! exp, log and tanh use the coefficients published with the Cephes library (S. Moshier); erf uses
//! Chebyshev fits made for this project against f64 (relative error below 1e-7). All take scalars or vectors.

use std::f64::consts::{LN_2, LOG2_E};

use super::{Emit, Ty, Val};

/// 1.5·2²³: adding it to a float below 2²² leaves the nearest integer in the low mantissa bits.
const MAGIC: f64 = 12_582_912.0;

fn horner(k: &mut Emit, x: Val, coefficients: &[f64]) -> Val {
    let mut sum = k.float(coefficients[0], x.ty);
    for c in &coefficients[1..] {
        let c = k.float(*c, x.ty);
        sum = k.fma(sum, x, c);
    }
    sum
}

/// eˣ; 0 below -87.3, infinite above 88.72.
pub fn exp(k: &mut Emit, x: Val) -> Val {
    let (lo, hi) = (k.float(-87.336_54, x.ty), k.float(88.72, x.ty));
    let (under, over) = (k.cmp("olt", x, lo), k.cmp("ogt", x, hi));
    let c = k.max(x, lo);
    let c = k.min(c, hi);
    let (log2e, magic) = (k.float(LOG2_E, x.ty), k.float(MAGIC, x.ty));
    let shifted = k.fma(c, log2e, magic);
    let n = k.sub(shifted, magic);
    let (hi_part, lo_part) = (k.float(-0.693_359_375, x.ty), k.float(2.121_944_4e-4, x.ty));
    let r = k.fma(n, hi_part, c);
    let r = k.fma(n, lo_part, r);
    let poly = horner(
        k,
        r,
        &[1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5],
    );
    let square = k.mul(r, r);
    let y = k.fma(poly, square, r);
    let one = k.float(1.0, x.ty);
    let y = k.add(y, one);
    // Two factors 2^(n/2): one alone overflows the exponent field at n = 128.
    let bits = k.bitcast(shifted, x.ty.int());
    let base = k.int32((MAGIC as f32).to_bits() as i32, x.ty);
    let n = k.arith("subi", bits, base);
    let one_bit = k.int32(1, x.ty);
    let half = k.arith("shrsi", n, one_bit);
    let rest = k.arith("subi", n, half);
    let a = power_of_two(k, half);
    let b = power_of_two(k, rest);
    let y = k.mul(y, a);
    let y = k.mul(y, b);
    let (zero, infinity) = (k.float(0.0, x.ty), k.float(f64::INFINITY, x.ty));
    let y = k.select(over, infinity, y);
    k.select(under, zero, y)
}

/// The least exponent of a normal float.
const LEAST: f64 = -126.0;

/// 2ˣ for x ≤ 0, and 2⁻¹²⁶ where that would be less; exact at 0, and NaN stays. The polynomial is a fit made for
/// this project (relative error below 3·10⁻⁷ in f32).
pub fn exp2_negative(k: &mut Emit, x: Val) -> Val {
    const POLYNOMIAL: [f64; 6] =
        [1.326_472_7e-3, 9.671_513e-3, 5.550_733_7e-2, 0.240_222_42, LN_2 - 2.03e-7, 1.0];
    let low = k.float(LEAST, x.ty);
    let under = k.cmp("olt", x, low);
    let x = k.select(under, low, x);
    // Vectors of AVX-512 have instructions for both ends of this, and may shift in one unit only. The bits are the same.
    if x.ty == Ty::Vec(16) && k.has.avx512 {
        let r = k.less_nearest(x);
        let n = k.sub(x, r);
        let y = horner(k, r, &POLYNOMIAL);
        return k.times_power(y, n);
    }
    let magic = k.float(MAGIC, x.ty);
    let shifted = k.add(x, magic);
    let n = k.sub(shifted, magic);
    let r = k.sub(x, n);
    let y = horner(k, r, &POLYNOMIAL);
    // The low bits of `shifted` are n: into the exponent.
    let bits = k.bitcast(shifted, x.ty.int());
    let places = k.int32(23, x.ty);
    let n = k.arith("shli", bits, places);
    let y = k.bitcast(y, x.ty.int());
    let y = k.add(y, n);
    k.bitcast(y, x.ty)
}

/// eˣ for x ≤ 0, and zero where that would be less than 2⁻¹²⁶: what a factor makes of such a number is denormal, and slow.
/// NaN stays. For 0 the result is 1; the more negative x, the more x · log₂ e is off by its rounding.
pub fn exp_negative(k: &mut Emit, x: Val) -> Val {
    let (log2e, low) = (k.float(LOG2_E, x.ty), k.float(LEAST, x.ty));
    let x = k.mul(x, log2e);
    let e = exp2_negative(k, x);
    let (under, none) = (k.cmp("olt", x, low), k.float(0.0, x.ty));
    k.select(under, none, e)
}

impl Emit {
    /// Of 16 floats, each less the nearest integer.
    fn less_nearest(&mut self, x: Val) -> Val {
        let zero = self.int32(0, Ty::I32);
        self.avx512("reduce", x, zero)
    }

    /// 16 floats `y·2ⁿ` for integers n.
    fn times_power(&mut self, y: Val, n: Val) -> Val {
        self.avx512("scalef", y, n)
    }

    /// An operation of AVX-512 on all of 16 floats.
    fn avx512(&mut self, name: &str, a: Val, b: Val) -> Val {
        let (t, tb) = (self.ty(a.ty), self.ty(b.ty));
        let all = self.def(Ty::I16, "arith.constant -1 : i16");
        // To the nearest, as the thread rounds.
        let mode = self.int32(4, Ty::I32);
        self.def(
            a.ty,
            &format!(
                "llvm.call_intrinsic \"llvm.x86.avx512.mask.{name}.ps.512\"({a}, {b}, {a}, {all}, {mode}) : ({t}, {tb}, {t}, i16, i32) -> {t}"
            ),
        )
    }
}

fn power_of_two(k: &mut Emit, n: Val) -> Val {
    let (bias, shift) = (k.int32(127, n.ty), k.int32(23, n.ty));
    let e = k.arith("addi", n, bias);
    let e = k.arith("shli", e, shift);
    k.bitcast(e, n.ty.float())
}

/// Natural logarithm of a positive normal float.
pub fn log(k: &mut Emit, x: Val) -> Val {
    let bits = k.bitcast(x, x.ty.int());
    let root_half = k.int32(0x3f35_04f3, x.ty);
    let (shift, mantissa) = (k.int32(23, x.ty), k.int32(0x007f_ffff, x.ty));
    let off = k.arith("subi", bits, root_half);
    let e = k.arith("shrsi", off, shift);
    let e = k.to_float(e);
    let m = k.arith("andi", off, mantissa);
    let m = k.arith("addi", m, root_half);
    let m = k.bitcast(m, x.ty);
    let one = k.float(1.0, x.ty);
    let f = k.sub(m, one);
    let z = k.mul(f, f);
    let poly = horner(
        k,
        f,
        &[
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333_1e-1,
        ],
    );
    let y = k.mul(poly, f);
    let y = k.mul(y, z);
    let (small, half, large) =
        (k.float(-2.121_944_4e-4, x.ty), k.float(-0.5, x.ty), k.float(0.693_359_375, x.ty));
    let y = k.fma(e, small, y);
    let y = k.fma(z, half, y);
    let y = k.add(f, y);
    k.fma(e, large, y)
}

/// tanh: odd polynomial near zero, `(1 - e)/(1 + e)` with e = 2^(-2|x|·log₂ e) elsewhere.
pub fn tanh(k: &mut Emit, x: Val) -> Val {
    let a = k.abs(x);
    let scale = k.float(-2.0 * LOG2_E, x.ty);
    let one = k.float(1.0, x.ty);
    let power = k.mul(a, scale);
    let e = exp2_negative(k, power);
    let (up, down) = (k.sub(one, e), k.add(one, e));
    let far = k.div(up, down);
    let far = with_sign(k, far, x);
    let z = k.mul(x, x);
    let poly = horner(
        k,
        z,
        &[-5.704_988_7e-3, 2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1],
    );
    let near = k.mul(poly, z);
    let near = k.fma(near, x, x);
    let limit = k.float(0.625, x.ty);
    let is_near = k.cmp("olt", a, limit);
    k.select(is_near, near, far)
}

/// 1/(1 + e⁻ˣ): 1 or e over 1 + e, with e = 2^(-|x|·log₂ e); never less than about 2⁻¹²⁶. The larger |x|, the more a
/// small result is off, as for [`exp_negative`].
pub fn logistic(k: &mut Emit, x: Val) -> Val {
    let (scale, one) = (k.float(-LOG2_E, x.ty), k.float(1.0, x.ty));
    let power = k.abs(x);
    let power = k.mul(power, scale);
    let e = exp2_negative(k, power);
    let zero = k.float(0.0, x.ty);
    let below = k.cmp("olt", x, zero);
    let up = k.select(below, e, one);
    let down = k.add(one, e);
    k.div(up, down)
}

/// erf: `x·P(x²)` up to 1, `1 - e^(-x²)·Q(1/(1+|x|))` beyond.
pub fn erf(k: &mut Emit, x: Val) -> Val {
    let a = k.abs(x);
    let limit = k.float(4.1, x.ty);
    let a = k.min(a, limit);
    let z = k.mul(a, a);
    let near = horner(
        k,
        z,
        &[
            -9.673_574_8e-6,
            1.126_824_8e-4,
            -8.484_396e-4,
            5.221_053_5e-3,
            -2.686_543_8e-2,
            1.128_378_3e-1,
            -3.761_263_8e-1,
            std::f64::consts::FRAC_2_SQRT_PI,
        ],
    );
    let near = k.mul(near, x);
    let one = k.float(1.0, x.ty);
    let t = k.add(a, one);
    let t = k.div(one, t);
    let q = horner(
        k,
        t,
        &[
            -6.337_831_6e-1,
            1.379_131_6,
            -6.976_206_3e-1,
            -5.843_879_6e-1,
            4.118_107_3e-1,
            5.380_572e-1,
            5.668_650_9e-1,
            -1.122_274_6e-4,
        ],
    );
    let minus = k.neg(z);
    let bell = exp(k, minus);
    let tail = k.mul(q, bell);
    let far = k.sub(one, tail);
    let far = with_sign(k, far, x);
    let is_near = k.cmp("olt", a, one);
    k.select(is_near, near, far)
}

/// Magnitude of `a` with the sign of `s`.
fn with_sign(k: &mut Emit, a: Val, s: Val) -> Val {
    let sign = k.int32(i32::MIN, s.ty);
    let bits = k.bitcast(s, s.ty.int());
    let sign = k.arith("andi", bits, sign);
    let a = k.bitcast(a, s.ty.int());
    let both = k.arith("ori", a, sign);
    k.bitcast(both, s.ty)
}

/// `1/√x`.
pub fn rsqrt(k: &mut Emit, x: Val) -> Val {
    let one = k.float(1.0, x.ty);
    let root = k.sqrt(x);
    k.div(one, root)
}
