//! `neox.erf`.

use super::prelude::*;

/// erf in f64: Maclaurin series below 3 (DLMF 7.6.2, all terms positive, so no cancellation),
/// Lentz's continued fraction of erfc above (DLMF 7.9.3).
pub fn erf64(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        let mut n = 0.0;
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-a * a).exp() * sum
    } else if a < 6.0 {
        // erfc(a) = exp(-a²)/√π · 1/(a + (1/2)/(a + 1/(a + (3/2)/(a + …))))
        let tail = (1..=60).rev().fold(a, |f, k| a + 0.5 * f64::from(k) / f);
        1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / tail
    } else {
        1.0
    };
    value.copysign(x)
}

pointwise_op! {
    Erf, "erf", "Error function of `x`; derivative `2/√π · exp(-x²)`.", ["x"], flops 20.0, sums No,
    eval |x| erf64(x[0]),
    grad |cx, dy| {
        let x = cx.operand(0);
        let square = cx.b.mul(x, x)?;
        let minus = cx.b.unary(OpKind::Neg, square)?;
        let bell = cx.b.unary(OpKind::Exp, minus)?;
        let scale = cx.b.scalar(2.0 / std::f64::consts::PI.sqrt())?;
        let slope = cx.b.mul(bell, scale)?;
        let dx = cx.b.mul(dy, slope)?;
        grads(&[dx])
    }
}

#[cfg(test)]
mod tests {
    use super::erf64;

    /// Values of erf from published tables (Abramowitz & Stegun 7.1, DLMF).
    #[test]
    fn known_values() {
        for (x, y) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (-1.0, -0.842_700_792_949_714_9),
            (3.5, 0.999_999_256_901_627_7),
        ] {
            assert!((erf64(x) - y).abs() < 5e-16, "{x}: {}", erf64(x));
        }
        assert!(erf64(f64::NAN).is_nan());
        assert_eq!(erf64(f64::NEG_INFINITY), -1.0);
    }
}
