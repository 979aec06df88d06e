//! Targets: what a kernel can be compiled for, with the rates the cost model needs.
//!
//! Rates are per *device* (all cores of the machine, or one accelerator) and are the published
//! peaks; a roofline only needs their ratios to be right.

use std::fmt;
use std::str::FromStr;

/// A code generation target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// The machine that compiles.
    X86Native,
    /// AVX-512 (x86-64-v4).
    X86V4,
    /// AVX2 and FMA (x86-64-v3).
    X86V3,
    /// NVIDIA Ampere (A100).
    Sm80,
    /// NVIDIA Hopper (H100, H200).
    Sm90a,
    /// AMD CDNA2 (MI250X).
    Gfx90a,
    /// AMD CDNA3 (MI300X).
    Gfx942,
}

/// What runs a target's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A shared object called by the runtime's threads.
    X86,
    /// PTX.
    Nvidia,
    /// A code object (HSACO).
    Amd,
}

/// Peak rates of a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Operations per second, a multiply-add of f32 counted as two; on a cluster, of the factors' dtype.
    pub flops: f64,
    /// Main memory, bytes per second.
    pub memory_bytes: f64,
    /// Fixed cost of starting a kernel, seconds.
    pub launch_seconds: f64,
}

impl Target {
    /// All targets, in the order `--help` lists them.
    pub const ALL: [Target; 7] = [
        Target::X86Native,
        Target::X86V4,
        Target::X86V3,
        Target::Sm80,
        Target::Sm90a,
        Target::Gfx90a,
        Target::Gfx942,
    ];

    /// The name on the command line and in plans.
    pub fn name(self) -> &'static str {
        match self {
            Target::X86Native => "x86-64-native",
            Target::X86V4 => "x86-64-v4",
            Target::X86V3 => "x86-64-v3",
            Target::Sm80 => "sm_80",
            Target::Sm90a => "sm_90a",
            Target::Gfx90a => "gfx90a",
            Target::Gfx942 => "gfx942",
        }
    }

    /// What runs this target's kernels.
    pub fn family(self) -> Family {
        match self {
            Target::X86Native | Target::X86V4 | Target::X86V3 => Family::X86,
            Target::Sm80 | Target::Sm90a => Family::Nvidia,
            Target::Gfx90a | Target::Gfx942 => Family::Amd,
        }
    }

    /// Peak rates. GPUs: vendors' data sheets (A100-80G, H100 SXM, MI250X per die, MI300X), f32
    /// vector rate. CPUs: one server core pair with two 512-bit (or 256-bit) FMA units near 2.6 GHz.
    pub const fn rates(self) -> Rates {
        let (flops, memory_bytes, launch_seconds) = match self {
            Target::X86Native | Target::X86V4 => (332e9, 40e9, 3e-6),
            Target::X86V3 => (166e9, 40e9, 3e-6),
            Target::Sm80 => (19.5e12, 2.04e12, 4e-6),
            Target::Sm90a => (66.9e12, 3.35e12, 4e-6),
            Target::Gfx90a => (23.9e12, 1.6e12, 6e-6),
            Target::Gfx942 => (163.4e12, 5.3e12, 6e-6),
        };
        Rates { flops, memory_bytes, launch_seconds }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Target::ALL.into_iter().find(|t| t.name() == s).ok_or_else(|| {
            let all: Vec<_> = Target::ALL.iter().map(|t| t.name()).collect();
            format!("no target `{s}`; targets are {}", all.join(", "))
        })
    }
}
