//! Start values: a counter-based generator, so that a tensor's values depend on the seed, its logical
//! name and the element's index, and on nothing else (no layout, no thread count, no order).

use neoxc_plan::Init;

/// Philox 4×32, ten rounds (Salmon et al. 2011).
pub fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let (mut k, mut c) = (key, counter);
    for _ in 0..10 {
        let a = u64::from(c[0]) * 0xD251_1F53;
        let b = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// FNV-1a of a tensor's name.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Fills `out` (little-endian f32) with the start values of the tensor called `name`.
pub fn fill(out: &mut [u8], name: &str, init: Init, seed: u32) {
    let std = match init {
        Init::Zeros => return out.fill(0),
        Init::Ones => {
            return out.chunks_exact_mut(4).for_each(|c| c.copy_from_slice(&1f32.to_le_bytes()));
        }
        Init::Normal(std) => std,
    };
    let h = hash(name);
    let unit = |x: u32| (f64::from(x) + 0.5) / 4_294_967_296.0;
    for (i, chunk) in out.chunks_mut(16).enumerate() {
        let r = philox([seed, h as u32], [i as u32, (i >> 32) as u32, (h >> 32) as u32, 0]);
        // Box–Muller: two pairs give four values.
        let mut values = [0f64; 4];
        for p in 0..2 {
            let radius = (-2.0 * unit(r[2 * p]).ln()).sqrt();
            let angle = 2.0 * std::f64::consts::PI * unit(r[2 * p + 1]);
            values[2 * p] = radius * angle.cos();
            values[2 * p + 1] = radius * angle.sin();
        }
        for (c, v) in chunk.chunks_exact_mut(4).zip(values) {
            c.copy_from_slice(&((v * std) as f32).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the Random123 library.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn values_are_normal() {
        let mut bytes = vec![0; 4 * 40_000];
        fill(&mut bytes, "w", Init::Normal(0.02), 1);
        let x: Vec<f64> = bytes
            .chunks_exact(4)
            .map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap())) / 0.02)
            .collect();
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|v| v * v).sum::<f64>() / n;
        let kurtosis = x.iter().map(|v| v.powi(4)).sum::<f64>() / n;
        assert!(
            mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03 && (kurtosis - 3.0).abs() < 0.15
        );
    }
}
