//! What kernels are shaped by: vector length, caches and cores.

use neoxc_ir::target::Target;

/// What multiplies bfloat16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bf16 {
    /// f32 multiply-adds on widened operands.
    Widen,
    /// `vdpbf16ps`.
    Dot,
    /// AMX tile registers.
    Tiles,
}

/// One core of a target, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// f32 lanes of a vector register.
    pub lanes: usize,
    /// Bytes of first-level data cache.
    pub l1: usize,
    /// Bytes of second-level cache.
    pub l2: usize,
    /// Cores that work together. Only how work is cut depends on it, never a result.
    pub cores: usize,
    /// What multiplies bfloat16.
    pub bf16: Bf16,
}

impl Cpu {
    /// The machine that compiles for the native target; for others, what such machines have at least.
    pub fn of(target: Target) -> Cpu {
        let lanes = super::lanes(target);
        let (l2, cores) = if lanes == 16 { (1 << 20, 8) } else { (512 << 10, 8) };
        let known = Cpu { lanes, l1: 32 << 10, l2, cores, bf16: Bf16::Widen };
        if target != Target::X86Native {
            return known;
        }
        Cpu {
            lanes,
            l1: cache_bytes(1).unwrap_or(known.l1),
            l2: cache_bytes(2).unwrap_or(known.l2),
            cores: std::thread::available_parallelism().map_or(known.cores, |n| n.get()),
            bf16: native_bf16(),
        }
    }
}

/// What this machine has: AMX only where the system saves its registers.
pub(super) fn native_bf16() -> Bf16 {
    let (name, features) = super::cpu(Target::X86Native);
    let has = |name| features.split(',').any(|f| f == name);
    if has("+amx-tile") && has("+amx-bf16") && has("+avx512bf16") {
        Bf16::Tiles
    } else if has("+avx512bf16") && name.starts_with("znver") {
        // Intel's cores take two cycles for a dot product: half of what f32 multiply-adds reach.
        Bf16::Dot
    } else {
        Bf16::Widen
    }
}

/// Size of this machine's data cache of a level, if the system tells.
fn cache_bytes(level: u32) -> Option<usize> {
    (0..8).find_map(|i| {
        let read = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{i}/{name}");
            Some(std::fs::read_to_string(path).ok()?.trim().to_string())
        };
        if read("level")?.parse() != Ok(level) || read("type")? == "Instruction" {
            return None;
        }
        parse_size(&read("size")?)
    })
}

/// `48K`, `2M`.
fn parse_size(text: &str) -> Option<usize> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let factor = match unit {
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(factor).filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_system_writes_them() {
        assert_eq!(parse_size("48K"), Some(48 << 10));
        assert_eq!(parse_size("2M"), Some(2 << 20));
        for wrong in ["", "K", "48", "0K", "48G", "-1K", "99999999999999999999K"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_target_has_caches_and_cores() {
        for target in [Target::X86Native, Target::X86V3, Target::X86V4] {
            let cpu = Cpu::of(target);
            assert!(cpu.l1 >= 16 << 10 && cpu.l2 >= 128 << 10 && cpu.cores >= 1, "{cpu:?}");
        }
    }
}
