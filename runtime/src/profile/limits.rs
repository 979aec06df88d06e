//! What this machine can do at most, measured: multiply-adds in registers, reads of memory, and
//! changes of it in place.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use serde::Serialize;

use crate::RuntimeError;
use crate::device::Segment;

/// Rates of some threads together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    /// f32 operations per second; a multiply-add is two.
    pub f32_flops: f64,
    /// The same of matmuls of bfloat16: in AMX tile registers or by dot products of pairs, or, where there is
    /// neither, in f32.
    pub bf16_flops: f64,
    /// Bytes per second, read and written alike, of a sweep that changes memory in place.
    pub memory_bytes: f64,
    /// Bytes per second that are only read.
    pub read_bytes: f64,
}

/// Each measurement is repeated, and the best counts: whatever else the machine does only slows it down.
const ROUNDS: usize = 5;
/// Multiply-adds of a round on each accumulator: about ten milliseconds.
const STEPS: usize = 2_000_000;
/// Bytes that all threads together read, or change, in a round.
const MOVED: usize = 512 << 20;

/// Cache lines from the one that is read to the one that is asked for: a tenth faster than what hardware asks for.
const AHEAD: usize = 16;

/// Has a cache line brought, if there is one.
fn ask_for(line: Option<&[[u8; 8]; 8]>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(line) = line {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the address is that of a reference.
        unsafe { _mm_prefetch(line.as_ptr().cast(), _MM_HINT_T0) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Matmuls that a machine can do in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multiplier {
    /// f32 multiply-adds.
    F32,
    /// Dot products of pairs of bfloat16 (`vdpbf16ps`).
    Pairs,
    /// AMX tile registers of bfloat16.
    Tiles,
}

/// Multiply-adds in registers of `threads` threads at once, about ten milliseconds: how many operations these were; none
/// where the machine lacks it.
pub fn multiply(threads: usize, m: Multiplier) -> Option<f64> {
    let work = m.work()?;
    Some(at_once(threads, |_| work(STEPS)).0.iter().sum())
}

impl Multiplier {
    /// What does so many of them, if this machine has it, and gives the number of operations.
    fn work(self) -> Option<fn(usize) -> f64> {
        match self {
            Multiplier::F32 => Some(multiply_adds),
            Multiplier::Pairs => pairs(),
            Multiplier::Tiles => tiles(),
        }
    }
}

impl Limits {
    /// Measures with `threads` threads at once.
    pub fn measure(threads: usize) -> Result<Limits, RuntimeError> {
        let best = |m: Multiplier| {
            let flops = |work: fn(usize) -> f64| {
                let (done, seconds) = at_once(threads, |_| work(STEPS));
                done.iter().sum::<f64>() / seconds
            };
            (0..ROUNDS).filter_map(|_| m.work().map(flops)).fold(0.0, f64::max)
        };
        // In pages as a plan's segments have them.
        let each = MOVED / threads;
        let memory = Segment::new((each * threads) as u64)?;
        // SAFETY: nobody else knows this memory, and the parts do not overlap.
        let parts = |n: usize| unsafe { memory.slice_mut((n * each) as u64, each) };
        (0..threads).for_each(|n| parts(n).fill(1));
        let rate = |bytes: usize, work: &(dyn Fn(usize) -> f64 + Sync)| {
            let once = |_| (bytes * threads) as f64 / at_once(threads, work).1;
            (0..ROUNDS).map(once).fold(0.0, f64::max)
        };
        // In place: a copy to elsewhere reads what it overwrites as well, which no kernel has to.
        let memory_bytes = rate(2 * each, &|n| {
            for word in parts(n).as_chunks_mut::<8>().0 {
                *word = u64::from_le_bytes(*word).wrapping_add(1).to_le_bytes();
            }
            0.0
        });
        let read_bytes = rate(each, &|n| {
            let (words, _) = parts(n).as_chunks::<8>();
            let (lines, _) = words.as_chunks::<8>();
            let mut sums = [0u64; 8];
            for (i, line) in lines.iter().enumerate() {
                ask_for(lines.get(i + AHEAD));
                for (sum, word) in sums.iter_mut().zip(line) {
                    *sum = sum.wrapping_add(u64::from_le_bytes(*word));
                }
            }
            black_box(sums);
            0.0
        });
        let f32_flops = best(Multiplier::F32);
        let bf16_flops = f32_flops.max(best(Multiplier::Pairs)).max(best(Multiplier::Tiles));
        Ok(Limits { f32_flops, bf16_flops, memory_bytes, read_bytes })
    }

    /// The least seconds of `flops` operations (of a matmul of `bf16`, or f32) and `bytes` moved.
    pub fn seconds(&self, flops: f64, bf16: bool, bytes: f64) -> f64 {
        let rate = if bf16 { self.bf16_flops } else { self.f32_flops };
        (flops / rate).max(bytes / self.memory_bytes)
    }

    /// Of a part of the threads.
    pub fn part(&self, part: f64) -> Limits {
        Limits {
            f32_flops: self.f32_flops * part,
            bf16_flops: self.bf16_flops * part,
            memory_bytes: self.memory_bytes * part,
            read_bytes: self.read_bytes * part,
        }
    }
}

/// What each thread returned, and the seconds that the slowest took.
fn at_once(threads: usize, work: impl Fn(usize) -> f64 + Sync) -> (Vec<f64>, f64) {
    // A new thread may begin on its parent's core; one that is woken is given an idle one.
    let all = Barrier::new(threads);
    let once = |n| {
        all.wait();
        let start = Instant::now();
        let done = work(n);
        (done, start.elapsed().as_secs_f64())
    };
    let once = &once;
    let ended: Vec<(f64, f64)> = std::thread::scope(|s| {
        let running: Vec<_> = (0..threads).map(|n| s.spawn(move || once(n))).collect();
        running.into_iter().map(|r| r.join().unwrap_or((0.0, 0.0))).collect()
    });
    let longest = ended.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    (ended.into_iter().map(|(done, _)| done).collect(), longest)
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

/// Matmuls of bfloat16 in tile registers, if this machine has them; what it returns gives the number of operations.
fn tiles() -> Option<fn(usize) -> f64> {
    #[cfg(target_arch = "x86_64")]
    if x86::has_tiles() && crate::device::tiles::request().is_ok() {
        // SAFETY: the processor has AMX, and the system has given its registers to this process.
        return Some(|steps| unsafe { x86::tiles(steps / 8) });
    }
    None
}

/// The same by dot products of pairs.
fn pairs() -> Option<fn(usize) -> f64> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the processor has AVX512_BF16.
        return Some(|steps| unsafe { x86::pairs(steps) });
    }
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Whether there are AMX tiles and their matmuls of bfloat16 (CPUID 7, EDX bits 24 and 22).
    pub fn has_tiles() -> bool {
        let most = __cpuid(0).eax;
        most >= 7 && __cpuid_count(7, 0).edx & (1 << 24 | 1 << 22) == 1 << 24 | 1 << 22
    }

    /// Four sums of 16 × 16 in tile registers.
    ///
    /// # Safety
    /// The processor must have AMX and the process its registers.
    pub unsafe fn tiles(steps: usize) -> f64 {
        #[repr(align(64))]
        struct Config([u8; 64]);
        // Palette 1: eight tiles of 16 rows of 64 bytes.
        let mut config = Config([0; 64]);
        config.0[0] = 1;
        for tile in 0..8 {
            (config.0[16 + 2 * tile], config.0[48 + tile]) = (64, 16);
        }
        // SAFETY: the caller's promise; only tile registers and the counter change.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {n}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &config,
                n = inout(reg) steps.max(1) => _,
                options(nostack),
            );
        }
        (4 * 2 * 16 * 16 * 32 * steps.max(1)) as f64
    }

    /// Dot products of pairs.
    #[target_feature(enable = "avx512bf16,avx512f")]
    pub fn pairs(steps: usize) -> f64 {
        let half = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(0.5));
        let mut sums = [_mm512_set1_ps(black_box(1.0)); SUMS];
        for _ in 0..steps {
            for x in &mut sums {
                *x = _mm512_dpbf16_ps(*x, half, half);
            }
        }
        black_box(sums);
        (4 * 16 * SUMS * steps) as f64
    }

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
