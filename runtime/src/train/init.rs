//! Start values: a counter-based generator, so that a tensor's values depend on the seed, its logical
//! name and the element's index, and on nothing else (no layout, no thread count, no order).

use neoxc_plan::Init;
use neoxc_plan::init::Element;

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

/// Two standard normal values of two uniform ones (Box and Muller 1958).
fn box_muller(u: f64, v: f64) -> [f64; 2] {
    let radius = (-2.0 * u.ln()).sqrt();
    let angle = 2.0 * std::f64::consts::PI * v;
    [radius * angle.cos(), radius * angle.sin()]
}

/// Fills `out` (little-endian f32) with the start values of the tensor called `name`, of the published shape
/// `shape`. The words of the generator's counter are: element / 4 (two), half of the name's hash, and which kind
/// of draw it is (0 normal, 1 uniform).
pub fn fill(out: &mut [u8], name: &str, init: &Init, shape: &[u64], seed: u32) {
    let has = |part: Init| init.any(&|i| *i == part);
    let (normal, uniform) = (has(Init::Normal), has(Init::Uniform));
    let indexed = init.any(&|i| matches!(i, Init::Index(_)));
    let h = hash(name);
    let unit = |x: u32| (f64::from(x) + 0.5) / 4_294_967_296.0;
    let mut index = vec![0; shape.len()];
    for (i, chunk) in out.chunks_mut(16).enumerate() {
        let draw = |kind: u32| {
            philox([seed, h as u32], [i as u32, (i >> 32) as u32, (h >> 32) as u32, kind]).map(unit)
        };
        let (mut normals, mut uniforms) = ([0.0; 4], [0.0; 4]);
        if normal {
            let u = draw(0);
            let (a, b) = (box_muller(u[0], u[1]), box_muller(u[2], u[3]));
            normals = [a[0], a[1], b[0], b[1]];
        }
        if uniform {
            uniforms = draw(1);
        }
        for (n, c) in chunk.chunks_exact_mut(4).enumerate() {
            if indexed {
                let mut rest = (4 * i + n) as u64;
                for (at, size) in index.iter_mut().zip(shape).rev() {
                    *at = rest % size;
                    rest /= size;
                }
            }
            let e = Element { normal: normals[n], uniform: uniforms[n], index: &index };
            c.copy_from_slice(&(init.value(&e) as f32).to_le_bytes());
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
        fill(&mut bytes, "w", &"0.02 * normal".parse().unwrap(), &[40_000], 1);
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

    /// The values that earlier versions gave: files that were started with them go on.
    #[test]
    fn start_values_are_the_same_as_ever() {
        let mut bytes = vec![0; 4 * 6];
        let start = |bytes: &mut [u8], init: &str| {
            fill(bytes, "a.weight", &init.parse().unwrap(), &[2, 3], 1234);
            let words = bytes.chunks_exact(4);
            words.map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect::<Vec<_>>()
        };
        let normals =
            [0x3d0b_bfac, 0xbcf9_b917, 0xbd18_4ef9, 0x3ce6_ba04, 0xbbb7_5622, 0xbbe2_b5df];
        assert_eq!(start(&mut bytes, "0.02 * normal"), normals);
        assert_eq!(start(&mut bytes, "1"), [1f32.to_bits(); 6]);
        assert_eq!(start(&mut bytes, "0"), [0; 6]);
        let values = [0f32, 1.0, 2.0, 10.0, 11.0, 12.0].map(f32::to_bits);
        assert_eq!(start(&mut bytes, "10 * index(0) + index(1)"), values);
    }

    /// Both forms of Xavier's values have the variance 2 / (rows + columns), here of 150 × 50.
    #[test]
    fn xavier_values_have_their_variance() {
        for (init, most) in [
            ("sqrt(2.0 / (150.0 + 50.0)) * normal", f64::INFINITY),
            ("sqrt(6.0 / (150.0 + 50.0)) * (2.0 * uniform - 1.0)", 0.03f64.sqrt()),
        ] {
            let mut bytes = vec![0; 4 * 7500];
            fill(&mut bytes, "w", &init.parse().unwrap(), &[150, 50], 1);
            let floats = bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap()));
            let x: Vec<f64> = floats.map(f64::from).collect();
            let variance = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            assert!((variance / 0.01 - 1.0).abs() < 0.06, "{init}: {variance}");
            assert!(x.iter().all(|x| x.abs() <= most + 1e-9), "{init}");
        }
    }

    #[test]
    fn uniform_values_are_between_0_and_1_and_not_those_of_normal_ones() {
        let mut bytes = vec![0; 4 * 40_000];
        fill(&mut bytes, "w", &"uniform".parse().unwrap(), &[40_000], 1);
        let floats = bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap()));
        let x: Vec<f64> = floats.map(f64::from).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| (v - 0.5).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(x.iter().all(|x| (0.0..=1.0).contains(x)));
        assert!((mean - 0.5).abs() < 0.01 && (variance * 12.0 - 1.0).abs() < 0.02);
    }
}
