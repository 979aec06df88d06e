//! The masks of dropout are independent draws, as far as statistics can tell, along everything that names an
//! element; and they depend on nothing else.
#![allow(clippy::unwrap_used)] // helper functions of tests

use neoxc_ir::eval::{Tensor, run_function};
use neoxc_ir::ops::dropout::Mask;
use neoxc_ir::{Attr, Attrs, Builder, DType, Dim, Function, Module, OpKind, TensorType};

fn attrs(rate: f64, seed: i64, site: i64) -> Attrs {
    Attrs::new()
        .with("rate", Attr::Float(rate))
        .with("seed", Attr::Int(seed))
        .with("site", Attr::Int(site))
}

/// Seed, site, place, layer, head, column.
type Name = [u32; 6];

fn kept(rate: f64, [seed, site, place, layer, head, column]: Name) -> bool {
    let m = Mask::new(rate, u64::from(seed), site).unwrap();
    let state = [place, layer, head].into_iter().fold(m.start, Mask::absorb);
    m.keeps(state, column)
}

const NAMES: [&str; 6] = ["seed", "site", "place", "layer", "head", "column"];

/// A grid of `n` names around a start that is far from zero in all numbers.
fn grid(n: u32) -> impl Iterator<Item = Name> {
    (0..n).map(|i| [1234, 1, 70_000 + i / 512, 5 + i / 64 % 8, 3 + i / 4096 % 4, 100 + i % 64])
}

/// Standard deviations between a count and what `n` draws of probability `p` give.
fn sigmas(count: f64, n: f64, p: f64) -> f64 {
    (count - n * p).abs() / (n * p * (1.0 - p)).sqrt()
}

#[test]
fn the_mean_is_the_rate() {
    let n = 1 << 18;
    for rate in [0.0, 1e-3, 0.1, 0.25, 0.5, 0.9] {
        let count = grid(n).filter(|name| kept(rate, *name)).count() as f64;
        match rate {
            0.0 => assert_eq!(count, f64::from(n)),
            _ => assert!(sigmas(count, f64::from(n), 1.0 - rate) < 4.0, "{rate}: {count} of {n}"),
        }
    }
}

/// Both kept, for elements that differ in one number by one, by a power of two, or in a high bit.
#[test]
fn neighbours_along_everything_are_independent() {
    let n = 1 << 15;
    for rate in [0.1, 0.5] {
        for (which, name) in NAMES.iter().enumerate() {
            for step in [1u32, 2, 3, 8, 64, 1 << 15, 1 << 16, 1 << 31] {
                let pairs = grid(n).filter(|a| {
                    let mut b = *a;
                    b[which] = b[which].wrapping_add(step);
                    kept(rate, *a) && kept(rate, b)
                });
                let (p, count) = ((1.0 - rate) * (1.0 - rate), pairs.count() as f64);
                // The grid repeats no pair's first element, but a short step meets the same element in
                // two pairs; that widens the spread by at most a factor of two.
                let far = sigmas(count, f64::from(n), p);
                assert!(far < 7.0, "{name} + {step}, rate {rate}: {count} of {n}, {far} sigmas");
            }
        }
    }
}

/// Every pattern of eight neighbours is as frequent as every other one: chi-squared with 255 degrees.
#[test]
fn patterns_of_eight_are_equally_frequent() {
    for which in [2usize, 3, 4, 5] {
        let mut counts = [0f64; 256];
        let n = 1 << 16;
        for i in 0..n {
            let pattern = (0..8).fold(0, |bits, j| {
                let mut name: Name = [7, 2, 1 + i % 97, i / 97 % 31, i / 3007, 9 * i];
                name[which] = name[which].wrapping_mul(8).wrapping_add(j);
                bits * 2 + usize::from(kept(0.5, name))
            });
            counts[pattern] += 1.0;
        }
        let want = f64::from(n) / 256.0;
        let chi: f64 = counts.iter().map(|c| (c - want) * (c - want) / want).sum();
        // Mean 255, standard deviation 22.6.
        assert!((150.0..370.0).contains(&chi), "{}: {chi}", NAMES[which]);
    }
}

/// Sums over rows of columns, and over tokens of one column, spread as binomials do.
#[test]
fn sums_spread_as_binomials() {
    let (rows, width, rate) = (2000u32, 512u32, 0.1);
    for along in [5, 2] {
        let sums: Vec<f64> = (0..rows)
            .map(|r| {
                let kept = |c: &u32| {
                    let mut name: Name = [99, 0, r, 4, 0, r];
                    name[along] = *c;
                    kept(rate, name)
                };
                (0..width).filter(kept).count() as f64
            })
            .collect();
        let mean = sums.iter().sum::<f64>() / f64::from(rows);
        let variance =
            sums.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / f64::from(rows - 1);
        let want = f64::from(width) * rate * (1.0 - rate);
        // The variance of 2000 draws has a relative standard deviation of 3.2 %.
        assert!((variance / want - 1.0).abs() < 0.13, "{}: {variance} {want}", NAMES[along]);
    }
}

#[test]
fn no_two_rows_share_a_mask() {
    let m = Mask::new(0.5, 1, 1).unwrap();
    let mut seen = std::collections::HashSet::new();
    for place in 0..300u32 {
        for layer in 0..60u32 {
            let state = [place, layer].into_iter().fold(m.start, Mask::absorb);
            let bits = (0..64).fold(0u64, |b, c| b << 1 | u64::from(m.keeps(state, c)));
            assert!(seen.insert(bits), "place {place}, layer {layer}");
        }
    }
}

/// The op on a part of a tensor gives the part of what it gives on the whole.
#[test]
fn a_part_has_its_part_of_the_mask() {
    let run = |places: &[f64], columns: &[f64]| -> Vec<f64> {
        let mut f = Function::new("f");
        let dims = [Dim::new("seq", places.len()), Dim::new("embed", columns.len())];
        let ids = |dims: &[Dim]| TensorType::new(DType::I32, dims.to_vec());
        let types = [
            TensorType::new(DType::F32, dims.to_vec()),
            ids(&dims[..1]),
            ids(&[]),
            ids(&dims[1..]),
        ];
        let p: Vec<_> = types.iter().map(|ty| f.add_param("p", ty.clone(), Attrs::new())).collect();
        f.results = vec![Builder::new(&mut f).one(OpKind::Dropout, &p, attrs(0.5, 3, 1)).unwrap()];
        let x = [
            Tensor::fill(types[0].clone(), 3.0),
            Tensor::new(types[1].clone(), places.to_vec()),
            Tensor::fill(types[2].clone(), 6.0),
            Tensor::new(types[3].clone(), columns.to_vec()),
        ];
        run_function(&Module::new(), &f, &x).unwrap()[0].data.clone()
    };
    let numbers = |r: std::ops::Range<i64>| r.map(|i| i as f64).collect::<Vec<_>>();
    let whole = run(&numbers(-3..7), &numbers(0..13));
    assert!(whole.iter().all(|x| *x == 0.0 || *x == 6.0));
    assert!(whole.contains(&0.0) && whole.contains(&6.0));
    let part = run(&numbers(-3..7)[4..9], &numbers(0..13)[5..]);
    for (i, row) in part.chunks(8).enumerate() {
        assert_eq!(row, &whole[(i + 4) * 13 + 5..(i + 5) * 13]);
    }
}
