//! Matrix instructions: which lane's register holds which element. From the PTX ISA, "Matrix Fragments for mma.m16n8k16"
//! and its neighbours, and "ldmatrix". With l the lane, g = l / 4 and t = l % 4.

use half::{bf16, f16};

use crate::instruction::Factor;
use crate::lanes::{Narrow, WIDTH};

/// Rows of A and of D.
const M: usize = 16;
/// Columns of B and of D.
const N: usize = 8;

/// Row and column in A of part `part` of register `register` of lane `lane`.
fn place_in_a(factor: Factor, lane: usize, register: usize, part: usize) -> (usize, usize) {
    let (g, t) = (lane / 4, lane % 4);
    let row = g + 8 * (register & 1);
    match factor {
        Factor::Tf32 => (row, t + 4 * (register >> 1)),
        _ => (row, 2 * t + part + 8 * (register >> 1)),
    }
}

/// Row and column in B.
fn place_in_b(factor: Factor, lane: usize, register: usize, part: usize) -> (usize, usize) {
    let (g, t) = (lane / 4, lane % 4);
    match factor {
        Factor::Tf32 => (t + 4 * register, g),
        _ => (2 * t + part + 8 * register, g),
    }
}

/// Row and column in C and in D.
fn place_in_d(lane: usize, register: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register >> 1), 2 * (lane % 4) + (register & 1))
}

/// The numbers that a register holds.
fn numbers(factor: Factor, register: u32) -> [f32; 2] {
    let halves = [register as u16, (register >> 16) as u16];
    match factor {
        Factor::Bf16 => halves.map(|h| bf16::from_bits(h).to_f32()),
        Factor::F16 => halves.map(|h| f16::from_bits(h).to_f32()),
        // The unit reads the upper 19 bits.
        Factor::Tf32 => [f32::from_bits(register & 0xffff_e000), 0.0],
    }
}

/// The registers of D, A · B + C. Multiplications are exact; each sum is made in f64 and rounded once, where a card's order
/// and precision are its own: they differ in the last digits of f32.
pub fn mma(factor: Factor, a: &[&Narrow], b: &[&Narrow], c: [&Narrow; 4]) -> [Narrow; 4] {
    let parts = if factor == Factor::Tf32 { 1 } else { 2 };
    // The inner dim: what the registers of B hold, over its columns.
    let k = b.len() * parts * WIDTH / N;
    let (mut left, mut right) = (vec![0f64; M * k], vec![0f64; k * N]);
    for lane in 0..WIDTH {
        for part in 0..parts {
            for (r, a) in a.iter().enumerate() {
                let (row, column) = place_in_a(factor, lane, r, part);
                left[row * k + column] = f64::from(numbers(factor, a[lane])[part]);
            }
            for (r, b) in b.iter().enumerate() {
                let (row, column) = place_in_b(factor, lane, r, part);
                right[column * k + row] = f64::from(numbers(factor, b[lane])[part]);
            }
        }
    }
    let mut d = [[0; WIDTH]; 4];
    for lane in 0..WIDTH {
        for (r, d) in d.iter_mut().enumerate() {
            let (row, column) = place_in_d(lane, r);
            let (x, y) = (&left[row * k..(row + 1) * k], &right[column * k..(column + 1) * k]);
            let sum: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
            d[lane] = ((sum + f64::from(f32::from_bits(c[r][lane]))) as f32).to_bits();
        }
    }
    d
}

/// Multiply-adds of an instruction whose B has so many registers.
pub fn multiply_adds(factor: Factor, b: usize) -> u64 {
    let parts = if factor == Factor::Tf32 { 1 } else { 2 };
    (M * N * (b * parts * WIDTH / N)) as u64
}

/// The register of each lane for one 8×8 matrix of 16-bit elements, from its rows.
pub fn matrix_of_rows(rows: &[[u16; 8]; 8], transposed: bool) -> Narrow {
    std::array::from_fn(|lane| {
        let (g, t) = (lane / 4, lane % 4);
        let at = |i: usize| if transposed { rows[2 * t + i][g] } else { rows[g][2 * t + i] };
        u32::from(at(1)) << 16 | u32::from(at(0))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Each element of each fragment is held once.
    #[test]
    fn fragments_are_bijective() {
        for (factor, a, b, k) in [
            (Factor::Bf16, 4, 2, 16),
            (Factor::F16, 2, 1, 8),
            (Factor::Tf32, 4, 2, 8),
            (Factor::Tf32, 2, 1, 4),
        ] {
            let parts = if factor == Factor::Tf32 { 1 } else { 2 };
            let all = |registers: usize,
                       parts: usize,
                       f: &dyn Fn(usize, usize, usize) -> (usize, usize)| {
                let mut seen = BTreeSet::new();
                for (lane, r, p) in (0..WIDTH).flat_map(|l| {
                    (0..registers).flat_map(move |r| (0..parts).map(move |p| (l, r, p)))
                }) {
                    assert!(seen.insert(f(lane, r, p)));
                }
                seen
            };
            let grid = |rows: usize, columns: usize| -> BTreeSet<(usize, usize)> {
                (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))).collect()
            };
            assert_eq!(all(a, parts, &|l, r, p| place_in_a(factor, l, r, p)), grid(M, k));
            assert_eq!(all(b, parts, &|l, r, p| place_in_b(factor, l, r, p)), grid(k, N));
            assert_eq!(all(4, 1, &|l, r, _| place_in_d(l, r)), grid(M, N));
        }
    }
}
