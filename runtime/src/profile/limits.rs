//! What this machine can do at most, measured: multiply-adds in registers, and copies through memory.

use std::hint::black_box;
use std::time::Instant;

use serde::Serialize;

/// Rates of some threads together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    /// f32 operations per second; a multiply-add is two.
    pub f32_flops: f64,
    /// Bytes per second, read and written alike.
    pub memory_bytes: f64,
}

/// Each measurement is repeated, and the best counts: whatever else the machine does only slows it down.
const ROUNDS: usize = 5;
/// Multiply-adds of a round on each accumulator: about ten milliseconds.
const STEPS: usize = 2_000_000;
/// Bytes that all threads together copy in a round.
const COPIED: usize = 256 << 20;

impl Limits {
    /// Measures with `threads` threads at once.
    pub fn measure(threads: usize) -> Limits {
        let flops = |_| {
            let done = at_once(threads, |_| multiply_adds(STEPS));
            (done.0.iter().sum::<f64>()) / done.1
        };
        let each = COPIED / threads / 4;
        let mut buffers: Vec<_> =
            (0..threads).map(|_| (vec![1f32; each], vec![0f32; each])).collect();
        let mut bytes = 0f64;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            std::thread::scope(|s| {
                for (from, to) in &mut buffers {
                    s.spawn(|| black_box(&mut *to).copy_from_slice(black_box(from)));
                }
            });
            let moved = (2 * 4 * each * threads) as f64;
            bytes = bytes.max(moved / start.elapsed().as_secs_f64());
        }
        Limits { f32_flops: (0..ROUNDS).map(flops).fold(0.0, f64::max), memory_bytes: bytes }
    }

    /// Seconds that `flops` operations and `bytes` moved take at least.
    pub fn seconds(&self, flops: f64, bytes: f64) -> f64 {
        (flops / self.f32_flops).max(bytes / self.memory_bytes)
    }

    /// Of a part of the threads.
    pub fn part(&self, part: f64) -> Limits {
        Limits { f32_flops: self.f32_flops * part, memory_bytes: self.memory_bytes * part }
    }
}

/// What each thread returned, and the seconds until all were done.
fn at_once(threads: usize, work: impl Fn(usize) -> f64 + Sync) -> (Vec<f64>, f64) {
    let start = Instant::now();
    let done = std::thread::scope(|s| {
        let running: Vec<_> = (0..threads)
            .map(|n| {
                s.spawn({
                    let work = &work;
                    move || work(n)
                })
            })
            .collect();
        running.into_iter().map(|r| r.join().unwrap_or(0.0)).collect()
    });
    (done, start.elapsed().as_secs_f64())
}

/// Multiply-adds on registers with the widest vectors there are; gives the number of operations.
fn multiply_adds(steps: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F.
            return unsafe { x86::avx512(steps) };
        }
        if std::arch::is_x86_feature_detected!("fma") && std::arch::is_x86_feature_detected!("avx2")
        {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { x86::avx2(steps) };
        }
    }
    let mut sums = [1f32; 8];
    let (a, b) = (black_box(0.999f32), black_box(0.001f32));
    for _ in 0..steps {
        for x in &mut sums {
            *x = *x * a + b;
        }
    }
    black_box(sums);
    (2 * steps * sums.len()) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Enough accumulators to hide the latency of a multiply-add on two ports.
    const SUMS: usize = 12;

    #[target_feature(enable = "avx512f")]
    pub fn avx512(steps: usize) -> f64 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut sums = [_mm512_set1_ps(black_box(1.0)); SUMS];
        for _ in 0..steps {
            for x in &mut sums {
                *x = _mm512_fmadd_ps(*x, a, b);
            }
        }
        black_box(sums);
        (2 * 16 * SUMS * steps) as f64
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(steps: usize) -> f64 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut sums = [_mm256_set1_ps(black_box(1.0)); SUMS];
        for _ in 0..steps {
            for x in &mut sums {
                *x = _mm256_fmadd_ps(*x, a, b);
            }
        }
        black_box(sums);
        (2 * 8 * SUMS * steps) as f64
    }
}
